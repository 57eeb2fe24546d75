"""``adem-vl serve``: a checkpoint behind an address that OpenAI's clients can ask."""

import argparse
from contextlib import suppress
from importlib.util import find_spec

from .arguments import check_address, port
from .checkpoint import add_checkpoint, check_checkpoint, load, say_what_ships

TEXT = "Serve a trained adapter with OpenAI's chat completions API, on the server of Transformers."
NEEDED = ("fastapi", "uvicorn", "openai")
SHIPPED = "adem-vl-openmoji"  # how requests name the adapter that ships with the package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    add_checkpoint(parser)
    address = "address to listen on (default: %(default)s, for this machine alone; there is no login)"
    parser.add_argument("--host", default="127.0.0.1", help=address)
    parser.add_argument("--port", type=port, default=8000, help="0 means any free one (default: %(default)s)")
    parser.add_argument("--plain", action="store_true",
                        help="the last message of the user is the prompt as it stands, as captions and questions "
                        "are trained (default: if the checkpoint names its prompt; otherwise a chat)")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A package is missing, or a path is wrong.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"adem-vl serve needs {', '.join(missing)}: pip install 'adem-vl-hf[serve]'")
    if find_spec("transformers.cli") is None or find_spec("transformers.cli.serving") is None:
        raise ValueError("adem-vl serve needs the server of a newer Transformers: pip install 'transformers>=5.24'")
    check_checkpoint(args)
    check_address(args.host, args.port)


def run(args: argparse.Namespace) -> None:
    """Load the checkpoint and serve it until the process is told to stop.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..serving.running import Running
    from ..serving.server import make_app

    say_what_ships(args)
    model, processor = load(args)
    name = args.checkpoint or SHIPPED
    app = make_app(name, model.eval(), processor, args.plain or processor.prompt is not None)
    with suppress(KeyboardInterrupt):  # the usual end of a server, after which it has said so
        Running(app, name, args.host, args.port).run()
