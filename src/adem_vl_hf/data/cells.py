"""Reads the values of a row's columns, which the formats of ``datasets``, pandas and JSON write in many ways."""

import ast
import datetime
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..modeling.field_values import shown
from ..modeling.image_forms import DATA_URL
from .choices import Options

# the keys under which annotations have their text: VQA's answers, Karpathy's captions of COCO
TEXT_KEYS = ("answer", "raw", "caption", "text", "sentence")
SEVERAL = ("text", "question", "answer", "references", "images")  # of which a row may have several in one cell
ROWS = ("messages", "history")  # which are nothing but lists
DATES = (datetime.date, datetime.time, datetime.timedelta)  # of which datetime itself is the first
IMAGE_NAME = re.compile(r"[^\n]{1,500}\.(jpe?g|png|webp|gif|bmp|tiff?|avif)", re.IGNORECASE)


def as_list(value: Any) -> list[Any]:
    """Return a value as a list; a dictionary of lists becomes a list of dictionaries.

    Args:
        value (Any): The value. Old versions of the library ``datasets`` make a dictionary of lists of a list of
            dictionaries.

    Returns:
        The list, which is empty if the value is none.
    """
    if isinstance(value, Mapping) and value and all(isinstance(column, (list, tuple)) for column in value.values()):
        return [dict(zip(value, entries, strict=True)) for entries in zip(*value.values(), strict=False)]
    return list(value) if isinstance(value, (list, tuple)) else []


def value_of(value: Any, role: str, column: str) -> Any:
    """Return the value of a row's column, whose lists may be arrays or texts.

    Args:
        value (Any): The value as it stands.
        role (str): What the column is for.
        column (str): Its name. If it ends with "s", it may hold several texts or images, and a list in a text is read.

    Returns:
        Any: The value with lists.
    """
    if isinstance(value, str) and ((role in SEVERAL and column.lower().endswith("s")) or role in ROWS):
        found = from_cell(value)
        return found if isinstance(found, list) else value
    return without_arrays(value, role)


def without_arrays(value: Any, role: str) -> Any:
    """Turn the arrays that stand for lists into lists, as the formats "numpy" and "torch" of ``datasets`` make them.

    Args:
        value (Any): The value of a column.
        role (str): What the column is for. Arrays of numbers stay for an image, and become lists of images or frames
            if they have one dimension more.

    Returns:
        Any: The value with lists.
    """
    if isinstance(value, (np.ndarray, torch.Tensor)):
        if role in ("image", "images", "video") and not (isinstance(value, np.ndarray) and value.dtype.kind in "OUS"):
            return list(value) if value.ndim == 4 else value
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [without_arrays(one, role) if _is_texts(one) else one for one in value]
    if isinstance(value, Mapping):
        return {key: without_arrays(one, role) if _is_texts(one) else one for key, one in value.items()}
    return value


def from_cell(text: str) -> Any:
    """Read a list or a dictionary that was written into a cell of a table.

    Args:
        text (str): The cell: what Python, JSON or NumPy writes for a list or a dictionary, or any other text.

    Returns:
        Any: The list or the dictionary; any other text as it stands.
    """
    bare = text.strip()
    if bare[:1] not in ("[", "{", "("):
        return text
    for read in (_literal, json.loads):
        try:
            value = read(bare)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
            continue
        if isinstance(value, (list, tuple, Mapping)):
            return value
    return text


def _literal(text: str) -> Any:
    """Read a value of Python. NumPy writes no commas (``['a' 'b']``), and Python would join the texts."""
    parts: list[str] = []
    was_end = False
    for token in tokenize.generate_tokens(io.StringIO(text.replace("\n", " ")).readline):
        is_value = token.type in (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
        if was_end and (is_value or token.string in ("[", "{")):
            parts.append(",")
        was_end = is_value or token.string in ("]", "}")
        parts.append(token.string)
    return ast.literal_eval(" ".join(parts))


def _is_texts(value: Any) -> bool:
    """Tell whether a value inside a list may hold arrays of texts or of dictionaries; arrays of numbers are images."""
    return isinstance(value, (list, tuple, Mapping)) or (isinstance(value, np.ndarray) and value.dtype.kind in "OUS")


def answers_of(said: Any, options: Options | None = None, is_caption: bool = False) -> list[str]:
    """Read an answer or several.

    Args:
        said (Any): A text, a number, a list of them, or VQA's list of ``{"answer": ...}``. Of a list, what is empty is
            left out.
        options (Options | None): The choices. What names one of them becomes its text.
        is_caption (bool): Whether it is the text of an image, which no number can be.

    Returns:
        The texts, at least one.

    Raises:
        ValueError: There is none, or something else than a text or a number.
    """
    entries = as_list(said) or [said]
    values = [_text_of(entry) if isinstance(entry, Mapping) else entry for entry in entries]
    texts = [_named(value, options) for value in values if value is not None]
    if is_caption and any(isinstance(value, (int, np.integer)) for value in values):
        raise ValueError(
            f"its text is {shown(said)}; if that is a class, write its name: "
            "rows.map(lambda row: {'text': rows.features['label'].int2str(row['label'])})"
        )
    if dates := [value for value in values if isinstance(value, DATES)]:
        raise ValueError(
            f"its answer is the date or time {dates[0]}, which the library datasets makes of texts in a JSON file that "
            "look like one; save the table as CSV, whose cells stay as they are written"
        )
    if not texts or None in texts:
        raise ValueError(f"its answer is {shown(said)}; it must be a text or a list of texts")
    return [text for text in texts if text and text.strip()] or [text or "" for text in texts][:1]


def _text_of(entry: Mapping[str, Any]) -> Any:
    """Return the text of an annotation, or None."""
    return next((entry[key] for key in TEXT_KEYS if entry.get(key) is not None), None)


def _named(value: Any, options: Options | None) -> str | None:
    """Write an answer as a text, that of the choice that it names, or return None."""
    text = written(value)
    return text if options is None or text is None else options.named_by(text, not isinstance(value, str))


def written(value: Any) -> str | None:
    """Write a value as a text.

    Args:
        value (Any): The value.

    Returns:
        The text, or None for what is neither a text nor a finite number.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    if not math.isfinite(value):
        return None  # what pandas has where a cell is empty
    return str(int(value)) if value == int(value) else str(float(value))


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Find the columns of a data set that hold the numbers of classes, such as the label of an image folder.

    Args:
        features (Mapping[str, Any] | None): The features of the data set.

    Returns:
        The names of the classes by the name of the column, with spaces for underscores.
    """
    return {
        column: [name.replace("_", " ") for name in feature.names]
        for column, feature in (features or {}).items()
        if hasattr(feature, "int2str")
    }


def with_class_names(row: Mapping[str, Any], classes: Mapping[str, list[str]]) -> Mapping[str, Any]:
    """Replace the numbers of classes in a row by their names.

    Args:
        row (Mapping[str, Any]): The row.
        classes (Mapping[str, list[str]]): The names, as ``class_names`` finds them.

    Returns:
        The row with names. A negative number, which stands for an unknown class, becomes None.
    """
    found: dict[str, Any] = {}
    for column, names in classes.items():
        value = row.get(column)
        if isinstance(value, torch.Tensor) and value.ndim == 0:
            value = value.item()
        if isinstance(value, (int, np.integer)):
            found[column] = names[value] if value >= 0 else None
    return {**row, **found} if found else row


def looks_like_image(value: Any) -> bool:
    """Tell whether a value of a column that nobody knows is an image, or names the file of one.

    Args:
        value (Any): The value.

    Returns:
        Whether it is an image, the bytes of a file, an array of three dimensions, a ``data:`` URL or the name of an
        image file, or a list of such values.
    """
    if isinstance(value, (list, tuple)):
        return any(looks_like_image(one) for one in value[:8])
    if isinstance(value, str):
        return bool(DATA_URL.match(value) or IMAGE_NAME.fullmatch(value))
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys()
    is_array = isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 3
    return is_array or isinstance(value, (Image.Image, bytes, bytearray))
