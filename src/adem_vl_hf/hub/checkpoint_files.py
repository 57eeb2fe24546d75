"""Chooses and checks the files of a checkpoint's folder that are published: nothing from outside it gets onto the Hub.

A checkpoint may come from somebody else. Neither its links nor the names in its JSON files may lead to other files of
this machine.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..data.media import check_inside
from ..modeling.field_values import shown
from ..sample_answers import LIST, SAMPLES, read_samples

CODE = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*")  # a module beside config.json and a class in it
TEMPLATES = "additional_chat_templates"  # the one folder from which a processor reads files


def check_links(folder: Path) -> None:
    """Refuse a checkpoint with a link to a file elsewhere: its processor or its card might publish what is there.

    Args:
        folder (Path): The folder of the checkpoint, which may be one of the Hub's cache.

    Raises:
        ValueError: There is such a link. The message names it.
    """
    for path in sorted((*folder.iterdir(), *(folder / TEMPLATES).glob("*"))):
        if path.is_file():
            _check_inside(folder, path)


def copy(folder: Path, path: Path, target: Path) -> None:
    """Copy a file of a checkpoint.

    Args:
        folder (Path): The folder of the checkpoint.
        path (Path): The file.
        target (Path): The folder to copy it to.

    Raises:
        ValueError: The file is a link out of the folder.
    """
    _check_inside(folder, path)
    shutil.copyfile(path, target / path.name)


def _check_inside(folder: Path, path: Path) -> None:
    try:
        check_inside(folder, path)
    except ValueError as error:
        raise ValueError(f"{path} leads out of {folder}, and files from elsewhere are not published: put the file "
                         "itself there") from error  # fmt: skip


def code_files(folder: Path, auto_map: Any) -> list[Path]:
    """List the files that an ``auto_map`` names and those that they import.

    Args:
        folder (Path): The folder of ``config.json``.
        auto_map (Any): Its field ``auto_map``.

    Returns:
        The files, or none if one of them is missing or in another repository.

    Raises:
        ValueError: The field names something else than modules beside it, or a module is no text.
    """
    where, entries = folder / "config.json", set()
    if not isinstance(auto_map, dict):
        raise ValueError(f"{where}: auto_map is {shown(auto_map)}; it must be an object, or be left out")
    for name, places in auto_map.items():
        # of a tokenizer there are two, one of which may be missing
        for place in [one for one in places if one is not None] if isinstance(places, list) else [places]:
            if isinstance(place, str) and "--" in place:  # "owner/name--module.Class"
                return []
            code = CODE.fullmatch(place) if isinstance(place, str) else None
            if code is None:
                raise ValueError(f"{where}: auto_map names {shown(place)} for {shown(name)}; it must name a module "
                                 "beside it and a class in that, such as modeling_adem_vl.AdemVLModel")  # fmt: skip
            entries.add(folder / f"{code[1]}.py")
    if not all(path.is_file() for path in entries):
        return []
    try:
        found = {Path(file) for entry in entries for file in get_relative_import_files(entry)} | entries
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # no text, or no name of a file
        raise ValueError(f"{folder}: its code cannot be read ({error}); save the checkpoint again") from error
    return sorted(found) if all(path.is_file() for path in found) else []


def sample_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the sample answers that lie in a folder and check that a card can show them.

    Args:
        folder (Path): The output folder of a training, or another one that has some of its samples.

    Returns:
        The rows, as ``read_samples`` returns them.

    Raises:
        ValueError: The file is damaged, a row lacks a text, or an image is not there.
    """
    path = folder / SAMPLES / LIST
    if path.is_file():
        _check_inside(folder, path)
    rows = read_samples(folder)
    for number, row in enumerate(rows):
        where, references = f"{path}, entry {number}", row.get("references")
        for key in ("image", "prompt", "answer"):
            if not isinstance(row.get(key), str):
                raise ValueError(f'{where}: "{key}" is {shown(row.get(key))}; every sample answer needs a text there')
        if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
            raise ValueError(f'{where}: "references" is {shown(references)}; give a list of texts')
        if not (path.parent / Path(row["image"]).name).is_file():
            raise ValueError(f'{where}: "image" is {shown(row["image"])}, and {path.parent} has no such file')
    return rows
