"""Reads rows with Hugging Face ``datasets``, from files and folders or from the Hub, and opens no other file for them.

The library decodes images when a row is read, from whatever path or URL the row names. Here rows keep their images as
the files that hold them, and what opens the samples looks where these lie.
"""

import dataclasses
import json
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from ..json_files import check_for_pyarrow, read_object
from ..modeling.reading import errors_naming
from .dataset_names import BUILDERS, NoSuchSplit, hub_id

# how pyarrow names what pandas takes for an index, because the rows have more cells than the first line has names
SURPLUS = "__index_level_0__"


def with_files(rows: Any) -> Any:
    """Leave the images of a data set, and whatever else the library would decode, as the files that hold them.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``.

    Returns:
        Any: The same rows with ``{"bytes", "path"}`` in place of each image, however deep it lies in a column.
    """
    import datasets

    if rows.features is None:
        return rows
    features = datasets.Features({name: _undecoded(feature) for name, feature in rows.features.items()})
    if features == rows.features:
        return rows
    if not isinstance(rows, datasets.Dataset):
        return rows.cast(features)
    # the table stays as it is: Dataset.cast would write a copy of it
    info = rows.info.copy()
    info.features = features
    return datasets.Dataset(rows.data, info=info, split=rows.split, indices_table=rows._indices)


def _undecoded(feature: Any) -> Any:
    """Return a feature that reads what it stores, and opens nothing."""
    if isinstance(feature, Mapping):
        return {name: _undecoded(one) for name, one in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(one) for one in feature]
    if hasattr(feature, "feature"):  # of a list
        return dataclasses.replace(feature, feature=_undecoded(feature.feature))
    return dataclasses.replace(feature, decode=False) if hasattr(feature, "decode") else feature


def _as_written(cell: str) -> str | None:
    return cell or None


# pandas would make numbers, truth values and nothing of 007, True and NA; its columns are named by their places
AS_WRITTEN = {"converters": dict.fromkeys(range(1000), _as_written), "keep_default_na": False}


def _builder(path: str, **arguments: Any) -> Any:
    """Return what reads a data set. The cells of CSV and TSV files are texts as written, unless a card says more."""
    import datasets

    builder = datasets.load_dataset_builder(path, **arguments)
    is_csv = hasattr(builder.config, "keep_default_na")
    if is_csv and builder.info.features is None:
        return datasets.load_dataset_builder(path, **arguments, **AS_WRITTEN)
    return builder


def load_rows(name: str, split: str, streaming: bool) -> Any:
    """Load a split of a data set.

    Args:
        name (str): As for ``open_library_dataset``.
        split (str): The split. A data set with one split alone is taken for it if the split is "train".
        streaming (bool): Whether no more is to be read than is used.

    Returns:
        Any: The ``datasets.Dataset`` or ``datasets.IterableDataset``, or None if the name is nothing that the library
        reads.

    Raises:
        ImportError: The library is not installed.
        ValueError: It cannot read the data set, or there is no such split.
    """
    path, hub = Path(name), hub_id(name)
    if (not path.exists() and hub is None) or (path.is_file() and path.suffix not in BUILDERS):
        return None
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{name} is neither a file nor a folder; save the data to a file")
    if path.is_dir() and escape(name) != name:
        raise ValueError(f"{name}: the library datasets takes the characters [ ] * ? for a pattern; rename the folder")
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} needs the package datasets: pip install datasets") from error
    for file in [path] if path.is_file() else path.rglob("*.json*"):
        if BUILDERS.get(file.suffix) == "json" and file.is_file():
            check_for_pyarrow(file)
    is_csv = False
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            _check_state(path)
            found = datasets.load_from_disk(str(path))
        else:
            if path.is_file():
                separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
                builder = _builder(BUILDERS[path.suffix], data_files=escape(str(path)), **separator)
            elif path.is_dir():
                builder = _builder(str(path))
            else:
                assert hub is not None  # see above
                builder = _builder(hub["path"], name=hub["config"])
            is_csv = hasattr(builder.config, "keep_default_na")
            if streaming:
                found = builder.as_streaming_dataset()
            else:
                builder.download_and_prepare()
                found = builder.as_dataset()
    except datasets.data_files.EmptyDatasetError:
        return None
    except MemoryError:
        raise
    except Exception as error:  # its own, pyarrow's, and those of the readers of each format
        if path.is_dir() and isinstance(error, datasets.exceptions.DataFilesNotFoundError):
            return None
        if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
            raise ValueError(f"{name}: it has no rows") from error
        # what datasets says of a damaged file is the same for all, and what the file's reader said is the cause
        said = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        reason = next(iter(str(said).strip().splitlines()), type(said).__name__)
        where = "the library datasets cannot read it" if path.exists() else "no such path, and not found on the Hub"
        raise ValueError(f"{name}: {where} ({reason})") from error
    if isinstance(found, dict):
        if split not in found and not (split == "train" and len(found) == 1):
            raise NoSuchSplit(f"{name}: no split {split!r}; it has {', '.join(found)}", found)
        found = found[split] if split in found else next(iter(found.values()))
    if is_csv:
        with errors_naming(name):
            _check_cells(found, name)
    return found.to_iterable_dataset() if streaming and isinstance(found, datasets.Dataset) else found


def _check_cells(rows: Any, name: str) -> None:
    """Refuse a table whose rows have more cells than its first line has names: its texts would change columns."""
    if SURPLUS in (rows.column_names or next(iter(rows.take(1)), {})):
        raise ValueError(
            f"{name}: its rows have more cells than its first line has names; put a text with a comma or a tab into "
            "quotes"
        )


def _check_state(folder: Path) -> None:
    """Refuse what ``save_to_disk`` never writes: tables outside their own folder."""
    for state in (*folder.glob("state.json"), *folder.glob("*/state.json")):
        for file in read_object(state).get("_data_files") or ():
            name = file.get("filename") if isinstance(file, Mapping) else None
            if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
                raise ValueError(f"{state}: {json.dumps(name)} is not the name of a file in its folder")
