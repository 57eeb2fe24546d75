"""Reads and writes prediction files: JSON Lines with one answer per line, which an interrupted run can continue.

With several processes, each writes a part of its own beside the file, named ``NAME.part3``, and the parts become one
file in the end. Parts that an interrupted run left are taken into the file by the next run, whatever its number of
processes.

In reading order: the file and its rows, then the processes and their parts.
"""

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ..json_files import parse_json
from ..modeling.field_values import has_lone_surrogate, shown
from ..modeling.one_save import naming_full_disk
from ..precision import launched_processes

ROW = b'{"id": '  # how a row begins


class Prediction(TypedDict):
    """Holds one line of a prediction file.

    Attributes:
        id (str): The id of the sample.
        kind (str): The kind of question.
        prediction (str): The answer of the model.
        references (list[str]): Every true answer.
        choices (NotRequired[list[str]]): The possible answers, for questions with few of them.
        images (NotRequired[str]): The image condition, if the model was not shown the sample's own images.
        made_with (NotRequired[dict[str, Any]]): What made it: ``model``, ``max_new_tokens`` and ``asked``, a digest of
            the prompt and its images. Earlier versions did not write it.
    """

    id: str
    kind: str
    prediction: str
    references: list[str]
    choices: NotRequired[list[str]]
    images: NotRequired[str]
    made_with: NotRequired[dict[str, Any]]


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read the rows of a prediction file.

    A killed run may leave a last line that is cut off: it has no line end and is not JSON, but stands behind a
    prediction or begins as one. Such a line is dropped.

    Args:
        path (str | os.PathLike[str]): The file.

    Returns:
        The rows, in the order in which their ids first appear. Of rows with the same id, the last one counts.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a prediction. The message names the file and the line.
    """
    return _read(Path(path))[0]


class PredictionFile:
    """Opens a prediction file in order to continue it, as a context manager.

    The attribute ``rows`` has the rows of the file by their ids. A last line that is cut off is removed. Each added row
    is on disk before the next one is made.

    Args:
        path (str | os.PathLike[str]): The file. It is made if it is not there.

    Raises:
        ValueError: A line is not a prediction, and the message names the file and the line; or the path is of a pipe
            or a device.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: dict[str, Prediction] = {}
        length, is_ended = 0, True
        check_regular(self.path)
        if self.path.exists():
            rows, length, is_ended = _read(self.path)
            self.rows = {row["id"]: row for row in rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(length)
        if not is_ended:
            self._file.write(b"\n")

    def append(self, row: Prediction) -> None:
        """Add a row and flush the file to the disk.

        Args:
            row (Prediction): The row.

        Raises:
            OSError: The disk is full. The message names it, and the rows of before stay.
        """
        with naming_full_disk(self.path.parent):
            self._file.write(line_of(row).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.rows[row["id"]] = row

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming_full_disk(self.path.parent):  # of a full disk, what could not be written before is tried again
            self._file.close()


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may never end and cannot be continued.

    Args:
        path (Path): The prediction file, which need not be there.

    Raises:
        ValueError: It is neither a file nor a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a pipe or a device, and predictions are kept in a file; name one")


def _read(path: Path) -> tuple[list[Prediction], int, bool]:
    """Return the rows, the number of bytes that hold them, and whether the last row has its line end."""
    content = path.read_bytes()
    *lines, tail = content.split(b"\n")  # not str.splitlines, because a caption may have other line separators
    rows: dict[str, Prediction] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add(rows, line, path, number)
    if not tail.strip():
        return list(rows.values()), len(content), True
    try:
        parse_json(tail, str(path), "")
    except ValueError as error:  # the line may be cut off, inside its JSON or inside a character
        if not rows and not tail.startswith(ROW[: len(tail)]):  # somebody's text, which must not be removed
            raise ValueError(f"{path}, line {len(lines) + 1}: not a prediction; this is another file, which stays as "
                             "it is: name another, or remove it") from error  # fmt: skip
        return list(rows.values()), len(content) - len(tail), True
    _add(rows, tail, path, len(lines) + 1)
    return list(rows.values()), len(content), False


def _add(rows: dict[str, Prediction], line: bytes, path: Path, number: int) -> None:
    """Check one line and add it to the rows."""
    where = f"{path}, line {number}"
    row: Any = parse_json(line, where, "correct or remove the line", whole_characters=False)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {type(row).__name__} instead of an object in curly brackets")
    for key in ("id", "kind", "prediction"):
        if not isinstance(row.get(key), str):
            raise ValueError(f'{where}: "{key}" is {shown(row.get(key))}; every prediction needs a text there')
    for key in ("references", "choices"):
        value = row.get(key, [] if key == "choices" else None)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ValueError(f'{where}: "{key}" is {shown(value)}; give a list of texts')
    if not isinstance(row.get("made_with", {}), dict):
        raise ValueError(
            f'{where}: "made_with" is {shown(row["made_with"])}; remove it where nobody knows what made it'
        )
    rows[row["id"]] = row  # type: ignore[assignment]  # checked above


def line_of(row: Prediction) -> str:
    """Write a row as a line of a prediction file.

    Args:
        row (Prediction): The row.

    Returns:
        Its JSON, without a line end. It is in ASCII where a text has half of a surrogate pair, which is not
        part of UTF-8.
    """
    line = json.dumps(row, ensure_ascii=False)
    return json.dumps(row) if has_lone_surrogate(line) else line


class SingleProcess:
    """Stands for ``PartialState`` if there is only one process, without accelerate's start-up."""

    process_index, num_processes, is_main_process = 0, 1, True

    def wait_for_everyone(self) -> None:
        """Return at once, because there is no other process."""


def processes() -> PartialState | SingleProcess:
    """Describe this process among those that torchrun or ``accelerate launch`` started.

    Returns:
        The state, with ``process_index``, ``num_processes``, ``is_main_process`` and ``wait_for_everyone``.
    """
    if launched_processes() == 1:
        return SingleProcess()
    # PartialState must be told that it runs on a CPU. It chooses gloo then. Otherwise, on a machine without another
    # device, it would believe that this process is the only one.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def part_of(output: Path, process: int) -> Path:
    """Return the path of the part that one process writes.

    Args:
        output (Path): The prediction file of all processes.
        process (int): The index of the process.

    Returns:
        The path of its part.
    """
    return output.with_name(f"{output.name}.part{process}")


def take_in_parts(output: Path) -> None:
    """Append to a prediction file every row of its parts that it lacks, then remove the parts.

    Args:
        output (Path): The prediction file of all processes.

    Raises:
        ValueError: A line is not a prediction, and the message names the file and the line; or ``output`` is a pipe
            or a device.
    """
    check_regular(output)
    name = re.compile(rf"{re.escape(output.name)}\.part\d+")
    parts = sorted(path for path in output.parent.glob("*.part*") if name.fullmatch(path.name))
    if not parts:
        return
    with PredictionFile(output) as file:
        for path in parts:
            for row in read_predictions(path):
                if row["id"] not in file.rows:
                    file.append(row)
    for path in parts:
        path.unlink()
