"""Train an adapter on short videos, and caption one.

    python examples/video.py --output-dir runs/video --model evlm --steps 600
    python examples/video.py --output-dir runs/video --model evlm --steps 600 --video clip.gif

It trains on OpenMoji videos, which are drawn on demand (see docs/video.md), and continues from its last checkpoint if
it was stopped. Then it captions a video: yours, or a clip of the test set, which it writes into the output folder as a
GIF.
"""

import argparse
from pathlib import Path

from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiVideos
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.data.openmoji.clips import VIDEO_PROMPT
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments

# EVLM: a row has the tokens of every frame, so each frame has 4 media tokens, while each image has 16 in the paper.
SETTINGS = {
    "adem_vl": {"visual_scale": 0.1, "vision_feature_layer": -1, "projector_dim": 512},
    "evlm": {"media_tokens": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--model", choices=SETTINGS, default="evlm")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8, help="number of frames of each video")
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded")
    parser.add_argument("--video", type=Path, help="a GIF, a folder of frames, or with PyAV a video file")
    args = parser.parse_args()

    keep_freed_memory()  # faster on a CPU
    set_seed(0)
    model, processor = build_model(
        args.language_model,
        args.vision_tower,
        args.model,
        frame_embeddings=args.frames,
        **fastest_setting(),
        **SETTINGS[args.model],
    )
    dataset = OpenMojiVideos("train", args.steps * args.batch_size, frames=args.frames)
    arguments = training_arguments(
        args.output_dir, len(dataset), args.batch_size, max_steps=args.steps, learning_rate=4e-3, save_steps=50
    )
    facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    print(f"{facts['trained_numbers']:,} parameters trained in {facts['seconds']} s, saved in {args.output_dir}")

    video, truth = args.video, ""
    if video is None:
        sample = OpenMojiVideos("test", 1, kinds=("caption",), frames=args.frames)[0]
        video, truth = args.output_dir / "clip.gif", f"   truth: {sample['answer'].strip()}"
        save_gif(sample["video"], video)
    inputs = processor(videos=[video], text=[VIDEO_PROMPT], num_frames=args.frames).to(model.device)
    ids = model.eval().generate(**inputs, max_new_tokens=24, do_sample=False)
    said = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"{video}: {' '.join(said.split())}{truth}")


if __name__ == "__main__":
    main()
