"""Tells which files and rows of a folder belong to which split, where the names of its folders and tables say so."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from .dataset_names import NoSuchSplit

# what the library ``datasets`` takes for the name of a split, anywhere in the name of a file or a folder
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "dev": "validation",
    "val": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
WORD = re.compile(rf"(^|[-._ 0-9/\\])({'|'.join(SPLITS)})($|[-._ 0-9/\\])")
SHARD = re.compile(r"-\d{5}-of-\d{5}\D")  # the Hub's own names, which leave no doubt


def split_of_folder(name: str) -> str | None:
    """Tell which split a file belongs to because one of its folders has the name of a split.

    Args:
        name (str): The path of the file, relative to the folder of the data.

    Returns:
        "train", "validation" or "test", or None.
    """
    folders = PureWindowsPath(name).parts[:-1]  # understands both kinds of path separator
    return next((SPLITS[one.lower()] for one in folders if one.lower() in SPLITS), None)


def files_of_splits(
    folder: Path, guessed: Mapping[str, Sequence[str]], everything: Sequence[str], are_images: bool
) -> dict[str, list[int]] | None:
    """Correct what the library guessed to be the splits of a folder, if it left files out.

    It takes one file or folder whose name has a word such as "test" for the whole test split, and reads no file without
    such a word. Here an image belongs to a split if a folder has exactly this name, and a table if the library says so.
    Anything else is trained.

    Args:
        folder (Path): The folder.
        guessed (Mapping[str, Sequence[str]]): The files of each split, as the library guessed them.
        everything (Sequence[str]): All files of the folder of the same format.
        are_images (bool): Whether they are images, whose own names say what they show.

    Returns:
        The places of the files in ``everything`` by split, or None if the library is right.
    """
    used = {file: split for split, files in guessed.items() for file in files}
    if set(everything) <= used.keys() or _is_deliberate(folder, guessed, are_images):
        return None
    found: dict[str, list[int]] = {}
    for place, file in enumerate(everything):
        split = split_of_folder(_inside(folder, file)) if are_images else used.get(file)
        found.setdefault(split or "train", []).append(place)
    return found


def _is_deliberate(folder: Path, guessed: Mapping[str, Sequence[str]], are_images: bool) -> bool:
    """Tell whether somebody made the splits that were guessed, so that other files are meant to be left out."""
    names = [_inside(folder, file) for files in guessed.values() for file in files]
    if all(SHARD.search(name) for name in names):
        return True
    if "train" not in guessed or not are_images:
        return "train" in guessed
    folders = [PureWindowsPath(name).parts[:-1] for name in names]
    are_folders = all(any(WORD.search(one) for one in parts) for parts in folders)
    return are_folders and (len(guessed) > 1 or max(map(len, folders)) > 1)  # "train" beside "bus" is a class


def is_guessed(folder: Path, guessed: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether the library guessed splits from the names of the files of a folder, and may have left some out.

    Args:
        folder (Path): The folder.
        guessed (Mapping[str, Sequence[str]]): The files of each split.
    """
    first = next((file for files in guessed.values() for file in files), "")
    return bool(WORD.search(_inside(folder, first)))


def _inside(folder: Path, file: str) -> str:
    root = folder.resolve()
    return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file


def rows_of_split(names: Iterable[object], split: str, where: str) -> list[int] | None:
    """Choose the rows of a table about a whole folder whose files are in the folder of a split.

    Args:
        names (Iterable[object]): The name of the file of each row, relative to the folder.
        split (str): The split.
        where (str): Names the table in an error.

    Returns:
        The positions of the rows, or None if the folders name no splits: a folder "train" beside "bus" is a class.

    Raises:
        NoSuchSplit: Other splits are there, but not this one.
    """
    of_rows = [split_of_folder(name) if isinstance(name, str) else None for name in names]
    found, wanted = set(of_rows), SPLITS.get(split, split)
    named = [one for one in dict.fromkeys(SPLITS.values()) if one in found]
    if not named or (named == ["train"] and None in found) or (wanted == "train" and len(found) == 1):
        return None
    kept = [place for place, one in enumerate(of_rows) if one == wanted or (wanted == "train" and one is None)]
    if not kept:
        raise NoSuchSplit(f"{where}: no split {split!r}; its files are in folders of {', '.join(named)}", named)
    return kept
