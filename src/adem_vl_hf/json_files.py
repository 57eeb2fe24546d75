"""Reads text, JSON and JSON Lines files; whatever is wrong with one is said by its name and line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .modeling.field_values import has_lone_surrogate

# an escape that is half of a character beyond U+FFFF, such as an emoji that was cut in the middle
LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)

LOG, ENTRY = "log.jsonl", b'{"step": '  # the log of a training, and with what each of its lines begins
MOST_NESTED = 200  # lists and objects inside one another
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]')  # a text, or what opens or closes a list or an object


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


def parse_json(text: str | bytes, where: str, remedy: str, whole_characters: bool = True) -> Any:
    """Parse a JSON value.

    Args:
        text (str | bytes): The JSON.
        where (str): Names the file, and the line of a JSON Lines file, in errors.
        remedy (str): What to do about a value that is no JSON.
        whole_characters (bool): Whether half of an escaped surrogate pair is refused, which no tokenizer and no file
            takes.

    Returns:
        The value.

    Raises:
        ValueError: It is no JSON, is nested too deep, or has half of a surrogate pair in a text.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); {remedy}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: not valid JSON (nested too deep to be read); {remedy}") from error
    if whole_characters and isinstance(text, str):
        found = LONE_SURROGATE.search(text)
        if found is not None and _has_lone_surrogate(value):
            line = text.count("\n", 0, found.start()) + 1
            place = where if ", line" in where else f"{where}, line {line}"
            raise ValueError(
                f"{place}: {found[0]} is half of a surrogate pair, as of an emoji that was cut; write the whole "
                "character or remove it"
            )
    return value


def _has_lone_surrogate(value: Any) -> bool:
    """Look through a JSON value, which may be nested as deep as the parser allows."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if has_lone_surrogate(one):
                return True
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
    return False


def read_object(path: Path, remedy: str = "fetch it again") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path (Path): The file, in UTF-8.
        remedy (str): What to do about a file that is none.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no JSON object.
    """
    content = parse_json(read_text(path), str(path), remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {type(content).__name__} instead of an object in curly brackets; {remedy}")
    return content


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
        entry = parse_json(line, f"{path}, line {number}", "write one object per line")
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
    entries = parse_json(text, str(path), f"give a list of {what}")
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {type(entries).__name__} instead of a list of {what}")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, entry {place}: {type(entry).__name__} instead of an object in curly brackets")
        yield entry


def check_for_pyarrow(path: Path) -> None:
    """Refuse a JSON Lines file with which pyarrow, which reads it next, would crash or never end.

    Those are a line that is nested very deep, and a ``null`` in the place of an object. Of a file whose values go over
    several lines, which pyarrow does not read, nothing is refused.

    Args:
        path (Path): The file.

    Raises:
        ValueError: There is such a line. The message names it.
    """
    between_rows = True
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where, stripped = f"{path}, line {number}", line.removeprefix(b"\xef\xbb\xbf").strip()
            if between_rows and stripped.startswith(b"null"):
                raise ValueError(f"{where}: null instead of an object in curly brackets; remove the line")
            between_rows = stripped.endswith(b"}") or (between_rows and not stripped)
            if line.count(b"[") + line.count(b"{") > MOST_NESTED and _depth(line) > MOST_NESTED:
                raise ValueError(f"{where}: more than {MOST_NESTED} lists and objects inside one another")


def _depth(line: bytes) -> int:
    """Count the lists and objects inside one another in a line of JSON."""
    depth = deepest = 0
    for token in TOKEN.finditer(line):
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        deepest = max(deepest, depth)
    return deepest
