"""Saves several files of a folder as one: whoever dies at any moment leaves the files of before or the new ones.

1. The files are written to a folder ``.saving-*`` inside the target. No rename has to leave the file system, so that
   the target may be a mount point, a link to another disk, or lie in a folder that cannot be written to.
2. They are flushed to the disk, and the folder is renamed to ``.saved-*``. From here on the save counts.
3. Each file is renamed into its place, and the folder is removed.

A save into the temporary folder of another, such as that of a processor and its model together, becomes a part of it.

Whoever saves or loads next calls ``finish_save``. It completes the third step of a process that died in it, and removes
what a process has left that died before.
"""

import errno
import filecmp
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
    import resource
except ImportError:  # Windows has no such locks and limits
    fcntl = resource = None  # type: ignore[assignment]

WRITTEN, COUNTS = ".saving-", ".saved-"
REMOVED = ".removed.json"  # in the temporary folder: files of an earlier save that have no place in this one
DAY = 24 * 3600
FULL_DISK = "No space left on device: the disk (or the quota)"
FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_LARGE = "File too large: there is a limit (ulimit -f, or that of the file system), which would be exceeded by"
# how the libraries that write in Rust and C++ say that a disk is full; those in C++ do not say why they failed
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")
FAILED_IN_WORDS = ("PytorchStreamWriter failed", "unexpected pos", "basic_ios::clear")
TOO_LARGE_IN_WORDS = ("File too large", "os error 27")
_going_on: set[Path] = set()  # the temporary folders of this process


@contextmanager
def one_save(target: Path, needed: int | None = None) -> Iterator[Path]:
    """Save files as one.

    Args:
        target (Path): the folder, made if it is missing.
        needed (int | None): the size of what is saved in bytes, for the message of a full disk; None = nobody knows.

    Yields:
        A temporary folder to write the files to. At the end they take the places of those in ``target``; after an error
        they are removed, and those in ``target`` are as before. A ``target`` that is such a folder is its own.

    Raises:
        OSError: the disk is full. The message names the folder and the space that is needed.
        ValueError: a folder inside the target that a file belongs into is a link.
    """
    if target in _going_on:
        with naming_full_disk(target.parent, needed, target):
            yield target
        return
    target.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(target, needed):
        finish_save(target)
    with ExitStack() as held:
        with _locked(target), naming_full_disk(target, needed):  # in here nobody takes it for left behind
            temporary = Path(tempfile.mkdtemp(prefix=WRITTEN, dir=target))
            held.callback(shutil.rmtree, temporary, ignore_errors=True)
            held.enter_context(_locked(temporary))
            _going_on.add(temporary)
            held.callback(_going_on.discard, temporary)
        with naming_full_disk(target, needed, temporary):
            yield temporary
            new = _files(temporary)
            _note_removed(temporary, target, {path.name for path in new})
            for path in new:
                there = _place(path, temporary, target)
                if there.is_file() and filecmp.cmp(path, there, shallow=False):
                    path.unlink()
                else:
                    flush(path)
            flush(temporary)
            with _locked(target):
                counts = temporary.with_name(temporary.name.replace(WRITTEN, COUNTS))
                os.rename(temporary, counts)
                flush(target)
                _move(counts, target)


def finish_save(folder: str | os.PathLike[str]) -> bool:
    """Complete the save of a process that died, if a folder holds one, and remove what is left of other such saves.

    Args:
        folder (str | os.PathLike[str]): the folder. Nothing happens if there is no such folder.

    Returns:
        Whether files were put into their places.

    Raises:
        OSError: the save cannot be completed here.
        ValueError: a folder inside it that a file belongs into is a link.
    """
    target = Path(folder)
    if not _folders(target, WRITTEN, COUNTS):
        return False
    finished = False
    if _folders(target, COUNTS):
        try:
            with _locked(target):  # a process that is alive puts its files into their places meanwhile
                for counts in _folders(target, COUNTS):
                    _move(counts, target)
                    finished = True
        except OSError as error:
            raise OSError(
                error.errno,
                f"{target} holds a save that was interrupted after all of its files were written ({COUNTS}*), and that "
                f"cannot be completed ({error.strerror}): open it once where the folder can be written to",
            ) from error
    if _folders(target, WRITTEN):
        with suppress(OSError), _locked(target):
            for written in _folders(target, WRITTEN):
                if not _in_use(written):
                    shutil.rmtree(written, ignore_errors=True)
    return finished


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk itself, as far as the system can.

    Args:
        path (Path): the file or the folder.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:  # a full disk or a broken one is said, but not every file system can flush everything
        if error.errno in (*FULL, errno.EIO):
            raise


@contextmanager
def naming_full_disk(folder: Path, needed: int | None = None, written: Path | None = None) -> Iterator[None]:
    """Turn each library's error about a full disk into one that names the disk and the space that is needed.

    A limit on the size of a file, which has nothing to do with the disk, is named as such.

    Args:
        folder (Path): where the files go. It need not be there yet.
        needed (int | None): their size in bytes; None = nobody knows.
        written (Path | None): the file or folder that was written so far, and that is removed afterwards.

    Raises:
        OSError: the disk is full, or a file is too large.
    """
    try:
        yield
    except Exception as error:
        number, text = getattr(error, "errno", None), str(error)
        if FULL_DISK in text or TOO_LARGE in text:  # another of these has said it
            raise
        full, large, failed = (
            number in numbers or any(words in text for words in known)
            for numbers, known in ((FULL, FULL_IN_WORDS), ((errno.EFBIG,), TOO_LARGE_IN_WORDS), ((), FAILED_IN_WORDS))
        )
        if not (full or large or failed):
            raise
        sizes = {} if written is None else {path: path.stat().st_size for path in _files(written)}
        if large or (failed and max(sizes.values(), default=0) >= _most_bytes()):
            place = folder / max(sizes, key=sizes.__getitem__).relative_to(written) if written and sizes else folder
            raise OSError(
                errno.EFBIG,
                f"{TOO_LARGE} {place}. What was there before is as it was; raise the limit, or name another place, and "
                "do it again",
            ) from error
        done = sum(sizes.values())
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free + done
        wanted = f"More than {_size(done)}" if needed is None else _size(needed)
        room = f"{_size(free)} are free" if not (needed or done) else f"{wanted} are needed, and {_size(free)} are free"
        raise OSError(
            errno.ENOSPC,
            f"{FULL_DISK} of {folder} is full. {room}. What was there before is as it was; free some space, and do it "
            "again",
        ) from error


def _most_bytes() -> float:
    """Return how large a file of this process may be."""
    if resource is None:
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder, *folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _folders(target: Path, *prefixes: str) -> list[Path]:
    """List the temporary folders in a folder. A link of such a name, as strangers' checkpoints may have, is none."""
    try:
        with os.scandir(target) as entries:
            found = [one.name for one in entries if one.name.startswith(prefixes) and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [target / name for name in sorted(found)]


def _place(path: Path, temporary: Path, target: Path) -> Path:
    """Return where a file of a temporary folder belongs, which never lies behind a link inside the target."""
    inside = path.relative_to(temporary)
    for parent in inside.parents:
        if parent != Path() and (target / parent).is_symlink():
            raise ValueError(
                f"{target / parent} is a link, through which a save could write anywhere; remove it, or put a folder "
                "in its place"
            )
    return target / inside


def _note_removed(temporary: Path, target: Path, new: set[str]) -> None:
    """Note the weights of an earlier save that the new ones would lie beside, and that would be loaded instead."""
    if any(map(_are_weights, new)):
        stale = sorted(path.name for path in target.iterdir() if _are_weights(path.name) and path.name not in new)
        if stale:
            (temporary / REMOVED).write_text(json.dumps(stale), encoding="utf-8")
            flush(temporary / REMOVED)


def _are_weights(name: str) -> bool:
    return name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))


def _move(counts: Path, target: Path) -> None:
    """Put the files of a save into their places. It may be done again from any point of it."""
    noted = counts / REMOVED
    if noted.is_file():
        for name in json.loads(noted.read_text(encoding="utf-8")):
            (target / Path(name).name).unlink(missing_ok=True)
    places = {path: _place(path, counts, target) for path in _files(counts) if path != noted}
    for path, there in places.items():
        there.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, there)
    flush(target)
    shutil.rmtree(counts, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, where the system and the file system have such locks. It ends with the process."""
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if handle is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _in_use(temporary: Path) -> bool:
    """Say whether the process that writes a temporary folder may be alive."""
    try:
        old = time.time() - temporary.stat().st_mtime > DAY
        if fcntl is None:
            return not old
        handle = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    except OSError:  # there are no locks here, or it is gone
        return temporary.exists() and not old
