"""Holds what the OpenMoji data sets share: their default size, the check of their arguments, and the text fields."""

from collections.abc import Sequence
from typing import Any

DEFAULT_SIZE = 20_000  # samples
CHOICES = 4  # options of a choice question


def check_arguments(name: str, split: str, size: int | None, kinds: Sequence[str], known: Sequence[str]) -> None:
    """Check the arguments that every drawn data set takes.

    Args:
        name (str): The name of the data set, for error messages.
        split (str): "train" or "test".
        size (int | None): The number of samples, at least 1. None means the default of the data set.
        kinds (Sequence[str]): The kinds of questions to ask, at least one.
        known (Sequence[str]): The kinds that the data set has.

    Raises:
        ValueError: An argument has none of these values.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if not kinds or set(kinds) - set(known):
        raise ValueError(f"unknown kinds {sorted(set(kinds) - set(known))}: the {name} data set has {list(known)}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")


def choice_prompt(choices: Sequence[str]) -> str:
    """Ask which of several things is in the image. The answer is the text of one of the choices.

    Args:
        choices (Sequence[str]): At least two choices, in the order asked.

    Returns:
        The question, with the choices in it.
    """
    return f"Which is there: {', '.join(choices[:-1])} or {choices[-1]}?"


def text_fields(
    prompt: str, answer: str, references: Sequence[str] = (), choices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Make the text fields of a sample.

    Args:
        prompt (str): The question, or the beginning of a caption.
        answer (str): The answer, without a space before it.
        references (Sequence[str]): Every true answer. Empty means that ``answer`` is the only one.
        choices (Sequence[str] | None): The possible answers, for a question with few of them.

    Returns:
        The fields ``prompt``, ``answer`` and ``references`` of a sample, and ``choices`` if given.
    """
    fields: dict[str, Any] = {"prompt": prompt, "answer": f" {answer}", "references": list(references) or [answer]}
    return fields if choices is None else fields | {"choices": list(choices)}
