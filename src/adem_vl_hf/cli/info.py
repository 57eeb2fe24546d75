"""``adem-vl info``: what a checkpoint is."""

import argparse
import json

from ..terminal import printable, say
from .checkpoint import DEFAULT, add_moved_bases, check_checkpoint, moved_bases

TEXT = "Show the frozen models, the settings and the number of trainable parameters of a checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("checkpoint", nargs="?", help=f"folder or Hub id {DEFAULT}")
    add_moved_bases(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    check_checkpoint(args)


def run(args: argparse.Namespace) -> None:
    """Print the facts.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..loading import describe

    facts = describe(args.checkpoint, **moved_bases(args))
    if args.json:
        say(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():  # one line each, whatever is in the values
            say(f"{name:{width}}  {printable(value, kept='')}")
