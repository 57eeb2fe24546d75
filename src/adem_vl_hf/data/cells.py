"""Reads the values of a row's columns, which the formats of ``datasets``, pandas and JSON write in many ways."""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..modeling.field_values import shown
from ..modeling.image_forms import DATA_URL

# the keys under which annotations have their text: VQA's answers, Karpathy's captions of COCO
TEXT_KEYS = ("answer", "raw", "caption", "text", "sentence")
IMAGE_NAME = re.compile(r"[^\n]{1,500}\.(jpe?g|png|webp|gif|bmp|tiff?|avif)", re.IGNORECASE)
MOST_OPTIONS = 26  # those that a letter can name


class Options(list[str]):
    """Holds the choices of a question, and finds the one that an answer names.

    Args:
        texts (Iterable[str]): The choices.
        labels (Iterable[Any]): What names each in the data, if they have labels of their own.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] = ()) -> None:
        super().__init__(texts)
        self.labels = [str(label) for label in labels]

    def named_by(self, answer: str) -> str:
        """Find the choice that an answer names by its label, its number (from 0) or its letter.

        Args:
            answer (str): The answer, which is none of the choices itself.

        Returns:
            The choice; the answer itself if it names none, as a sentence does.

        Raises:
            ValueError: The answer is a number or a letter, and there are not so many choices.
        """
        bare = answer.strip()
        if bare in self.labels:
            return self[self.labels.index(bare)]
        if re.fullmatch(r"\(?[A-Za-z][).]?", bare):
            place = ord(bare.strip("().").upper()) - ord("A")
        elif re.fullmatch(r"-?[0-9]{1,9}", bare):
            place = int(bare)
        else:
            return answer
        if not 0 <= place < len(self):
            raise ValueError(
                f"its answer is {bare}, and its choices are numbered from 0 to {len(self) - 1} (A to "
                f"{chr(ord('A') + min(len(self), MOST_OPTIONS) - 1)})"
            )
        return self[place]


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


def _is_texts(value: Any) -> bool:
    """Tell whether a value inside a list may hold arrays of texts or of dictionaries; arrays of numbers are images."""
    return isinstance(value, (list, tuple, Mapping)) or (isinstance(value, np.ndarray) and value.dtype.kind in "OUS")


def answers_of(said: Any, options: Options | None = None, is_caption: bool = False) -> list[str]:
    """Read an answer or several.

    Args:
        said (Any): A text, a number, a list of them, or VQA's list of ``{"answer": ...}``. Of a list, what is empty is
            left out.
        options (Options | None): The choices, of which the answer may be the label, the number (from 0) or the letter.
        is_caption (bool): Whether it is the text of an image, which no number can be.

    Returns:
        The texts, at least one.

    Raises:
        ValueError: There is none, or something else than a text or a number.
    """
    entries = as_list(said) or [said]
    values = [_text_of(entry) if isinstance(entry, Mapping) else entry for entry in entries]
    texts = [_written(value, options) for value in values if value is not None]
    if is_caption and any(isinstance(value, (int, np.integer)) for value in values):
        raise ValueError(
            f"its text is {shown(said)}; if that is a class, write its name: "
            "rows.map(lambda row: {'text': rows.features['label'].int2str(row['label'])})"
        )
    if not texts or None in texts:
        raise ValueError(f"its answer is {shown(said)}; it must be a text or a list of texts")
    return [text for text in texts if text and text.strip()] or [text or "" for text in texts][:1]


def _text_of(entry: Mapping[str, Any]) -> Any:
    """Return the text of an annotation, or None."""
    return next((entry[key] for key in TEXT_KEYS if entry.get(key) is not None), None)


def _written(value: Any, options: Options | None) -> str | None:
    """Write an answer as a text, or return None for what is neither a text nor a number."""
    if isinstance(value, str):
        return str(value) if options is None or value in options else options.named_by(str(value))
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    if not math.isfinite(value):
        return None  # what pandas has where a cell is empty
    number = str(int(value)) if value == int(value) else str(float(value))
    return number if options is None or value != int(value) else options.named_by(number)


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
    values, labels = choices, []
    if isinstance(values, str) and values.strip():
        try:
            values = ast.literal_eval(values.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            values = choices
    if isinstance(values, Mapping):
        if isinstance(values.get("text"), (list, tuple)):
            values, labels = values["text"], as_list(values.get("label"))
        else:
            values, labels = list(values.values()), list(values)
    if values is None or (isinstance(values, (str, list, tuple)) and not values):
        return None
    written = [_written(value, None) for value in values] if isinstance(values, (list, tuple)) else [None]
    texts = [text for text in written if text is not None]
    if len(texts) != len(written) or (labels and len(labels) != len(texts)):
        raise ValueError(
            f"its choices are {shown(choices)}; they must be a list of texts. Correct them, or remove that column"
        )
    return Options(texts, labels)


def with_options(prompt: str, options: list[str] | None) -> str:
    """Add the choices to a question, in the words of ADEM-VL's prompt for ScienceQA.

    Args:
        prompt (str): The question.
        options (list[str] | None): Its choices.

    Returns:
        The question with a line of the lettered choices, or the question alone if it has none, or more than there are
        letters.
    """
    if not options or len(options) > MOST_OPTIONS:
        return prompt
    lettered = " ".join(f"({chr(ord('A') + number)}) {text}" for number, text in enumerate(options))
    return f"{prompt.rstrip()}\nOptions: {lettered}\nAnswer:"


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
