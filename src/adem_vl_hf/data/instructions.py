"""Reads visual instruction data: instructions without images (Alpaca) and conversations about images (LLaVA).

Both are a JSON list, or JSON Lines, of objects::

    {"instruction": "...", "input": "..." or "", "output": "..."}                                       Alpaca
    {"id": "...", "image": "x.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                                                      {"from": "gpt", "value": "A bus."}, ...]}         LLaVA

The instruction tuning of ADEM-VL (arXiv 2410.17779, with the data preparation of LaVIN) mixes the 52,000 rows of Alpaca
with the conversations of LLaVA, each once. A row without an image begins with the processor's text for "no image", and
its fused term comes from the learned slot embeddings alone.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..files import read_entries
from .media import ImageError, open_image, resolve_image
from .sample import IMAGE_MARK, Sample, continuation

INSTRUCTION_PROMPT = "Instruction: {instruction}\nResponse:"  # the prompt of ADEM-VL's code
COCO_PREFIX = "COCO_train2014_"


class Alpaca(Dataset[Sample]):
    """Reads instructions without images, each as a sample of kind "instruction".

    The id of a sample is ``alpaca/row``, with rows counted from 0. A row with an empty ``output`` (the published file
    has some) would train nothing and is skipped. The attribute ``skipped`` counts these rows.

    Args:
        path (str | os.PathLike[str]): The JSON or JSON Lines file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row is not in the format, or there is no row at all. The message names the file and the row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._rows: list[tuple[int, str, str]] = []  # position, instruction with its input, output
        self.skipped = 0
        for position, entry in enumerate(read_entries(Path(path), "Alpaca-style rows")):
            where = f"{path}, row {position}"
            instruction, context, output = (_text(entry, key, where) for key in ("instruction", "input", "output"))
            if not instruction:
                raise ValueError(f'{where}: "instruction" is empty; write what is asked, or remove the row')
            if output:
                self._rows.append((position, f"{instruction} {context}".strip(), output))
            else:
                self.skipped += 1
        if not self._rows:
            raise ValueError(f'{path}: no row with an output; give a list of {{"instruction", "input", "output"}}')

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        position, instruction, output = self._rows[index]
        return _sample(f"alpaca/{position}", None, instruction, output)


class Conversations(Dataset[Sample]):
    """Reads conversations about images, each reply as a sample of kind "instruction".

    Images are opened when their sample is. The id of a sample is ``id/turn``, with turns counted from 0. LLaVA's own
    files use some ids several times: from the second time on, the id is ``id@entry/turn`` with the position of the
    entry in the file. An entry without an id is named by that position.

    ``<image>`` marks are removed from the text, because in ADEM-VL an image has no place inside the question.

    Args:
        path (str | os.PathLike[str]): The JSON or JSON Lines file.
        image_folder (str | os.PathLike[str] | None): The folder that image names are relative to. None means the folder
            of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An entry is not a conversation in the format, or its image is missing. The message names the file,
            the entry (counted from 0) and its id.
    """

    def __init__(self, path: str | os.PathLike[str], image_folder: str | os.PathLike[str] | None = None) -> None:
        self.image_folder = Path(image_folder) if image_folder is not None else Path(path).parent
        self._turns: list[tuple[str, str | None, str, str]] = []  # sample id, image name, instruction, reply
        seen: set[str] = set()
        for position, entry in enumerate(read_entries(Path(path), "LLaVA-style entries")):
            name = str(entry.get("id", position))
            where = f"{path}, entry {position} (id {name})"
            unique = f"{name}@{position}" if name in seen else name
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
        return _sample(name, None if image is None else resolve_image(self.image_folder, image), instruction, reply)


def _sample(name: str, image: Path | None, instruction: str, reply: str) -> Sample:
    """Make a sample of an instruction and the reply to it."""
    prompt = INSTRUCTION_PROMPT.format(instruction=instruction)
    return Sample(
        id=name,
        image=None if image is None else open_image(image),
        prompt=prompt,
        answer=continuation(prompt, reply),
        references=[reply],
        kind="instruction",
    )


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    """Return a text of one of Alpaca's rows; ``where`` begins the message of an error."""
    value = entry.get(key, "" if key == "input" else None)
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" is {value!r}; every row needs a text there')
    return value.strip()


def _name_in_folder(folder: Path, image: str) -> str:
    """Return an image name as it stands, or with COCO's prefix if only the file of that name is there."""
    if not (folder / image).is_file() and (folder / f"{COCO_PREFIX}{image}").is_file():
        return f"{COCO_PREFIX}{image}"
    return image


def _image_name(entry: dict[str, Any], where: str) -> str | None:
    """Return the image name of one of LLaVA's entries, or None; ``where`` begins the message of an error."""
    image = entry.get("image")
    if isinstance(image, list):
        raise ValueError(f'{where}: "image" is a list; a sample has one image, so split the entry or keep one')
    if image is not None and not isinstance(image, str):
        raise ValueError(f'{where}: "image" is {json.dumps(image)[:100]}; name a file relative to the image folder')
    return image or None


def _exchanges(entry: dict[str, Any], has_image: bool, where: str) -> Iterator[tuple[str, str]]:
    """Yield the (instruction, reply) pairs of one entry, without image marks and surrounding spaces."""
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
