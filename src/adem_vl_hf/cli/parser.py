"""The command line: ``adem-vl train | caption | look | app | evaluate | serve | push | convert | info``.

Exit codes: 0 done, 2 bad usage or bad input (one line on stderr), 1 anything else.
"""

import argparse
import errno
import os
import sys
from typing import Any, NoReturn

from .. import __version__
from ..allocator import keep_freed_memory
from ..quiet import quiet_libraries
from ..terminal import NobodyReads, escape_messages, say
from ..workers import said_first
from . import app, caption, convert, evaluate, info, look, push, serve, train

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2
# OSErrors about a path that the user gave; None: raised by Transformers, for a folder or id without the right files.
# A full disk or a closed pipe is not among them.
BAD_PATH = (
    None, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG,
)  # fmt: skip
# each module adds its arguments, checks what needs no import, and runs
COMMANDS = {
    "train": train, "caption": caption, "look": look, "app": app, "evaluate": evaluate, "serve": serve, "push": push,
    "convert": convert, "info": info,
}  # fmt: skip

STAYING = ("app", "serve")  # they would hold what their largest request took for as long as they run


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong, and does not list all flags."""

    def error(self, message: str) -> NoReturn:
        """Print the error, and leave.

        Args:
            message (str): What is wrong.
        """
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message} ({self.prog} --help lists the flags)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = OneLineParser(prog="adem-vl", description="Teach a frozen language model to see (ADEM-VL).")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.TEXT, description=command.TEXT)
        sub.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
        command.add_arguments(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (list[str] | None): The command line without the name of the program. None means that of this process.

    Returns:
        The exit code.
    """
    args = build_parser().parse_args(argv)
    command = COMMANDS[args.command]
    try:
        _check_working_folder()
        command.check(args)
        _prepare(args.command)
        command.run(args)
    except KeyboardInterrupt:
        say(f"adem-vl {args.command}: interrupted{_what_is_left(command, args)}", sys.stderr)
        return EXIT_FAILED
    except NobodyReads:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        return EXIT_FAILED
    except Exception as error:
        if args.debug:
            raise
        reason = " ".join(said_first(error).split())
        if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in BAD_PATH):
            say(f"adem-vl {args.command}: error: {reason}", sys.stderr)
            return EXIT_BAD_INPUT
        left = _what_is_left(command, args)
        way_on = left if left.startswith(";") else ""
        say(f"adem-vl {args.command}: {type(error).__name__}: {reason}{way_on} (--debug shows more)", sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE


def _what_is_left(command: Any, args: argparse.Namespace) -> str:
    """What a stopped command goes on from, after a semicolon, or before what it stopped, after a comma."""
    return command.what_is_left(args) if hasattr(command, "what_is_left") else ""


def _check_working_folder() -> None:
    """Refuse a working folder that has been removed: no relative path could be found in it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ValueError("the folder that this command was started in has been removed; go to another one") from error


def _prepare(name: str) -> None:
    """Set up the process for a command that computes."""
    from transformers.utils.logging import disable_progress_bar

    if name not in STAYING:
        keep_freed_memory()
    quiet_libraries()
    escape_messages()
    if not sys.stderr.isatty():  # whoever reads stderr wants the error, not bars of models that load
        disable_progress_bar()
