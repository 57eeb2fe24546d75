"""The checkpoint that a command loads: its flags, and the model and processor in it."""

import argparse
import sys
from typing import Any

from .arguments import add_bits, check_adapter, check_there

DEFAULT = "(default: the adapter that ships with this package)"
ONLY_PICTOGRAMS = (
    "The checkpoint that ships with this package has only seen pictograms (such as OpenMoji's): do not rely on what it "
    "says about a photograph."
)

BASES = {"--language-model": "language model", "--vision-tower": "vision tower"}


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the checkpoint.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("--checkpoint", help=f"folder or Hub id {DEFAULT}")
    add_moved_bases(parser)
    add_bits(parser)


def add_moved_bases(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the bases of a checkpoint are now.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    for flag, base in BASES.items():
        parser.add_argument(flag, help=f"folder or Hub id of the {base}, if it differs from the one in config.json")


def check_checkpoint(args: argparse.Namespace) -> None:
    """Refuse paths to nothing, of the checkpoint and of its bases.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A path leads to no file and no folder.
    """
    check_adapter("the checkpoint", args.checkpoint)
    check_there("the language model", args.language_model)
    check_there("the vision tower", args.vision_tower)


def moved_bases(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the configuration that the flags replace.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Returns:
        The fields with their values.
    """
    given = {"text_model_name_or_path": args.language_model, "vision_model_name_or_path": args.vision_tower}
    return {field: name for field, name in given.items() if name is not None}


def say_what_ships(args: argparse.Namespace) -> None:
    """Say on stderr what the checkpoint that ships with the package knows, if no other is named.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    if args.checkpoint is None:
        print(f"adem-vl {args.command}: {ONLY_PICTOGRAMS} Name another by --checkpoint.", file=sys.stderr)


def load(args: argparse.Namespace, with_gradients: bool = False) -> tuple[Any, Any]:
    """Load the checkpoint on the GPU of this process, if there is one.

    Args:
        args (argparse.Namespace): The parsed arguments.
        with_gradients (bool): Whether gradients are computed, for which many CPUs need another precision.

    Returns:
        The model and its processor.

    Raises:
        ValueError: A base cannot be loaded. The message says which flag names another place for it.
    """
    from accelerate import PartialState

    from ..loading import arguments_for_bits, load_checkpoint
    from ..precision import fastest_setting

    setting = fastest_setting() if with_gradients else {}
    setting |= arguments_for_bits(args.bits, setting.get("dtype"))
    try:
        model, processor = load_checkpoint(args.checkpoint, **moved_bases(args), **setting)
    except ValueError as error:
        for flag, base in BASES.items():
            if f"{base} '" in str(error) and "could not be loaded" in str(error):
                raise ValueError(f"{error}; say where it is now by {flag}") from error
        raise
    if args.bits is None:  # quantised ones are where they were loaded
        model = model.to(PartialState().device)  # type: ignore[arg-type]  # a module moves itself
    return model, processor
