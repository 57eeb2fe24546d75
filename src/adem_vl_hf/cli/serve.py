"""``adem-vl serve``: a checkpoint behind an address that OpenAI's clients can ask."""

import argparse
import errno
import socket
from contextlib import suppress
from importlib.util import find_spec

from .arguments import port
from .checkpoint import add_checkpoint, check_checkpoint, load, say_what_ships

TEXT = "Serve a trained adapter over HTTP, with OpenAI's chat completions, by the server of Transformers."
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
    _check_address(args.host, args.port)


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, by the flag that is wrong, before anything is loaded."""
    remedy = "name an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if not host:
        raise ValueError(f"--host is empty; {remedy}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # names that are too long or have an empty part are no Unicode
        reason = getattr(error, "strerror", None) or "no name of a host"
        raise ValueError(f"--host {host} cannot be found ({reason}); {remedy}") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = error.strerror or error
            of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
            wrong = "name another --port" if of_port else f"--host is wrong: {remedy}"
            raise ValueError(f"cannot listen on {host}, port {port} ({reason}); {wrong}") from error


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
