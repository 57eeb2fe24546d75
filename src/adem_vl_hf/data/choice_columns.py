"""Reads the choices of a question from the columns of a row: one column with all of them, or one column for each."""

import math
import re
from collections.abc import Mapping
from itertools import takewhile
from string import ascii_lowercase
from typing import Any

from ..modeling.field_values import shown
from .cells import as_list, from_cell, written
from .choices import Options

# MMBench has A, B, C and D, SEED-Bench choice_a, others option_a, option1 or Option 1
ONE_CHOICE = re.compile(r"((?:choice|option)s?[ _-]?)?([a-z]|(?<=.)[0-9]{1,2})", re.IGNORECASE)
ORDERS = (ascii_lowercase, [str(number) for number in range(100)], [str(number) for number in range(1, 100)])


def chosen(choices: Any) -> Options | None:
    """Read the choices of a question.

    Args:
        choices (Any): The value of the column: a list of texts or numbers, the same written into a text as CSV has it,
            or a dictionary with the choices by their labels, or with the lists ``text`` and ``label``.

    Returns:
        The choices, or None if there are none.

    Raises:
        ValueError: It is something else.
    """
    values, labels = from_cell(choices) if isinstance(choices, str) else choices, []
    if isinstance(values, Mapping):
        if isinstance(values.get("text"), (list, tuple)):
            values, labels = values["text"], as_list(values.get("label"))
        else:
            values, labels = list(values.values()), list(values)
    if values is None or (isinstance(values, (str, list, tuple)) and not values):
        return None
    texts = [written(value) for value in values] if isinstance(values, (list, tuple)) else [None]
    known = [text.strip() for text in texts if text is not None]
    if len(known) != len(texts) or (labels and len(labels) != len(known)):
        raise ValueError(
            f"its choices are {shown(choices)}; they must be a list of texts. Correct them, or remove that column"
        )
    return Options(known, labels, has_numbers=not all(isinstance(value, str) for value in values))


def choices_in_columns(row: Mapping[str, Any], answer: Any) -> dict[str, Any] | None:
    """Find choices that have a column each: ``A``, ``B``, ...; ``choice_a``, ...; ``option_1``, ....

    Numbers in columns that are called by a letter alone may be anything: they are choices if the answer is one of them.

    Args:
        row (Mapping[str, Any]): The row.
        answer (Any): The answer to its question.

    Returns:
        dict[str, Any] | None: The choices by the letters or numbers of their columns, without empty ones; None if the
        row has no such columns, or all are empty.
    """
    families: dict[str, dict[str, Any]] = {}
    for column, value in row.items():
        if found := ONE_CHOICE.fullmatch(str(column).strip()):
            families.setdefault((found[1] or "").lower(), {})[found[2].lower()] = value
    said = str(answer).strip().strip("().").casefold()
    for prefix, family in families.items():
        measured = all(value is None or isinstance(value, (int, float)) for value in family.values())
        if not prefix and measured and said not in {*family, *map(str, family.values())}:
            continue
        for order in ORDERS:
            labels = list(takewhile(family.__contains__, order))
            filled = {label: family[label] for label in labels if not _is_empty(family[label])}
            if len(labels) > 1 and filled:
                return filled
    return None


def _is_empty(value: Any) -> bool:
    """Tell whether a cell holds nothing: None, a text without a letter, or pandas' NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()
