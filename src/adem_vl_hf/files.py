"""Writes files in one step, so that none is ever half written."""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .modeling.one_save import FULL, flush, naming_full_disk


def cache_folder() -> Path:
    """Return the folder where this package keeps what it made once.

    Returns:
        ``$ADEM_VL_HF_CACHE``, or ``~/.cache/adem_vl_hf`` if that is not set.
    """
    return Path(os.environ.get("ADEM_VL_HF_CACHE") or Path.home() / ".cache" / "adem_vl_hf")


def make_cache(folder: Path) -> None:
    """Make the folder of a cache, if it is missing, before anything is downloaded for it.

    Args:
        folder (Path): The folder.

    Raises:
        OSError: It cannot be made, or nothing can be written to it. The message says how to take another one.
    """
    with naming_full_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise OSError(
                error.errno,
                f"the cache {folder} cannot be written to ({error.strerror}); name a folder of yours in the variable "
                "ADEM_VL_HF_CACHE",
            ) from error


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
    with naming_full_disk(path.parent):
        made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(made).st_mode)
        os.close(made)
    try:
        with naming_full_disk(path.parent, written=temporary):
            yield temporary
            if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors makes files for their owner alone
                temporary.chmod(mode)
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
