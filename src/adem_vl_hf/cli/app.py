"""``adem-vl app``: a web page on this machine, with a chat about images and where the words of an answer come from."""

import argparse
from importlib.util import find_spec

from .arguments import check_address, port, positive
from .checkpoint import ONLY_PICTOGRAMS, add_checkpoint, check_checkpoint, load, say_what_ships

TEXT = "Serve a web page on this machine: chat about images and videos, and see where the words come from."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    add_checkpoint(parser)
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to listen at (default: 127.0.0.1, this machine alone); with another address, "
                             "everybody who can reach it can use the page")  # fmt: skip
    parser.add_argument("--port", type=port, default=7860, help="default: %(default)s")
    parser.add_argument("--max-new-tokens", type=positive, default=128,
                        help="longest answer, in tokens (default: %(default)s)")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: Gradio is not installed, the address cannot be listened on, or a path is wrong.
    """
    if find_spec("gradio") is None:
        raise ValueError("the page needs the package gradio: pip install 'adem-vl-hf[app]'")
    check_address(args.host, args.port)
    check_checkpoint(args)


def run(args: argparse.Namespace) -> None:
    """Serve the page until the command is interrupted.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..app.answers import Answers
    from ..app.page import serve

    say_what_ships(args)
    model, processor = load(args, with_gradients=True)
    title = args.checkpoint or "The checkpoint of adem-vl-hf"
    note = None if args.checkpoint else ONLY_PICTOGRAMS
    answers = Answers(model, processor, args.max_new_tokens)
    page = serve(answers, title, args.host, args.port, note, wait=False)
    print(f"the page is at http://{args.host}:{args.port}; Ctrl-C ends it", flush=True)
    page.block_thread()
