"""Reads visual instruction data: instructions without images (Alpaca) and conversations about images (LLaVA).

Both are a JSON list, or JSON Lines, of objects::

    {"instruction": "...", "input": "..." or "", "output": "..."}                                       Alpaca
    {"id": "...", "image": "x.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                                                      {"from": "gpt", "value": "A bus."}, ...]}         LLaVA

The instruction tuning of ADEM-VL (arXiv 2410.17779, with the data preparation of LaVIN) mixes the 52,000 rows of Alpaca
with the conversations of LLaVA, each once and each turn of them alone. A row without an image begins with the
processor's text for "no image", and its fused term comes from the learned slot embeddings alone.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..json_files import read_entries
from ..modeling.chat_rows import INSTRUCTION_PROMPT
from ..modeling.field_values import shown
from ..modeling.reading import errors_naming
from .chats import is_chat
from .columns import SPELLINGS, check_unseen, sample_of
from .indexing import names_of_repeated
from .media import ImageError, holds_image, open_image, resolve_image
from .sample import FIELDS, IMAGE_MARK, Sample, continuation
from .split_column import places_of_split
from .turns import count_turns, each_turn

__all__ = ["INSTRUCTION_PROMPT", "Alpaca", "Conversations"]

COCO_PREFIX = "COCO_train2014_"


class Alpaca(Dataset[Sample]):
    """Reads instructions without images, each as a sample of kind "instruction".

    The id of a sample is ``alpaca/row``, with rows counted from 0. A row with an empty ``output`` (the published file
    has some) would train nothing and is skipped. The attribute ``skipped`` counts these rows, and ``has_splits`` says
    whether the rows name splits.

    Args:
        path (str | os.PathLike[str]): The JSON or JSON Lines file.
        split (str): The split that is read of a file whose rows name their ``split``. Any other file is read whole.

    Raises:
        FileNotFoundError: There is no such file.
        NoSuchSplit: The rows name other splits.
        ValueError: A row is not in the format, or there is no row at all. The message names the file and the row.
    """

    def __init__(self, path: str | os.PathLike[str], split: str = "train") -> None:
        self._rows: list[tuple[int, str, str]] = []  # position, instruction with its input, output
        self.skipped = 0
        entries, self.has_splits = _entries_of_split(path, "Alpaca-style rows", split)
        for position, entry in entries:
            where = f"{path}, row {position}"
            instruction, context, output = (_text(entry, key, where) for key in ("instruction", "input", "output"))
            try:
                check_unseen(str(position), entry, {})
            except ValueError as error:
                raise ValueError(f"{where}: {str(error).removeprefix(f'sample {position}: ')}") from error
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
        prompt = INSTRUCTION_PROMPT.format(instruction=instruction)
        return Sample(
            id=f"alpaca/{position}",
            image=None,
            prompt=prompt,
            answer=continuation(prompt, output),
            references=[output],
            kind="instruction",
        )


class Conversations(Dataset[Sample]):
    """Reads conversations, each as one sample of kind "chat" whose answers are all trained.

    Besides LLaVA's spelling, those of ``sample_of`` are read: ``messages``, ``texts``, and so on. Images are opened
    when their sample is. LLaVA's own files use some ids several times: from the second time on, the id of a sample is
    ``id@entry`` with the position of the entry in the file. An entry without an id is named by that position. The
    attribute ``has_splits`` says whether the entries name splits.

    With ``each_turn_alone``, each reply is a sample of kind "instruction" without the turns before it, as ADEM-VL's
    authors train. Its id is ``id/turn``, with replies counted from 0, and ``<image>`` marks are removed from its text,
    because in ADEM-VL an image has no place inside the question.

    Args:
        path (str | os.PathLike[str]): The JSON or JSON Lines file.
        image_folder (str | os.PathLike[str] | None): The folder that image names are relative to. None means the folder
            of the file.
        each_turn_alone (bool): Whether each reply is a sample of its own.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.
        split (str): The split that is read of a file whose entries name their ``split``. Any other file is read whole.

    Raises:
        FileNotFoundError: There is no such file.
        NoSuchSplit: The entries name other splits.
        ValueError: An entry is not a conversation in the format, or its image is missing. The message names the file,
            the entry (counted from 0) and its id.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_folder: str | os.PathLike[str] | None = None,
        each_turn_alone: bool = False,
        columns: Mapping[str, str] | None = None,
        split: str = "train",
    ) -> None:
        self.image_folder = Path(image_folder) if image_folder is not None else Path(path).parent
        self._samples: list[Sample] = []  # with the paths of their images
        entries, self.has_splits = _entries_of_split(path, "conversations", split)
        names = {place: str(place if entry.get("id") is None else entry["id"]) for place, entry in entries}
        renamed = names_of_repeated(names.items())
        for position, entry in entries:
            name = names[position]
            where, unique = f"{path}, entry {position} (id {name})", renamed.get(position, name)
            with errors_naming(where):
                try:
                    entry = _without_marks(entry) if each_turn_alone else entry
                    sample = sample_of(entry | {"id": unique}, position, columns)
                    for field in FIELDS:
                        if sample.get(field) is not None:
                            sample[field] = self._paths(sample[field])  # type: ignore[literal-required]
                    self._samples += each_turn(sample) if each_turn_alone else [sample]
                except ValueError as error:
                    reason = str(error).removeprefix(f"sample {unique!r}").removeprefix(f"sample {unique}")
                    raise ValueError(f"{where}{'' if reason[:1] in ',:' else ': '}{reason}") from error
        if not self._samples:
            raise ValueError(f"{path}: no conversations; give a list of LLaVA-style entries")

    def _paths(self, source: Any) -> Any:
        """Find the files of the images that an entry names."""
        if isinstance(source, list):
            return [self._paths(one) for one in source]
        if isinstance(source, Mapping) and isinstance(source.get("path"), str) and source.get("bytes") is None:
            source = source["path"]
        if not isinstance(source, str):
            raise ImageError(f'"image" is {shown(source)}; name a file relative to the image folder')
        if holds_image(source):
            return source
        return resolve_image(self.image_folder, _name_in_folder(self.image_folder, source))

    def __len__(self) -> int:
        return len(self._samples)

    def number_of_turns(self, index: int) -> int:
        """Count the turns of a sample without opening its images.

        Args:
            index (int): The index of the sample.

        Returns:
            The number of its answers.
        """
        return count_turns(self._samples[index])

    def __getitem__(self, index: int) -> Sample:
        sample = copy.copy(self._samples[index])
        if sample.get("image") is not None:
            sample["image"] = open_image(sample["image"])  # type: ignore[arg-type]
        return sample


def _entries_of_split(
    path: str | os.PathLike[str], what: str, split: str
) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
    """Read the entries of a split, with their positions in the file, and tell whether they name splits at all."""
    entries = list(read_entries(Path(path), what))
    of_entries = [next((entry[key] for key in entry if key.lower() == "split"), None) for entry in entries]
    kept = places_of_split(of_entries, split, str(path))
    places = range(len(entries)) if kept is None else kept
    return [(place, entries[place]) for place in places], kept is not None


def _without_marks(entry: dict[str, Any]) -> dict[str, Any]:
    """Remove the image marks from the turns of an entry with an image: alone, each of them is shown all of it."""
    if not entry.get("image") and not entry.get("images"):
        return entry
    cleaned = {}
    for column in SPELLINGS["messages"]:
        if is_chat(entry.get(column)):
            cleaned[column] = [
                {key: text.replace(IMAGE_MARK, "") if isinstance(text, str) else text for key, text in turn.items()}
                for turn in entry[column]
            ]
    return entry | cleaned


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    """Return a text of one of Alpaca's rows; ``where`` begins the message of an error."""
    value = entry.get(key, "" if key == "input" else None)
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" is {shown(value)}; every row needs a text there')
    return value.strip()


def _name_in_folder(folder: Path, image: str) -> str:
    """Return an image name as it stands, or with COCO's prefix if only the file of that name is there."""
    try:
        if not (folder / image).is_file() and (folder / f"{COCO_PREFIX}{image}").is_file():
            return f"{COCO_PREFIX}{image}"
    except (OSError, ValueError):  # no name of a file, which resolve_image says
        pass
    return image
