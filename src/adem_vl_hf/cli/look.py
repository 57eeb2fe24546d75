"""``adem-vl look``: a page that shows where in an image the words of an answer come from."""

import argparse
from pathlib import Path
from typing import Any

from ..terminal import say
from .arguments import check_output, check_there, positive
from .checkpoint import add_checkpoint, check_checkpoint, load, say_what_ships
from .images import open_images

TEXT = "Write a page that shows, word by word, where in an image the answer of a trained adapter comes from."
PAGES = (".html", ".htm")  # what a page may replace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("images", nargs="+", help="image files; one prompt covers all of them")
    add_checkpoint(parser)
    parser.add_argument("--prompt", help="what to continue; default: what it was trained with")
    parser.add_argument("--chat", action="store_true",
                        help="ask --prompt as a turn of a chat, as conversations are trained")  # fmt: skip
    parser.add_argument("--answer", help="the answer to look at; default: the one that the model gives")
    parser.add_argument("--max-new-tokens", type=positive, default=32,
                        help="longest answer in tokens (default: 32)")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=Path("look.html"), help="the page (default: look.html)")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A path is wrong, or flags do not go together.
    """
    if args.chat and args.prompt is None:
        raise ValueError("--chat needs --prompt, what the user says")
    for path in args.images:
        check_there("the image", Path(path))
    if args.output.is_dir():
        raise ValueError(
            f"--output {args.output} is a folder; name the page in it, such as {args.output / 'look.html'}"
        )
    check_output("--output", args.output)
    is_input = any(args.output.exists() and args.output.samefile(path) for path in args.images)
    if is_input or (args.output.exists() and args.output.suffix.lower() not in PAGES):
        raise ValueError(f"--output {args.output} is there already and no page; name a file that ends with .html")
    check_checkpoint(args)


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..inspection.look import look
    from ..inspection.look_page import write_look_page
    from ..modeling.images import IMAGE_MARK

    # before the model loads: a damaged file should fail at once
    images = open_images("look", args.images, "save another one as PNG to look at it")
    say_what_ships(args)
    model, processor = load(args, with_gradients=True)
    prompt = processor.default_prompt if args.prompt is None else args.prompt
    asked: Any = prompt if not args.chat else [{"role": "user", "content": f"{IMAGE_MARK * len(images)}{prompt}"}]
    found = look(model, processor, images, asked, args.answer, args.max_new_tokens)
    page = write_look_page(args.output, found, title=", ".join(Path(path).name for path in args.images))
    say(found.answer)
    say(f"{page} shows where its words come from")
