"""Reads rows with Hugging Face ``datasets``, from files and folders or from the Hub, and opens no other file for them.

The library decodes images when a row is read, from whatever path or URL the row names. Here rows keep their images as
the files that hold them, and what opens the samples looks where these lie.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from ..json_files import check_for_pyarrow, read_object
from .dataset_names import NoSuchSplit, format_of, hub_id
from .separators import separator_of
from .split_column import rows_of_split_column, split_column
from .splits import files_of_splits, is_guessed
from .stream import reading

# how pyarrow names what pandas takes for an index, because the rows have more cells than the first line has names
SURPLUS = "__index_level_0__"

CONFIGS = re.compile(r"available configs: \[(.*?)\]")  # what the library says where none is named
NOT_UTF8 = "codec can't decode"


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
    if type(feature).__name__ == "Json":  # a column of several types, which holds no file; undecoded, "red" has quotes
        return feature
    return dataclasses.replace(feature, decode=False) if hasattr(feature, "decode") else feature


def _as_written(cell: str) -> str | None:
    return cell or None


# pandas would make numbers, truth values and nothing of 007, True and NA; its columns are named by their places
AS_WRITTEN = {"converters": dict.fromkeys(range(1000), _as_written), "keep_default_na": False}


def _builder(path: str, **arguments: Any) -> Any:
    """Return what reads a data set. The cells of CSV and TSV files are texts as written, unless a card says more."""
    import datasets

    builder = datasets.load_dataset_builder(path, **arguments)
    if not _is_csv(builder):
        return builder
    more = AS_WRITTEN if builder.info.features is None else {}
    first = next((file for files in (builder.config.data_files or {}).values() for file in files), "")
    if builder.config.sep == "," and Path(first).is_file() and (separator := separator_of(Path(first))) != ",":
        more = {**more, "sep": separator}
    return datasets.load_dataset_builder(path, **arguments, **more) if more else builder


def _is_csv(builder: Any) -> bool:
    return hasattr(builder.config, "keep_default_na")


def _builder_of_folder(folder: Path, split: str | None) -> Any:
    """Return what reads a folder, all of it: of splits that the library guesses, it may leave out most files."""
    from datasets.data_files import DataFilesList

    builder = _builder(str(folder))
    guessed = builder.config.data_files or {}
    if not is_guessed(folder, guessed) or _has_card(folder):
        return builder
    there = DataFilesList.from_patterns(["**"], base_path=str(folder.resolve()))
    endings = {Path(file).suffix.lower() for files in guessed.values() for file in files}
    endings.update(getattr(builder, "EXTENSIONS", ()))
    everything = [file for file in there if Path(file).suffix.lower() in endings]
    found = files_of_splits(folder, guessed, everything, hasattr(builder.config, "drop_labels"))
    if found is None:
        return builder
    # alone, because the library makes no classes of folders that lie at different depths
    if split is not None and split in found:
        found = {split: found[split]}
    return _builder(
        str(folder),
        data_files={
            one: DataFilesList([everything[place] for place in places], there.origin_metadata)
            for one, places in found.items()
        },
    )


def _has_card(folder: Path) -> bool:
    """Tell whether the card of a data set says which files are of which split."""
    cards = [folder / "README.md", folder / ".huggingface.yaml"]
    return any("data_files" in card.read_text("utf-8", errors="replace") for card in cards if card.is_file())


def load_rows(name: str, split: str | None, streaming: bool) -> Any:
    """Load a split of a data set.

    Args:
        name (str): As for ``open_library_dataset``.
        split (str | None): The split. Of a data set with one split alone, it is the rows whose column ``split`` has its
            name; without such a column, all rows are taken if the split is "train". None means all rows of such a set.
        streaming (bool): Whether no more is to be read than is used.

    Returns:
        Any: The ``datasets.Dataset`` or ``datasets.IterableDataset``, or None if the name is nothing that the library
        reads.

    Raises:
        ImportError: The library is not installed.
        ValueError: It cannot read the data set, or there is no such split.
    """
    path, hub = Path(name), hub_id(name)
    if (not path.exists() and hub is None) or (path.is_file() and format_of(path) is None):
        return None
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{name} is neither a file nor a folder; save the data to a file")
    if path.is_dir() and escape(name) != name:
        raise ValueError(f"{name}: the library datasets takes the characters [ ] * ? for a pattern; rename the folder")
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} needs the package datasets: pip install datasets") from error
    for file in [path] if path.is_file() else path.rglob("*"):
        if format_of(file) == "json" and file.is_file():
            check_for_pyarrow(file)
    is_csv = False
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            _check_state(path)
            found = datasets.load_from_disk(str(path))
        else:
            if path.is_file():
                separator = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
                builder = _builder(str(format_of(path)), data_files=escape(str(path)), **separator)
            elif path.is_dir():
                builder = _builder_of_folder(path, split)
            else:
                assert hub is not None  # see above
                builder = _builder(hub["path"], name=hub["config"])
            is_csv = _is_csv(builder)
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
        if configs := CONFIGS.search(str(error)):
            remedy = "give the files of one" if path.exists() else f"name one, such as {name}:{_texts(configs[1])[0]}"
            raise ValueError(f"{name}: it has the configurations {', '.join(_texts(configs[1]))}; {remedy}") from error
        # what datasets says of a damaged file is the same for all, and what the file's reader said is the cause
        said = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        reason = next(iter(str(said).strip().splitlines()), type(said).__name__)
        if NOT_UTF8 in reason:
            raise ValueError(f"{name}: not UTF-8 text ({reason}); save it as UTF-8") from error
        where = "the library datasets cannot read it" if path.exists() else "no such path, and not found on the Hub"
        raise ValueError(f"{name}: {where} ({reason})") from error
    with reading(name):
        found = _of_split(found, split, name)
    if is_csv:
        with reading(name):
            _check_cells(found, name)
    return found.to_iterable_dataset() if streaming and isinstance(found, datasets.Dataset) else found


def _of_split(found: Any, split: str | None, name: str) -> Any:
    """Take a split of what was loaded: one of its own, or the rows of it where a column tells them apart."""
    whole = found if not isinstance(found, dict) else next(iter(found.values())) if len(found) == 1 else None
    has_own = isinstance(found, dict) and split in found
    if whole is None:
        if not has_own:
            raise NoSuchSplit(f"{name}: no split {split!r}; it has {', '.join(found)}", found)
        return found[split]
    if split is None:
        return whole
    whole = with_files(whole)  # rows are looked at, and the library would open what they name
    if isinstance(found, dict) and not has_own and split != "train" and split_column(whole) is None:
        raise NoSuchSplit(f"{name}: no split {split!r}; it has {', '.join(found)}", found)
    return rows_of_split_column(whole, split, name, is_own=has_own)


def _texts(names: str) -> list[str]:
    """Return the names in the brackets of an error of the library."""
    return [name.strip().strip("'\"") for name in names.split(",")]


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
