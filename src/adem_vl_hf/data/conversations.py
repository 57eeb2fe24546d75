"""Conversations about pictures in LLaVA's JSON format, one instruction per sample.

The file is a list (or JSON Lines) of::

    {"id": "000000033471", "image": "000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat colour is the bus?"},
                       {"from": "gpt", "value": "The bus is white and red."}, ...]}

ADEM-VL (arXiv 2410.17779, instruction tuning; data preparation from LaVIN) trains every turn as a sample of its own,
without the turns before it, so a question that refers back to them is asked without its context.

LLaVA-Instruct-150k names COCO's pictures by number (``000000033471.jpg``); in COCO's folder ``train2014`` the same file
is ``COCO_train2014_000000033471.jpg``. Either is found.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..files import read_entries
from .images import ImageError, open_image, resolve_image
from .sample import Sample, continuation

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
