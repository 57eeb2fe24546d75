"""Opens whatever Hugging Face ``datasets`` reads: folders, files and ids of the Hub, whose rows become samples."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..modeling.field_values import shown
from ..modeling.reading import errors_naming
from .cells import class_names, with_class_names
from .columns import SPELLINGS, sample_of
from .dataset_names import NoSuchSplit
from .folder_tables import METADATA, check_columns, lists_images
from .indexing import from_start, names_of_repeated
from .library_rows import load_rows, with_files
from .media import ImageError, holds_image, resolve_image
from .sample import FIELDS, Sample
from .split_column import rows_of_split_column, split_column
from .splits import rows_of_split
from .stream import BUFFER, Stream, reading
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
        name (str): Names the data set in errors.
    """

    def __init__(
        self,
        rows: Any,
        folder: Path | None = None,
        columns: Mapping[str, str] | None = None,
        read: ReadRow = sample_of,
        name: str = "the data set",
    ) -> None:
        self.folder, self.columns, self.read, self.name = folder, columns, read, name
        self.classes = class_names(rows.features)

    def __call__(self, row: Mapping[str, Any], position: int) -> Sample:
        """Make the sample of a row.

        Args:
            row (Mapping[str, Any]): The row.
            position (int): Its number.

        Returns:
            The sample. Its images are not opened.

        Raises:
            ValueError: The row cannot be used. The message names the data set and the row.
        """
        row = with_class_names(row, self.classes)
        name = position if row.get("id") is None else row["id"]
        where = f"{self.name}, row {position} (from 0{'' if name == position else f', id {name}'})"
        with errors_naming(where), _named(where, name):
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


@contextmanager
def _named(where: str, name: Any) -> Iterator[None]:
    """Say in errors where a row is, in place of the name of the sample with which they begin."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("sample "):
            raise
        reason = str(error).removeprefix(f"sample {str(name)!r}").removeprefix(f"sample {name}")
        raise ValueError(f"{where}{'' if reason[:1] in ' ,:' else ': '}{reason}") from error


class LibraryDataset(Dataset[Sample]):
    """Gives the rows of a data set of the library ``datasets`` as samples.

    From the second time that an id occurs, such as that of an image with several questions, the id of a sample is
    ``id@row``.

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
            self._renamed = _renamed(self.rows, make_sample.columns or {})
        if len(rows):
            self[0]  # an unknown column is said before a model is loaded

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, len(self))
        sample = self.make_sample(self._row(index), index)
        return sample | {"id": self._renamed[index]} if index in self._renamed else sample

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


def _renamed(rows: Any, columns: Mapping[str, str]) -> dict[int, str]:
    """Find the rows whose id an earlier row has, too, and give them other ids."""
    small = {**{name.lower(): name for name in rows.column_names}, **{name: name for name in rows.column_names}}
    column = columns.get("id") or next((small[name] for name in SPELLINGS["id"] if name in small), None)
    if column not in rows.column_names:
        return {}
    return names_of_repeated((row, str(row if name is None else name)) for row, name in enumerate(rows[column][:]))


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
    rows, source, folder = _load(name, split, image_folder, streaming=False)
    if rows is None:
        return None
    with errors_naming(name):
        check_columns(Path(name), rows.column_names, columns or {})
        make_sample = RowReader(rows, folder, columns, name=source)
    return LibraryDataset(rows, make_sample, source)


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
    rows, source, folder = _load(name, split, image_folder, streaming=True)
    if rows is None:
        return None
    with reading(name):
        rows = with_files(rows)  # the buffer holds compressed files; the collator opens them
        make_sample = RowReader(rows, folder, columns, read, source)
        for row in rows.take(1):
            check_columns(Path(name), list(row), columns or {})
            make_sample(row, 0)  # an unknown column is said before a model is loaded
        return Stream(rows, make_sample, seed, buffer, name)


def _load(name: str, split: str, image_folder: str | None, streaming: bool) -> tuple[Any, str, Path | None]:
    """Load a split; return its rows, what they were read from, and where their images are (None: the rows hold them).

    The metadata of a folder of images is read as the table that it is. With the folder, the library would make 7 of
    007, and would not read the metadata of a folder that has a folder per split.
    """
    given, path = None if image_folder is None else Path(image_folder), Path(name)
    for folder in (path / split, path):
        for table in (folder / file for file in METADATA):
            if table.is_file() and lists_images(table):
                rows, where = _of_split(str(table), split, folder == path)
                return rows.to_iterable_dataset() if streaming else rows, where, given or folder
    place = path.parent if path.is_file() else path if path.is_dir() else None
    return load_rows(name, split, streaming), name, given or place


def _of_split(table: str, split: str, is_whole: bool) -> tuple[Any, str]:
    """Read the metadata of a folder of images, or of the whole folder that the split is a part of, and name it."""
    rows = load_rows(table, None, streaming=False)  # a stream has to know which splits there are, too
    if is_whole and split_column(rows) is not None:
        return rows_of_split_column(rows, split, table), f"{table} (split {split})"
    kept = rows_of_split(rows["file_name"][:], split, table) if is_whole else None
    if kept is not None:
        return rows.select(kept), f"{table} (split {split})"
    if is_whole and split != "train":
        raise NoSuchSplit(f"{table}: no split {split!r}; it has train", ["train"])
    return rows, table
