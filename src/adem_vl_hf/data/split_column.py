"""Takes the rows of a split from a table with a column ``split``, as Karpathy's and Flickr30k's tables have it."""

from collections.abc import Iterable
from typing import Any

from .dataset_names import NoSuchSplit
from .splits import SPLITS

KNOWN = {**SPLITS, "restval": "train"}  # what COCO has left of its validation, which is trained as usual


def places_of_split(values: Iterable[object], split: str, name: str, is_own: bool = False) -> list[int] | None:
    """Choose the rows that a column assigns to a split. Rows without a value are trained.

    Args:
        values (Iterable[object]): The values of the column.
        split (str): The split.
        name (str): Names the table in an error.
        is_own (bool): Whether all rows are of this split by the name of their file. If the column names one other
            split alone, it says where they were taken from.

    Returns:
        The places of the rows. None means all: there is no such column, it names no splits, or one alone, and "train"
        is wanted.

    Raises:
        NoSuchSplit: The column names other splits, but not this one.
    """
    values = list(values)
    if all(value is None for value in values):
        return None
    of_rows = [_split(value) for value in values]
    found, wanted = list(dict.fromkeys(of_rows)), _split(split)
    if not _are_splits(found) or (len(found) == 1 and (is_own or wanted == "train")):
        return None
    if wanted not in found:
        raise NoSuchSplit(f"{name}: no split {split!r}; its column of splits has {', '.join(found)}", found)
    return [place for place, one in enumerate(of_rows) if one == wanted]


def split_column(rows: Any) -> str | None:
    """Find the column that says which split a row belongs to.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``. Of the latter, the first row is read.

    Returns:
        The name of the column, or None if there is none whose values are names of splits.
    """
    names: Iterable[str] = rows.column_names or next(iter(rows.take(1)), {})
    column = next((name for name in names if name.lower() == "split"), None)
    if column is None:
        return None
    is_table = hasattr(rows, "unique")
    values = rows.unique(column) if is_table else [row[column] for row in rows.select_columns([column]).take(1)]
    return column if any(value is not None for value in values) and _are_splits(map(_split, values)) else None


def rows_of_split_column(rows: Any, split: str, name: str, is_own: bool = False) -> Any:
    """Take the rows of a split, if a column says which these are.

    Args:
        rows (Any): The ``datasets.Dataset`` or ``datasets.IterableDataset``, whose images are files.
        split (str): The split.
        name (str): Names the data set in an error.
        is_own (bool): As for ``places_of_split``.

    Returns:
        Any: The rows of the split; all rows if there is no such column.

    Raises:
        NoSuchSplit: The column names other splits, but not this one.
    """
    column = split_column(rows)
    if column is None:
        return rows
    if not hasattr(rows, "unique"):
        wanted = _split(split)
        return rows.filter(lambda value: _split(value) == wanted, input_columns=[column])
    kept = places_of_split((row[column] for row in rows.select_columns([column])), split, name, is_own)
    return rows if kept is None else rows.select(kept)


def _split(value: object) -> str:
    """Return the common name of a split."""
    text = "train" if value is None else str(value).strip()
    return KNOWN.get(text.lower(), text)


def _are_splits(names: Iterable[str]) -> bool:
    """Tell whether a column names splits, and not something else that is called so."""
    return not set(names).isdisjoint(KNOWN.values())
