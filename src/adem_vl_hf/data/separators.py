"""Finds what separates the cells of a CSV file: Excel writes semicolons where a comma is part of a number."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

SEPARATORS = (",", ";", "\t")


def separator_of(table: Path) -> str:
    """Tell what separates the names in the first line of a CSV file.

    Names in quotes may hold any of them.

    Args:
        table (Path): The file.

    Returns:
        A comma, a semicolon or a tab: the commonest of them, or a comma if there is none.
    """
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = next(iter(file), "")
    return max(SEPARATORS, key=re.sub('"[^"]*"', "", first).count)


def read_cells(table: Path) -> Iterator[dict[str, str]]:
    """Read the rows of a CSV file.

    Args:
        table (Path): The file.

    Yields:
        The cells of a row by the names of the columns.
    """
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        yield from csv.DictReader(file, delimiter=separator_of(table))
