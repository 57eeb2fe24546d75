"""Prediction files that several processes write: each its own part, one file in the end.

A part lies beside the file as ``NAME.part3``. Parts that an interrupted run left are taken into the file by the next
run, whatever its number of processes.
"""

import glob
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


class Alone:
    """What ``predict`` asks of ``PartialState``, where there is one process."""

    process_index, num_processes, is_main_process = 0, 1, True

    def wait_for_everyone(self) -> None:
        """Nobody to wait for."""


def processes() -> PartialState | Alone:
    """This process among those that torchrun or ``accelerate launch`` started."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Alone()
    # asked for a CPU, PartialState takes gloo; not asked, and without another device, it takes this for one process
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def part_of(output: Path, process: int) -> Path:
    """The part of one process."""
    return output.with_name(f"{output.name}.part{process}")


def take_in_parts(output: Path) -> None:
    """Append to ``output`` every row of its parts that it lacks, then remove them."""
    parts = sorted(output.parent.glob(f"{glob.escape(output.name)}.part*"))
    if not parts:
        return
    with PredictionFile(output) as file:
        for path in parts:
            for row in read_predictions(path):
                if row["id"] not in file.rows:
                    file.append(row)
    for path in parts:
        path.unlink()


class Prediction(TypedDict):
    """One line of a prediction file."""

    id: str
    kind: str
    prediction: str
    references: list[str]
    choices: NotRequired[list[str]]
    images: NotRequired[str]  # "shuffled" or "none" where the model did not see the sample's own image


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """The rows of a prediction file in the order in which their ids first appear; of equal ids the last row counts.

    A last line that is cut off (it does not end, and is no JSON) is what a killed run leaves, and is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no prediction; the message names the file and the line.
    """
    return _read(Path(path))[0]


class PredictionFile:
    """A prediction file opened for going on: ``rows`` (by id) is what it holds, ``append`` adds to it.

    The cut-off last line of a killed run is removed; every added row is on disk before the next is made.
    A context manager. Raises as ``read_predictions``, but a file that is not there is a new one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: dict[str, Prediction] = {}
        whole, ends = 0, True
        if self.path.exists():
            rows, whole, ends = _read(self.path)
            self.rows = {row["id"]: row for row in rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        if not ends:
            self._file.write(b"\n")

    def append(self, row: Prediction) -> None:
        """Write one row and flush it."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self.rows[row["id"]] = row

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _read(path: Path) -> tuple[list[Prediction], int, bool]:
    """The rows, how many bytes of the file hold them, and whether the last of them has its line end."""
    content = path.read_bytes()
    *lines, tail = content.split(b"\n")  # not by str.splitlines: a caption may hold other line separators
    rows: dict[str, Prediction] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add(rows, line, path, number)
    if not tail.strip():
        return list(rows.values()), len(content), True
    try:
        json.loads(tail)
    except ValueError:  # of JSON or of UTF-8
        return list(rows.values()), len(content) - len(tail), True
    _add(rows, tail, path, len(lines) + 1)
    return list(rows.values()), len(content), False


def _add(rows: dict[str, Prediction], line: bytes, path: Path, number: int) -> None:
    where = f"{path}, line {number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); correct or remove the line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {type(row).__name__} instead of an object in curly brackets")
    for key in ("id", "kind", "prediction"):
        if not isinstance(row.get(key), str):
            raise ValueError(f'{where}: "{key}" is {row.get(key)!r}; every prediction needs a text there')
    for key in ("references", "choices"):
        value = row.get(key, [] if key == "choices" else None)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ValueError(f'{where}: "{key}" is {value!r}; give a list of texts')
    rows[row["id"]] = row  # type: ignore[assignment]  # checked above
