"""Text-only instructions in Alpaca's JSON format (``alpaca_data.json``).

The file is a list (or JSON Lines) of ``{"instruction": "...", "input": "..." or "", "output": "..."}``.

ADEM-VL (arXiv 2410.17779, instruction tuning; data preparation from LaVIN) mixes its 52,000 rows with LLaVA's
instructions, each row once. They have no picture: the sequence begins with the processor's text for that, and the
fused term is that of the learned slots alone.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..files import read_entries
from .media import ImageError, open_image, resolve_image
from .sample import Sample, continuation


class Alpaca(Dataset[Sample]):
    """Every row as a sample of kind "instruction" without a picture; its id is ``alpaca/row``, rows counted from 0.

    A row with an empty ``output`` (the published file has some) would train nothing and is passed over; ``skipped``
    counts them.

    Args:
        path: The JSON or JSON Lines file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A row that is not as above, or no row at all; the message names the file and the row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._rows: list[tuple[int, str, str]] = []  # place, instruction with its input, output
        self.skipped = 0
        for place, entry in enumerate(read_entries(Path(path), "Alpaca-style rows")):
            where = f"{path}, row {place}"
            instruction, context, output = (_text(entry, key, where) for key in ("instruction", "input", "output"))
            if not instruction:
                raise ValueError(f'{where}: "instruction" is empty; write what is asked, or remove the row')
            if output:
                self._rows.append((place, f"{instruction} {context}".strip(), output))
            else:
                self.skipped += 1
        if not self._rows:
            raise ValueError(f'{path}: no row with an output; give a list of {{"instruction", "input", "output"}}')

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        place, instruction, output = self._rows[index]
        prompt = INSTRUCTION_PROMPT.format(instruction=instruction)
        return Sample(
            id=f"alpaca/{place}",
            image=None,
            prompt=prompt,
            answer=continuation(prompt, output),
            references=[output],
            kind="instruction",
        )


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key, "" if key == "input" else None)
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" is {value!r}; every row needs a text there')
    return value.strip()


INSTRUCTION_PROMPT = "Instruction: {instruction}\nResponse:"
COCO_PREFIX = "COCO_train2014_"
IMAGE_MARK = "<image>"  # stripped: in ADEM-VL the picture has no place inside the question


class Conversations(Dataset[Sample]):
    """Every reply of every conversation as a sample of kind "instruction"; pictures are opened with their samples.

    A sample's id is ``id/turn``, turns counted from 0. LLaVA's own files use an id several times: from the second
    time on it is ``id@entry/turn`` with the entry's place in the file. An entry without an id is named by that place.

    Args:
        path: The JSON or JSON Lines file.
        image_folder: The folder that the entries' ``image`` names are relative to; by default the file's own folder.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Anything that is not a conversation as above, or a picture that is missing; the message names the
            file, the entry (counted from 0) and its id.
    """

    def __init__(self, path: str | os.PathLike[str], image_folder: str | os.PathLike[str] | None = None) -> None:
        self.image_folder = Path(image_folder) if image_folder is not None else Path(path).parent
        self._turns: list[tuple[str, str | None, str, str]] = []  # sample id, image name, instruction, reply
        seen: set[str] = set()
        for place, entry in enumerate(read_entries(Path(path), "LLaVA-style entries")):
            name = str(entry.get("id", place))
            where = f"{path}, entry {place} (id {name})"
            unique = f"{name}@{place}" if name in seen else name
            seen.add(name)
            image = _image_name(entry, where)
            if image is not None:
                image = _name_in_folder(self.image_folder, image)
                try:
                    resolve_image(self.image_folder, image)
                except ImageError as error:
                    raise ValueError(f"{where}: {error}") from error
            for turn, (instruction, reply) in enumerate(_exchanges(entry, image is not None, where)):
                self._turns.append((f"{unique}/{turn}", image, instruction, reply))
        if not self._turns:
            raise ValueError(f"{path}: no conversations; give a list of LLaVA-style entries")

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: int) -> Sample:
        name, image, instruction, reply = self._turns[index]
        prompt = INSTRUCTION_PROMPT.format(instruction=instruction)
        return Sample(
            id=name,
            image=None if image is None else open_image(resolve_image(self.image_folder, image)),
            prompt=prompt,
            answer=continuation(prompt, reply),
            references=[reply],
            kind="instruction",
        )


def _name_in_folder(folder: Path, image: str) -> str:
    """The name as it stands, or with COCO's prefix where only that file is there."""
    if not (folder / image).is_file() and (folder / f"{COCO_PREFIX}{image}").is_file():
        return f"{COCO_PREFIX}{image}"
    return image


def _image_name(entry: dict[str, Any], where: str) -> str | None:
    image = entry.get("image")
    if isinstance(image, list):
        raise ValueError(f'{where}: "image" is a list; a sample has one image, so split the entry or keep one')
    if image is not None and not isinstance(image, str):
        raise ValueError(f'{where}: "image" is {json.dumps(image)[:100]}; name a file relative to the image folder')
    return image or None


def _exchanges(entry: dict[str, Any], has_image: bool, where: str) -> Iterator[tuple[str, str]]:
    """The (instruction, reply) pairs of one entry, stripped of image marks and surrounding space."""
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'{where}: no "conversations"; give a list of {{"from": ..., "value": ...}}')
    if len(turns) % 2:
        raise ValueError(f"{where}: {len(turns)} turns; every turn of the human needs the reply of gpt after it")
    for number, turn in enumerate(turns):
        expected = "human" if number % 2 == 0 else "gpt"
        if not isinstance(turn, dict) or turn.get("from") != expected:
            found = turn.get("from") if isinstance(turn, dict) else turn
            raise ValueError(f'{where}, turn {number}: from {found!r} where "{expected}" belongs; they take turns')
        if not isinstance(turn.get("value"), str):
            raise ValueError(f'{where}, turn {number}: no "value"; it holds the text of the turn')
    texts = [turn["value"].replace(IMAGE_MARK, "").strip() for turn in turns]
    for number, text in enumerate(texts):
        if not text:
            raise ValueError(f"{where}, turn {number}: empty; write its text, or remove it with its counterpart")
        if IMAGE_MARK in turns[number]["value"] and not has_image:
            raise ValueError(f'{where}, turn {number}: {IMAGE_MARK} in the text but no "image"; name the image file')
    yield from zip(texts[::2], texts[1::2], strict=True)
