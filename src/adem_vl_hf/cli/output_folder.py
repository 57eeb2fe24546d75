"""The folder that ``adem-vl train`` writes to: whether it can be written, and what an earlier run has left in it."""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from ..json_files import ENTRY, LOG, read_object
from ..terminal import say
from ..whole_checkpoints import DELETED, MANIFEST, OPTIMIZERS, REPLACED, SAVING
from .arguments import check_output

DATA_FILE = "data.json"  # the names of the data that the run is trained on
RECORD = {"steps", "batch_size"}  # keys of training.json, among others
NOTES = (LOG, DATA_FILE, "training.json")
SAMPLES = "samples"  # of sample_answers, which takes seconds to import
# what a run writes beside its notes; other programs and people give their files these names, too
PRODUCTS = ("config.json", "README.md", "report.html", SAMPLES)
CHECKPOINT = re.compile(rf"(checkpoint-\d+)|_(checkpoint-\d+)\.({SAVING}|{REPLACED}|{DELETED})")
# a Trainer writes them into each checkpoint; weights, which other programs write too, are not among them
STATES = re.compile(
    "|".join(map(re.escape, (MANIFEST, "trainer_state.json", "scheduler.pt", "training_args.bin", *OPTIMIZERS)))
    + r"|rng_state(_\d+)?\.pth"
)


def check_output_folder(args: argparse.Namespace) -> None:
    """Refuse an output folder that cannot be written, or where files would be lost that nobody wants to lose.

    Args:
        args (argparse.Namespace): The parsed arguments.

    Raises:
        ValueError: It is a file, has a name that is no UTF-8, or holds a run that neither ``--resume`` nor
            ``--overwrite`` speaks of, or files of others under the names that a run gives. Or it is the folder of a
            frozen model, nobody may write there, or the run would delete what it reads.
    """
    folder = args.output_dir
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:  # safetensors and tokenizers, which write the files, take UTF-8 alone
        raise ValueError(f"--output-dir {folder}: its name is not UTF-8, in which files are saved; name another "
                         "folder, or rename it") from error  # fmt: skip
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir {folder} is a file; name a folder")
    for flag, name in (("--language-model", args.language_model), ("--vision-tower", args.vision_tower)):
        if name and Path(name).exists() and Path(name).resolve() == folder.resolve():
            raise ValueError(f"--output-dir {folder} is {flag}, whose files would be replaced: name another folder")
    check_output("--output-dir", folder / "config.json")
    used, others = _files_of_a_run(folder)
    if used and not (args.resume or args.overwrite):
        raise ValueError(
            f"--output-dir {folder} holds a run already ({used[0].name}): add --resume to go on with it or "
            "--overwrite to replace it, or name another folder"
        )
    samples = folder / SAMPLES
    is_in_the_way = os.path.lexists(samples) and (samples.is_symlink() or not samples.is_dir())
    if is_in_the_way:
        others.append(samples)
    if others and (is_in_the_way or not (args.resume and used)):
        raise ValueError(f"--output-dir {folder} holds {others[-1].name}, which is not what a run writes there "
                         "and would be replaced: move it elsewhere, or name another folder")  # fmt: skip
    _check_inputs(args, [*(used if args.overwrite else []), samples])


def remove_run(folder: Path) -> None:
    """Delete what an earlier run has left in its output folder. Where links lead, nothing is deleted.

    Args:
        folder (Path): The folder.
    """
    from ..report import remove_report  # which takes seconds to import

    used = _files_of_a_run(folder)[0]
    if used:
        remove_report(folder)
    for path in used:
        path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def note_data(args: argparse.Namespace, began_at: int) -> tuple[list[str], list[str]]:
    """Note in the output folder what the run is trained on, and say if that changes.

    Args:
        args (argparse.Namespace): The parsed arguments.
        began_at (int): The step of the checkpoint that the run goes on from, or 0 if there is none.

    Returns:
        What it was trained on before, and what it is trained on from its first step on.
    """
    from ..files import write_json

    path = args.output_dir / DATA_FILE
    before = read_object(path, "remove it").get("data") if began_at and path.is_file() else None
    before = [str(name) for name in before] if isinstance(before, list) else []
    data = list(dict.fromkeys([*before, *args.data]))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"data": data})
    if before and before != data:
        say(f"adem-vl train: the run was trained on {', '.join(before)} until now, and goes on with "
            f"{', '.join(args.data)}", sys.stderr)  # fmt: skip
    return before, data


def _files_of_a_run(folder: Path) -> tuple[list[Path], list[Path]]:
    """List what a run has left in its output folder, and what is not of a run but has a name that a run gives."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    checkpoints = [path for path in paths if CHECKPOINT.fullmatch(path.name)]
    named = [*checkpoints, *(folder / name for name in NOTES if os.path.lexists(folder / name))]
    used = [path for path in named if (_is_checkpoint(path) if path in checkpoints else _is_note(path))]
    others = [path for path in named if path not in used]
    if [path.name for path in used] == [DATA_FILE]:  # of a run that ended before its first step
        used = []
    if not used:  # without a run, these are of somebody else
        others += [folder / name for name in PRODUCTS if os.path.lexists(folder / name)]
    return used, others


def _is_checkpoint(path: Path) -> bool:
    """Tell whether a run has written a folder with the name of a checkpoint, or whether nothing is lost with it."""
    if path.is_symlink():  # which is removed, and not what it leads to
        return True
    if not path.is_dir():
        return False
    names = {one.name for one in path.iterdir()}
    if path.name.endswith(f".{SAVING}"):
        return names <= {path.name[1:].removesuffix(f".{SAVING}")}
    # any of its files may be left of one that was being deleted
    return not names or path.name.endswith(f".{DELETED}") or any(map(STATES.fullmatch, names))


def _is_note(path: Path) -> bool:
    """Tell whether a run has written a file; these are names that people and other programs give theirs, too."""
    if path.is_symlink():
        return True
    if not path.is_file():
        return False
    try:
        if path.name == LOG:
            with path.open("rb") as file:
                return ENTRY.startswith(file.read(len(ENTRY)))  # a run may have died while it wrote
        found = read_object(path).keys()
        return found == {"data"} if path.name == DATA_FILE else found >= RECORD
    except ValueError:
        return False


def _check_inputs(args: argparse.Namespace, deleted: list[Path]) -> None:
    """Refuse to delete what the new run reads."""
    inputs = {
        "--data": args.data,
        "--eval-data": args.eval_data,
        "--image-folder": [args.image_folder],
        "--language-model": [args.language_model],
        "--vision-tower": [args.vision_tower],
        "--from-checkpoint": [args.from_checkpoint],
        "--cache-features": [args.cache_features],
    }
    for flag, names in inputs.items():
        for name in filter(None, names):
            # by its name and by where links in it lead: both are gone afterwards
            places = {Path(os.path.abspath(name)), Path(name).resolve()}
            for path in deleted:
                gone = {Path(os.path.abspath(path)), path.parent.resolve() / path.name}
                if any(place.is_relative_to(one) for place in places for one in gone):
                    raise ValueError(f"{flag} {name} lies in {path}, whose files the run replaces: move it elsewhere, "
                                     "or name another --output-dir")  # fmt: skip
