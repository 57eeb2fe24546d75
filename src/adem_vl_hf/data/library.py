"""Opens whatever Hugging Face ``datasets`` reads: folders, files and ids of the Hub, whose rows become samples."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import registered_extensions
from torch.utils.data import Dataset

from ..modeling.field_values import shown
from ..modeling.reading import errors_naming
from .cells import class_names, with_class_names
from .columns import sample_of
from .indexing import from_start
from .library_rows import load_rows, with_files
from .media import ImageError, holds_image, resolve_image
from .sample import FIELDS, Sample
from .stream import BUFFER, Stream
from .turns import count_turns

ReadRow = Callable[[Mapping[str, Any], int, Mapping[str, str] | None], Sample]


class RowReader:
    """Makes samples of the rows of a data set.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``.
        folder (Path | None): Where the images are that a column names by their paths. None means that the rows hold
            the images themselves.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.
        read (ReadRow): Makes a sample of a row, its number and the names of its columns; its images are not found yet.
    """

    def __init__(
        self,
        rows: Any,
        folder: Path | None = None,
        columns: Mapping[str, str] | None = None,
        read: ReadRow = sample_of,
    ) -> None:
        self.folder, self.columns, self.read = folder, columns, read
        self.classes = class_names(rows.features)

    def __call__(self, row: Mapping[str, Any], position: int) -> Sample:
        """Make the sample of a row.

        Args:
            row (Mapping[str, Any]): The row.
            position (int): Its number.

        Returns:
            The sample. Its images are not opened.

        Raises:
            ValueError: No column has a text to train on.
        """
        row = with_class_names(row, self.classes)
        with errors_naming(f"sample {row.get('id') or position}"):
            sample = self.read(row, position, self.columns)
            for field in FIELDS:
                if sample.get(field) is not None:
                    placed = self._placed(sample[field])
                    if field == "video" and isinstance(placed, Mapping) and not placed.get("bytes"):
                        placed = placed.get("path", placed)  # of a video folder
                    sample[field] = placed  # type: ignore[literal-required]
        return sample

    def _placed(self, source: Any) -> Any:
        """Find the file of an image or a video that a row names, in the folder of the data."""
        if isinstance(source, list):
            return [self._placed(one) for one in source]
        if isinstance(source, Mapping) and not isinstance(source.get("bytes"), bytes | bytearray | memoryview):
            path = source.get("path")
            if isinstance(path, str) and "://" not in path and not self._is_of_library(path):
                if self.folder is None or Path(path).is_absolute():
                    raise ImageError(
                        f"{path}: a row names this file, which is not a part of the data set; the row has to hold it"
                    )
                return resolve_image(self.folder, path)
            return source  # what a URL names, open_image refuses
        if not isinstance(source, str) or holds_image(source):
            return source
        if self.folder is None:
            raise ImageError(f"{shown(source)} names a file, and rows of the Hub have to hold their images themselves")
        return resolve_image(self.folder, source)

    def _is_of_library(self, path: str) -> bool:
        """Tell whether the library itself found or unpacked a file that a row names: rows may name any file."""
        import datasets

        folders = [self.folder, datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE]
        found = Path(path).resolve()
        return any(folder is not None and found.is_relative_to(Path(folder).resolve()) for folder in folders)


class LibraryDataset(Dataset[Sample]):
    """Gives the rows of a data set of the library ``datasets`` as samples.

    Args:
        rows (Any): The ``datasets.Dataset``.
        make_sample (RowReader): Makes a sample of a row and its number.
        name (str): Names the data set in errors.

    Raises:
        ValueError: A row cannot be read, or no column has a text to train on.
    """

    def __init__(self, rows: Any, make_sample: RowReader, name: str) -> None:
        self.make_sample, self.name = make_sample, name
        with errors_naming(name):
            # the library would open any file of this machine that a row names; what opens the samples does not
            self.rows = with_files(rows)
        if len(rows):
            self[0]  # an unknown column is said before a model is loaded

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, len(self))
        return self.make_sample(self._row(index), index)

    def _row(self, index: int) -> dict[str, Any]:
        with errors_naming(self.name):
            return self.rows[index]

    def number_of_turns(self, index: int) -> int:
        """Count the turns of a sample without opening its images.

        Args:
            index (int): The index of the sample.

        Returns:
            The number of its questions, or of the answers in its chat.
        """
        return count_turns(self.make_sample(self._row(index), index))


def open_library_dataset(
    name: str,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    image_folder: str | None = None,
) -> LibraryDataset | None:
    """Open a data set with ``datasets.load_dataset`` or ``load_from_disk``.

    Args:
        name (str): A folder that ``save_to_disk`` wrote, or one with parquet, CSV, JSON or tar files (webdataset) or
            with images (with ``metadata.csv``, or in a folder per class); one file of these kinds; or the id of a data
            set on the Hub, ``user/set`` or ``user/set:config``.
        split (str): The split. A data set with one split alone is taken for it if the split is "train".
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.
        image_folder (str | None): The folder that the names of images are relative to. None means that of the data.

    Returns:
        LibraryDataset | None: The data set, or None if the name is none of these.

    Raises:
        ImportError: The library is not installed.
        ValueError: It cannot read the data set, or there is no such split.
    """
    source, part, folder = _source(name, split, image_folder)
    rows = load_rows(source, part, streaming=False)
    if rows is None:
        return None
    with errors_naming(name):
        make_sample = RowReader(rows, folder, columns)
    return LibraryDataset(rows, make_sample, name)


def open_library_stream(
    name: str,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    buffer: int = BUFFER,
    image_folder: str | None = None,
    read: ReadRow = sample_of,
) -> Stream | None:
    """Open a data set as a stream, of which no more is read than is used.

    Args:
        name (str): As for ``open_library_dataset``.
        split (str): The split. A data set with one split alone is taken for it if the split is "train".
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know.
        seed (int): The seed of the order.
        buffer (int): The number of rows that are shuffled together.
        image_folder (str | None): The folder that the names of images are relative to. None means that of the data.
        read (ReadRow): Makes a sample of a row, as for ``RowReader``.

    Returns:
        Stream | None: The stream, or None if the name is none of these.

    Raises:
        ImportError: The library is not installed.
        ValueError: It cannot read the data set, there is no such split, or no column has a text to train on.
    """
    source, part, folder = _source(name, split, image_folder)
    rows = load_rows(source, part, streaming=True)
    if rows is None:
        return None
    with errors_naming(name):
        rows = with_files(rows)  # the buffer holds compressed files; the collator opens them
        make_sample = RowReader(rows, folder, columns, read)
        for row in rows.take(1):
            make_sample(row, 0)  # an unknown column is said before a model is loaded
        return Stream(rows, make_sample, seed, buffer, name)


def _source(name: str, split: str, image_folder: str | None) -> tuple[str, str, Path | None]:
    """Return what the library is to read, which split of it, and where its images are (None: the rows hold them).

    The ``metadata.csv`` of a folder of images is read as the table that it is. With the folder, the library would make
    7 of 007.
    """
    given, path = None if image_folder is None else Path(image_folder), Path(name)
    whole = [] if (path / split).is_dir() else [(path, split)]
    for folder, part in [(path / split, "train"), *whole]:
        table = folder / "metadata.csv"
        if table.is_file() and _lists_images(table):
            return str(table), part, given or folder
    if given is not None:
        return name, split, given
    return name, split, path.parent if path.is_file() else path if path.is_dir() else None


def _lists_images(table: Path) -> bool:
    """Tell whether the first row of a CSV file names an image as its ``file_name``, and not a video."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        row = next(csv.DictReader(file), {})
    return Path(row.get("file_name") or "").suffix.lower() in registered_extensions()
