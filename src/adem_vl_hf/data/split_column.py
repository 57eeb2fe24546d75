"""Takes the rows of a split from a table with a column ``split``, as Karpathy's and Flickr30k's tables have it."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from .dataset_names import NoSuchSplit
from .splits import SPLITS

# what COCO has left of its validation, and a split that is both, are trained as usual
KNOWN = {**SPLITS, "restval": "train", "trainval": "train"}
OF_A_YEAR = re.compile("(train|val|test)20[0-9]{2}", re.IGNORECASE)  # as COCO and VQA write it
FIRST_ROWS = 100  # of a stream


def places_of_split(values: Iterable[object], split: str, name: str, is_own: bool = False) -> list[int] | None:
    """Choose the rows that a column assigns to a split.

    Rows whose value is missing, or names neither a validation nor a test split, are trained.

    Args:
        values (Iterable[object]): The values of the column.
        split (str): The split.
        name (str): Names the table in an error.
        is_own (bool): Whether the name of its file already says that all rows are of this split. A column that names
            another split alone is then ignored.

    Returns:
        The places of the rows. None means all: there is no such column, it names no splits, or one alone, and "train"
        is wanted.

    Raises:
        NoSuchSplit: The column names other splits, but not this one.
    """
    values = list(values)
    if _is_whole(values, split, is_own):
        return None
    kept = [place for place, value in enumerate(values) if _is_of(value, split)]
    if not kept:
        found = list(dict.fromkeys(map(_split, values)))
        raise NoSuchSplit(f"{name}: no split {split!r}; its column of splits has {', '.join(found)}", found)
    return kept


def split_column(rows: Any) -> str | None:
    """Find the column that says which split a row belongs to.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``. Of the latter, the first rows are read.

    Returns:
        The name of the column, or None if there is none whose values are names of splits.
    """
    column, values = _column(rows)
    return column if _are_splits(values) else None


def rows_of_split_column(rows: Any, split: str, name: str, is_own: bool = False) -> Any:
    """Take the rows of a split, if a column says which these are.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``, whose images are files. What a stream
            has is judged by its first rows.
        split (str): The split.
        name (str): Names the data set in an error.
        is_own (bool): As for ``places_of_split``.

    Returns:
        Any: The rows of the split; all rows if there is no such column.

    Raises:
        NoSuchSplit: The column names other splits, but not this one.
    """
    column, values = _column(rows)
    if not _is_stream(rows):
        kept = places_of_split(values, split, name, is_own)
        return rows if kept is None else rows.select(kept)
    if _is_whole(values, split, is_own):
        return rows
    names = _label_names(rows, column)
    return rows.filter(lambda value: _is_of(_named(value, names), split), input_columns=[column])


def _column(rows: Any) -> tuple[str | None, list[Any]]:
    """Return the name of the column and its values, of a stream the first ones; labels of a class by their names."""
    columns: Iterable[str] = rows.column_names or next(iter(rows.take(1)), {})
    column = next((name for name in columns if name.lower() == "split"), None)
    if column is None:
        return None, []
    found = rows.select_columns([column])
    values = [row[column] for row in islice(found, FIRST_ROWS)] if _is_stream(rows) else found[:][column]
    names = _label_names(rows, column)
    return column, [_named(value, names) for value in values]


def _label_names(rows: Any, column: str | None) -> list[str]:
    """Return the names of the labels of a column that holds their numbers."""
    return getattr((rows.features or {}).get(column), "names", None) or []


def _named(value: Any, names: list[str]) -> Any:
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


def _is_stream(rows: Any) -> bool:
    return not hasattr(rows, "unique")


def _split(value: object) -> str:
    """Return the common name of a split."""
    text = "train" if value is None else str(value).strip()
    if found := OF_A_YEAR.fullmatch(text):
        text = found[1]
    return KNOWN.get(text.lower(), text)


def _is_of(value: object, split: str) -> bool:
    name, wanted = _split(value), _split(split)
    return name == wanted or (wanted == "train" and name not in KNOWN.values())


def _is_whole(values: list[Any], split: str, is_own: bool) -> bool:
    """Tell whether a column leaves all rows to the split that is wanted."""
    is_one = len(set(map(_split, values))) == 1
    return not _are_splits(values) or (is_one and (is_own or _split(split) == "train"))


def _are_splits(values: Iterable[object]) -> bool:
    """Tell whether a column names splits, and not something else that is called so; a missing value names none."""
    texts = [value for value in values if value is not None]
    return all(isinstance(text, str) for text in texts) and any(_split(text) in KNOWN.values() for text in texts)
