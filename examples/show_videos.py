"""Draw a sheet of OpenMoji videos: one row for each clip, with its frames from left to right and its texts below.

python examples/show_videos.py sheet.png --split test --kind order --number 12
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from adem_vl_hf.data import OpenMojiVideos, Sample
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.data.openmoji.clips import KINDS
from adem_vl_hf.files import replacing

GAP, LINE = 4, 16  # pixels


def sheet(samples: Sequence[Sample]) -> Image.Image:
    """Draw all clips on one image."""
    width = max(len(sample["video"]) * (sample["video"][0].width + GAP) for sample in samples) + GAP
    heights = [sample["video"][0].height + LINE + GAP for sample in samples]
    page = Image.new("RGB", (width, sum(heights) + GAP), "white")
    draw, top = ImageDraw.Draw(page), GAP
    for sample, height in zip(samples, heights, strict=True):
        for column, frame in enumerate(sample["video"]):
            page.paste(frame, (GAP + column * (frame.width + GAP), top))
        draw.text((GAP, top + height - LINE - GAP), f"{sample['prompt']}{sample['answer']}", fill="black")
        top += height
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the PNG file to write")
    parser.add_argument("--split", default="train", choices=("train", "test"))
    parser.add_argument("--kind", default="caption", choices=KINDS, help="kind of caption or question")
    parser.add_argument("--number", type=int, default=10, help="number of clips")
    parser.add_argument("--frames", type=int, default=8, help="number of frames of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gifs", type=Path, help="a folder to write each clip to as an animated GIF")
    args = parser.parse_args()

    data = OpenMojiVideos(args.split, args.number, args.seed, kinds=(args.kind,), frames=args.frames)
    samples = [data[index] for index in range(len(data))]
    with replacing(args.output) as beside:
        sheet(samples).save(beside, "PNG")
    print(f"{args.output}: {len(samples)} clips of {args.frames} frames")
    for sample in samples if args.gifs else ():
        save_gif(sample["video"], os.path.join(args.gifs, f"{sample['id']}.gif"))


if __name__ == "__main__":
    main()
