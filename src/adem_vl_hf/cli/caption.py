"""``adem-vl caption``: descriptions of images and videos, or answers to a question about them."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..terminal import say
from .arguments import Several, check_there, positive
from .checkpoint import add_checkpoint, check_checkpoint, load, say_what_ships
from .images import open_images

AT_ONCE = 8  # images or videos that are in memory and are answered together
TEXT = "Describe images or videos, or answer a question about them, with a trained adapter."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument("--video", nargs="+", action=Several, default=[], metavar="FILE",
                        help="videos: animated images, folders of frames, and, with PyAV, video files")  # fmt: skip
    parser.add_argument("--frames", type=positive, default=8, help="frames to take from each video (default: 8)")
    add_checkpoint(parser)
    parser.add_argument(
        "--prompt", help='what to continue, e.g. "How many foxes are there?"; default: what it was trained with'
    )
    parser.add_argument("--chat", action="store_true",
                        help="ask --prompt as a turn of a chat, as conversations are trained")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=positive, default=32,
                        help="longest text in tokens (default: 32)")  # fmt: skip
    parser.add_argument("--num-beams", type=positive, default=1,
                        help="beams of the search; 1 takes the most probable word each time (default: 1)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object per image")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: There is nothing to describe, or a path is wrong.
    """
    if args.chat and args.prompt is None:
        raise ValueError("--chat needs --prompt, what the user says")
    if not args.images and not args.video:
        raise ValueError("nothing to describe: name image files, or videos after --video")
    for kind, paths in (("image", args.images), ("video", args.video)):
        for path in paths:
            check_there(f"the {kind}", Path(path))
    check_checkpoint(args)


def run(args: argparse.Namespace) -> None:
    """Print one line per image or video.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..data.media import open_video
    from ..modeling.images import IMAGE_MARK, open_image
    from ..modeling.videos import VIDEO_MARK

    batches = [
        (kind, paths[start : start + AT_ONCE])
        for kind, paths in (("image", args.images), ("video", args.video))
        for start in range(0, len(paths), AT_ONCE)
    ]
    # before the model loads: a damaged file should fail at once; all of them may not fit into memory
    first: list[Any] = []
    for kind, paths in batches:
        if kind == "image":
            opened = open_images("caption", paths, "give it after --video for all of them")
        else:
            opened = [open_video(path, args.frames) for path in paths]
        first = first or opened
        opened = []  # before the next batch is opened
    from ..evaluation.predict import generate_texts  # which imports all that a model needs

    say_what_ships(args)
    model, processor = load(args)
    prompt = processor.default_prompt if args.prompt is None else args.prompt
    for number, (kind, paths) in enumerate(batches):
        if number == 0:
            seen, first = first, []
        else:
            seen = []
            seen = [open_image(path) if kind == "image" else open_video(path, args.frames) for path in paths]
        mark = IMAGE_MARK if kind == "image" else VIDEO_MARK
        asked: Any = [{"role": "user", "content": f"{mark}{prompt}"}] if args.chat else prompt
        texts = generate_texts(
            model,
            processor,
            {f"{kind}s": seen},
            [asked] * len(paths),
            max_new_tokens=args.max_new_tokens,
            num_beams=args.num_beams,
        )
        for path, text in zip(paths, texts, strict=True):
            say(json.dumps({kind: path, "text": text}) if args.json else f"{path}: {' '.join(text.split())}")
