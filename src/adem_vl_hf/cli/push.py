"""``adem-vl push``: a checkpoint on the Hub, with its code and a model card."""

import argparse
import sys
import warnings
from pathlib import Path

from ..hub.repo_id import check_repo_id
from ..terminal import say
from .arguments import check_adapter
from .checkpoint import add_moved_bases, moved_bases

TEXT = "Upload a trained adapter to the Hugging Face Hub, with its code, its processor and a model card."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("repo_id", help="you/name; created if it does not exist")
    add_moved_bases(parser)
    parser.add_argument("--private", action="store_true", help="make the repository private if it is created")
    parser.add_argument("--revision", help="branch to commit to (default: main)")
    parser.add_argument("--samples", action="store_true",
                        help="publish six of the report's sample answers in the card, with their images")  # fmt: skip
    parser.add_argument("--message", default="Upload adapter", help="message of the commit (default: %(default)s)")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: There is no such folder, or the name can be no repository's.
    """
    check_repo_id(args.repo_id)
    check_adapter("the checkpoint", args.checkpoint)


def run(args: argparse.Namespace) -> None:
    """Upload the checkpoint and print where it is.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..hub import push

    with warnings.catch_warnings():
        # the message alone: nobody who types a command knows the line of code that Python would name
        warnings.showwarning = lambda message, *_, **__: say(f"adem-vl push: {message}", sys.stderr)
        commit = push(
            args.checkpoint,
            args.repo_id,
            private=args.private,
            revision=args.revision,
            commit_message=args.message,
            bases=moved_bases(args),
            samples=args.samples,
        )
    say(f"uploaded {args.checkpoint} to {commit.repo_url}")
