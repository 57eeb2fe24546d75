"""Reads text files with errors that name them, and writes files in one step, so that none is ever half written."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .modeling.one_save import flush, naming_full_disk


def cache_folder() -> Path:
    """Return the folder where this package keeps what it made once.

    Returns:
        ``$ADEM_VL_HF_CACHE``, or ``~/.cache/adem_vl_hf`` if that is not set.
    """
    return Path(os.environ.get("ADEM_VL_HF_CACHE") or Path.home() / ".cache" / "adem_vl_hf")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file in one step, so that an interruption leaves the old file as it was.

    Args:
        path (Path): The file. Missing folders are made.

    Yields:
        An empty temporary file beside the file, to write to in the body of the ``with`` statement. It is flushed to the
        disk and renamed to ``path`` at the end, or removed after an error.

    Raises:
        OSError: The disk is full. The message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # nobody can lay a link there: the name cannot be foretold, and a file that exists is not opened
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with naming_full_disk(path.parent, written=temporary):
            yield temporary
            flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8 in one step, with plain line feeds on every system.

    Args:
        path (Path): The file. Missing folders are made.
        text (str): The text.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON value in one step, indented.

    Args:
        path (Path): The file. Missing folders are made.
        data (Any): The value.
    """
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Args:
        path (Path): The file.

    Returns:
        The text without the mark.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON Lines file. Blank lines are skipped.

    Args:
        path (Path): The file, in UTF-8.

    Yields:
        The number of a line, counted from 1, and its object.

    Raises:
        ValueError: A line is not a JSON object. The message names the file and the line.
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
    """Read the objects of a JSON list, or of a JSON Lines file.

    Args:
        path (Path): The file, in UTF-8. It is JSON Lines if its name ends with ``.jsonl`` or its text begins with an
            object.
        what (str): The format of the entries, for error messages: "LLaVA-style entries".

    Yields:
        An object.

    Raises:
        ValueError: The file is neither of the two, or an entry is not an object. The message names the file and the
            entry.
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
