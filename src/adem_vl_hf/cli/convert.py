"""``adem-vl convert``: a checkpoint of this package from the adapter file that the authors released."""

import argparse
from pathlib import Path

from ..modeling.one_save import WRITTEN, finish_save
from ..terminal import say
from .arguments import add_bases, check_output, check_there
from .config_flags import add_config_flags, config_fields

TEXT = "Turn the authors' released adapter file (.pth) into a checkpoint of this package."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
    """
    parser.add_argument("official", type=Path, help="the authors' checkpoint-*.pth")
    add_bases(parser, required=True)
    parser.add_argument("output_dir", type=Path, metavar="OUT", help="folder to write")
    add_config_flags(parser, models=("adem_vl",))


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is imported.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: A path is wrong.
    """
    if not args.official.is_file():
        raise ValueError(f"{args.official} is no file; give the authors' checkpoint-<epoch>.pth")
    if args.output_dir.is_dir():
        finished = finish_save(args.output_dir)
        # what another process has left half written, or still writes, is removed or kept by the save itself
        if held := sorted(path.name for path in args.output_dir.iterdir() if not path.name.startswith(WRITTEN)):
            if finished:
                raise ValueError(
                    f"{args.output_dir} is complete now: the conversion that was interrupted had all but ended"
                )
            raise ValueError(f"{args.output_dir} holds files already ({held[0]}): name another folder, or empty it")
    check_output("the folder of", args.output_dir / "config.json")
    check_there("the language model", args.language_model)
    check_there("the vision tower", args.vision_tower)


def run(args: argparse.Namespace) -> None:
    """Convert the file and say what was done with every tensor of it.

    Args:
        args (argparse.Namespace): The parsed arguments.
    """
    from ..hub.convert_official import convert_official

    report = convert_official(
        args.official,
        args.language_model,
        args.vision_tower,
        args.output_dir,
        text_model_revision=args.language_model_revision,
        text_model_subfolder=args.language_model_subfolder,
        vision_model_revision=args.vision_tower_revision,
        vision_model_subfolder=args.vision_tower_subfolder,
        **config_fields(args, "adem_vl"),
    )
    say(report)
