"""Reads a folder of images with a ``metadata.jsonl``, the "imagefolder" convention of Hugging Face ``datasets``.

The metadata has one JSON object per line. ``file_name`` is relative to the folder of the metadata file::

    {"file_name": "0001.png", "text": "two dogs on the grass"}
    {"file_name": "sub/0002.png", "prompt": "Question: how many dogs? Answer:", "answer": "two", "kind": "count"}
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..json_files import read_jsonl
from ..modeling.field_values import shown
from ..modeling.reading import errors_naming
from .columns import SPELLINGS, check_texts, places_of, sample_of
from .media import open_image, resolve_image
from .sample import CAPTION_PROMPT, Sample, continuation

# columns of a line that is read like a row of any other data set, not by the keys of this format
ROLES = ("question", "messages", "history", "system", "images", "video")
ASKING = {name for role in ROLES for name in SPELLINGS[role]}
ANSWERING = {name for role in ("text", "answer", "completion") for name in SPELLINGS[role]}


class ImageFolder(Dataset[Sample]):
    """Reads images with their texts from a folder.

    The metadata is read and checked at once. An image is opened when its sample is.

    Each line has ``file_name`` and ``text`` (or ``answer``, another name for it). It may have ``prompt``, which
    replaces the prompt of the folder, ``kind`` (default "caption"), ``references`` or ``captions`` (lists of further
    true answers) and ``choices`` (a list that contains the answer). Capitals do not matter, and other keys are
    ignored. A line with other columns that ``sample_of`` knows, such as ``caption``, ``question`` or ``messages``, is
    read like a row of any other data set. Without any prompt, a line may not have two texts, one of which would not be
    trained. The id of a sample is its ``file_name``, with ``:line`` added if an earlier line names the same file.

    Args:
        folder (str | os.PathLike[str]): The folder, or with ``split`` the parent of one folder per split.
        prompt (str): The prompt of every line without a ``prompt`` of its own.
        split (str | None): The name of a split: "train" reads ``folder/train/metadata.jsonl``. None reads
            ``folder/metadata.jsonl``.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.

    Raises:
        FileNotFoundError: There is no ``metadata.jsonl``.
        ValueError: A line cannot be used. The message names the file and the line.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        prompt: str = CAPTION_PROMPT,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder) if split is None else Path(folder) / split
        metadata = self.folder / "metadata.jsonl"
        if not metadata.is_file():
            splits = sorted(path.parent.name for path in Path(folder).glob("*/metadata.jsonl"))
            remedy = (
                f"pass split=, one of {splits}"
                if splits
                else 'write one line {"file_name": ..., "text": ...} per image'
            )
            raise FileNotFoundError(f"{metadata}: no such file; {remedy}")
        self._samples: list[Sample] = []  # without their images
        self._files: list[str] = []
        self._splits: list[object] = []  # what each line says in a column of that name
        seen: set[str] = set()
        for number, line in read_jsonl(metadata):
            entry = _small(line, columns)
            where = f"{metadata}, line {number}"
            file_name = _text(entry, "file_name", where)
            if file_name is None:
                raise ValueError(f'{where}: no "file_name"; name the image file, relative to {self.folder}')
            with errors_naming(where):
                resolve_image(self.folder, file_name)
            name = f"{file_name}:{number}" if file_name in seen else file_name
            seen.add(file_name)
            if _is_a_row(entry, columns):
                self._samples.append(_any_sample(entry, name, where, columns))
            else:
                self._samples.append(_sample(entry, name, prompt, where))
            self._files.append(file_name)
            self._splits.append(entry.get("split"))
        if not self._samples:
            raise ValueError(f'{metadata}: no lines; write one line {{"file_name": ..., "text": ...}} per image')

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = copy.deepcopy(self._samples[index])
        sample["image"] = open_image(resolve_image(self.folder, self._files[index]))
        return sample


def _small(line: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    """Write the keys of a line small: capitals do not matter, except in the names that ``columns`` gives."""
    named = set((columns or {}).values())
    return {key if key in named or key.lower() in line else key.lower(): value for key, value in line.items()}


def _is_a_row(entry: Mapping[str, Any], columns: Mapping[str, str] | None) -> bool:
    """Say whether a line is read like a row of any other data set."""
    has_other_text = ANSWERING & entry.keys() and not {"text", "answer"} & entry.keys()
    return bool(columns or ASKING & entry.keys() or has_other_text)


def sample_of_line(row: Mapping[str, Any], position: int, columns: Mapping[str, str] | None = None) -> Sample:
    """Make a sample of a line of ``metadata.jsonl`` as the library ``datasets`` streams it, as ``ImageFolder`` does.

    Args:
        row (Mapping[str, Any]): The line, with the image in place of its file's name, and None for what it lacks.
        position (int): Its number.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.

    Returns:
        The sample. Its image is not opened.

    Raises:
        ValueError: The line cannot be used.
    """
    entry = _small({key: value for key, value in row.items() if value is not None}, columns)
    if _is_a_row(entry, columns):
        return sample_of(row, position, columns)
    image = entry.pop("image", None)
    sample = _sample(entry, str(position), CAPTION_PROMPT, f"sample {position}")
    return sample | {"image": image}  # type: ignore[return-value]


def _any_sample(entry: dict[str, Any], name: str, where: str, columns: Mapping[str, str] | None) -> Sample:
    """Make a sample without its image of one line, with the columns of any data set."""
    try:
        sample = sample_of(entry | {"id": name, "image": Path(name)}, 0, columns)
    except ValueError as error:
        reason = str(error).removeprefix(f"sample {name!r}").removeprefix(f"sample {name}")
        raise ValueError(f"{where}: {reason.lstrip(' :,')}") from error
    if sample.get("images") or sample.get("video"):
        raise ValueError(f"{where}: it shows more than the image of its file_name; put such rows into a table instead")
    return sample | {"image": None}


def _sample(entry: dict[str, Any], name: str, default_prompt: str, where: str) -> Sample:
    """Make a sample without its image of one line; ``where`` begins the message of an error."""
    given = [key for key in ("text", "answer") if entry.get(key) is not None]
    if len(given) != 1:
        raise ValueError(
            f'{where}: {"both" if given else "neither"} "text" {"and" if given else "nor"} "answer"; give one'
        )
    text = (_text(entry, given[0], where) or "").strip()
    if not text:
        raise ValueError(f'{where}: "{given[0]}" is empty; write what the model should answer, or remove the line')
    prompt = _text(entry, "prompt", where)
    if prompt is None:
        prompt = default_prompt
        if prompt == CAPTION_PROMPT:
            others = {name: value for name, value in entry.items() if name != "captions"}  # which are references
            places = places_of(others, 0, {})
            check_texts(where, places, {role: place and others[place] for role, place in places.items()})
    further = _texts(entry, "references", where) + _texts(entry, "captions", where)
    choices = _texts(entry, "choices", where)
    if choices:
        matching = sorted((one for one in choices if one.casefold() == text.casefold()), key=lambda one: one != text)
        if not matching:
            raise ValueError(f'{where}: the answer "{text}" is not among "choices" {choices}; add it')
        text = matching[0]
    sample = Sample(
        id=name,
        image=None,
        prompt=prompt,
        answer=continuation(prompt, text),
        references=list(dict.fromkeys([text, *further])),
        kind=_text(entry, "kind", where) or "caption",
    )
    if choices:
        sample["choices"] = choices
    return sample


def _text(entry: dict[str, Any], key: str, where: str) -> str | None:
    """Return the text under a key, or None if it is missing."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" is {shown(value)}; it must be a text in quotes')
    return value


def _texts(entry: dict[str, Any], key: str, where: str) -> list[str]:
    """Return the list of texts under a key, without surrounding spaces; it is empty if the key is missing."""
    values = entry.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f'{where}: "{key}" is {shown(values)}; it must be a list of non-empty texts')
    return [value.strip() for value in values]
