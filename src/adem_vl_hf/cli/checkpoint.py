"""The checkpoint that a command loads: its flags, and the model and processor in it."""

import argparse
from typing import Any

from .arguments import add_bits

DEFAULT = "(default: the adapter that ships with this package)"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the checkpoint.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("--checkpoint", help=f"folder or Hub id {DEFAULT}")
    add_bits(parser)


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """Load the checkpoint on the GPU of this process, if there is one.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Returns:
        The model and its processor.
    """
    from accelerate import PartialState

    from ..loading import load_checkpoint, loading_arguments

    model, processor = load_checkpoint(args.checkpoint, **loading_arguments(args.bits))
    if args.bits is None:  # quantised ones are where they were loaded
        model = model.to(PartialState().device)  # type: ignore[arg-type]  # a module moves itself
    return model, processor
