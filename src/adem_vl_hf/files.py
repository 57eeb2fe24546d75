"""Text files, read with errors that name them, and written so that what was there before stays whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return the folder where this package keeps what it made once.

    Returns:
        Path: ``$ADEM_VL_HF_CACHE``, or ``~/.cache/adem_vl_hf`` if that is not set.
    """
    return Path(os.environ.get("ADEM_VL_HF_CACHE") or Path.home() / ".cache" / "adem_vl_hf")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8 with plain line feeds on every system."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """One JSON value, indented."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises ValueError if it is in another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file (UTF-8) with their line numbers, counted from 1; blank lines are passed over.

    Raises:
        ValueError: A line that is not a JSON object; the message names the file and the line.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error}); write one object per line") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, line {number}: {type(entry).__name__} instead of an object in curly brackets")
        yield number, entry


def read_entries(path: Path, what: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, or of JSON Lines (by the name, or where the text begins with an object).

    Args:
        what: the entries' format, for the messages: "LLaVA-style entries".

    Raises:
        ValueError: neither of the two, or an entry that is no object; the message names the file and the entry.
    """
    text = read_text(path)
    if path.suffix == ".jsonl" or text.lstrip()[:1] == "{":
        for _, entry in read_jsonl(path):
            yield entry
        return
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); give a list of {what}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {type(entries).__name__} instead of a list of {what}")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, entry {place}: {type(entry).__name__} instead of an object in curly brackets")
        yield entry
