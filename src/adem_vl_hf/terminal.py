"""Prints texts that come from files, names and configurations without letting them steer the terminal."""

import logging
import sys
import unicodedata
import warnings
from typing import IO, Any

KEPT = "\n\t"
# they turn the direction of the text around them: what is read is not what stands there
TURNING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u2028", "\u2029"}


def printable(value: Any, kept: str = KEPT) -> str:
    r"""Write control characters as escapes, such as ``\x1b`` for the one that begins a terminal's commands.

    Args:
        value (Any): The text, or anything else, of which the text is taken.
        kept (str): The control characters that stay as they are.

    Returns:
        str: The text, which every terminal and every encoding of Unicode takes.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in kept and (unicodedata.category(character) in ("Cc", "Cs") or character in TURNING)
        else character
        for character in str(value)
    )


class NobodyReads(Exception):
    """The reader of standard output has ended, as in ``adem-vl info ... | head -1``."""


def say(value: Any, file: IO[str] | None = None) -> None:
    """Print a text at once, with control characters and what the encoding of the output lacks as escapes.

    Args:
        value (Any): The text.
        file (IO[str] | None): Where it is printed. None means standard output.

    Raises:
        NobodyReads: It is standard output, whose reader has ended.
    """
    file, text = sys.stdout if file is None else file, printable(value)
    if encoding := getattr(file, "encoding", None):  # a result must not be lost because a terminal has no "ü"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError as error:
        if file is sys.stdout:
            raise NobodyReads from error
        raise


def escape_messages() -> None:
    """Write control characters as escapes in all warnings of this process and in the messages of Transformers."""
    if warnings.formatwarning is not _format_warning:
        warnings.formatwarning = _format_warning  # type: ignore[assignment]  # a parameter is called otherwise
    for handler in logging.getLogger("transformers").handlers:
        if _escaped not in handler.filters:
            handler.addFilter(_escaped)


_format_as_python = warnings.formatwarning


def _format_warning(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
    return printable(_format_as_python(message, category, filename, lineno, line))


def _escaped(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
