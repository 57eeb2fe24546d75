"""Keeps one tensor for each key in the files of a folder, which several processes read and extend at the same time.

Nobody writes to a file of another process: each has two of its own, which it makes when it has something to keep.

    TIME-NAME.features   the bytes of the tensors, one behind the other, all of one shape and dtype
    TIME-NAME.index      for each tensor its key (16 bytes) and the CRC-32 of its bytes (4 bytes, little-endian)
    features.json        the shape, the dtype, and what the tensors are of

A tensor counts once its entry in the index is there, and the entry is written after the tensor: of a process that died,
everything but the last tensor is left. Tensors are read with ordinary reads, which the system serves from memory where
it can, and not through a memory map: the process would die of a file that is cut while it is mapped.
"""

import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .files import write_json
from .json_files import read_object
from .modeling.one_save import naming_full_disk

logger = logging.getLogger("adem_vl_hf")
KEY_BYTES = 16
ENTRY = struct.Struct(f"<{KEY_BYTES}sI")  # key, CRC-32
ABOUT = "features.json"


class _Place(NamedTuple):
    """Where a tensor is: its file, its number there, and the CRC-32 of its bytes."""

    file: Path
    number: int
    checksum: int


class FeatureFiles:
    """The tensors of a folder, by key.

    Args:
        folder (Path): The folder. It is made when the first tensor is kept.
        about (dict[str, Any]): What the tensors are of, for people who open ``features.json``.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self._shape: tuple[int, ...] | None = None
        self._dtype = torch.float32
        self._places: dict[bytes, _Place] = {}
        self._entries_read: dict[Path, int] = {}  # by index file
        self._named: set[Path] = set()  # damaged files that a warning has named
        self._own: tuple[int, Path] | None = None  # the process that writes, and its file
        self._written = 0  # tensors in the own file
        self._full = False
        self._refresh()

    def find(self, keys: Iterable[bytes]) -> dict[bytes, torch.Tensor]:
        """Read the tensors that are there.

        Args:
            keys (Iterable[bytes]): The keys, 16 bytes each.

        Returns:
            The tensors on the CPU by key, without those that are not there or whose file is damaged.
        """
        keys = set(keys)
        if not keys <= self._places.keys():  # another process may have computed them meanwhile
            self._refresh()
        found = {key: self._read(key, self._places[key]) for key in keys if key in self._places}
        return {key: tensor for key, tensor in found.items() if tensor is not None}

    def keep(self, keys: Sequence[bytes], tensors: torch.Tensor) -> None:
        """Write tensors behind the others of this process. If that fails, a warning says why, and no more are kept.

        Args:
            keys (Sequence[bytes]): The n keys, 16 bytes each.
            tensors (torch.Tensor): [n, ...].
        """
        if self._full or not len(keys):
            return
        tensors = tensors.detach().cpu().contiguous()
        try:
            with naming_full_disk(self.folder):
                self._write(keys, tensors)
        except OSError as error:  # a full disk, a folder of somebody else, a server that is gone
            self._full = True
            logger.warning("%s. Training continues without caching more features.", error)

    def _write(self, keys: Sequence[bytes], tensors: torch.Tensor) -> None:
        about = self.folder / ABOUT  # missing at first, and where somebody has deleted the folder
        if self._shape != tuple(tensors.shape[1:]) or self._dtype != tensors.dtype or not about.is_file():
            self._begin(tensors)
        own = self._own  # none yet, or that of the process this one was forked of, or deleted
        if own is None or own[0] != os.getpid() or (self._written and not own[1].is_file()):
            name = f"{time.time_ns():020d}-{secrets.token_hex(8)}.features"
            self._own, self._written = (os.getpid(), self.folder / name), 0
        assert self._own is not None
        file, entries = self._own[1], []
        with file.open("ab") as features:
            features.truncate(self._written * self._bytes())  # what was cut off by a full disk
            for key, tensor in zip(keys, tensors, strict=True):
                content = bytes_of(tensor)
                features.write(content)
                entries.append((key, zlib.crc32(content)))
        with _index(file).open("ab") as index:
            index.write(b"".join(ENTRY.pack(*entry) for entry in entries))
        for key, checksum in entries:
            self._places[key] = _Place(file, self._written, checksum)
            self._written += 1
        self._entries_read[_index(file)] = self._written

    def _begin(self, tensors: torch.Tensor) -> None:
        """Note the shape and the dtype of the tensors in ``features.json``."""
        self._shape, self._dtype = tuple(tensors.shape[1:]), tensors.dtype
        dtype = str(self._dtype).removeprefix("torch.")
        write_json(self.folder / ABOUT, {"shape": self._shape, "dtype": dtype, **self.about})

    def _bytes(self) -> int:
        assert self._shape is not None
        return torch.Size(self._shape).numel() * self._dtype.itemsize

    def _refresh(self) -> None:
        """Read what is new in the index files."""
        about = self.folder / ABOUT
        if self._shape is None and not about.is_file():  # nor is it a pipe, at which reading would wait
            return
        if self._shape is None:
            try:
                noted = read_object(about)
                shape, dtype = tuple(map(int, noted["shape"])), getattr(torch, noted["dtype"])
                if min(shape, default=0) < 0 or not isinstance(dtype, torch.dtype):
                    raise ValueError(f"{noted['shape']} of {noted['dtype']} is no kind of tensor")
                self._shape, self._dtype = shape, dtype
            except (OSError, OverflowError, ValueError, KeyError, TypeError, AttributeError) as error:
                self._name(about, f"is damaged ({error})")
                return
        for index in sorted(self.folder.glob("*.index")):  # by time: what was made again counts
            read = self._entries_read.get(index, 0)
            try:
                if not index.is_file() or index.stat().st_size < (read + 1) * ENTRY.size:
                    continue
                with index.open("rb") as file:
                    file.seek(read * ENTRY.size)
                    content = file.read()
            except FileNotFoundError:  # somebody deletes the folder
                continue
            except OSError as error:
                self._name(index, f"cannot be read ({error.strerror})")
                continue
            content = content[: len(content) // ENTRY.size * ENTRY.size]  # the last entry may be on its way
            for number, (key, checksum) in enumerate(ENTRY.iter_unpack(content), start=read):
                self._places[key] = _Place(index.with_suffix(".features"), number, checksum)
            self._entries_read[index] = read + len(content) // ENTRY.size

    def _read(self, key: bytes, place: _Place) -> torch.Tensor | None:
        """Read one tensor; None if its file is damaged."""
        assert self._shape is not None
        size, content, damage = self._bytes(), bytearray(), ""
        try:
            with place.file.open("rb", buffering=0) as file:
                # of a damaged shape the size may be any number
                if os.fstat(file.fileno()).st_size >= (place.number + 1) * size:
                    content = bytearray(size)
                    file.seek(place.number * size)
                    file.readinto(content)
                    damage = "" if zlib.crc32(content) == place.checksum else "is damaged"
                else:
                    damage = "is cut off"
        except FileNotFoundError:
            damage = "is gone"
        except OSError as error:
            damage = f"cannot be read ({error.strerror})"
        if damage:
            self._name(place.file, damage)
            del self._places[key]
            return None
        return torch.frombuffer(content, dtype=self._dtype).view(self._shape)

    def _name(self, file: Path, damage: str) -> None:
        if file not in self._named:
            self._named.add(file)
            logger.warning("%s %s: features that cannot be read from it are computed again", file, damage)


def _index(file: Path) -> Path:
    return file.with_suffix(".index")


def bytes_of(tensor: torch.Tensor) -> Any:
    """Return the bytes of a tensor.

    Args:
        tensor (torch.Tensor): The tensor, on any device.

    Returns:
        Any: An array of uint8, which is a buffer, and shares the memory of a contiguous tensor on the CPU.
    """
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
