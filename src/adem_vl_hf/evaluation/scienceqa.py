"""Scores answers to ScienceQA (arXiv 2209.09513): the chosen option, and the nine columns of its table."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ..json_files import read_object
from ..modeling.field_values import check_types, shown
from .metrics import normalise

ANSWER_MARK = "The answer is"
LETTER_FIRST = re.compile(r"\(?([A-Z])(?:\)|[.:,]|$)")  # "B", "(B)", "B.", "B: because ..."

# the types of the fields that the table needs
PROBLEM: dict[str, Any] = {"choices": list[str], "answer": int, "subject": str, "grade": str, "hint": str | None}
Problem = Mapping[str, Any]  # an entry of problems.json
# column of the table -> whether a problem belongs to it
COLUMNS: dict[str, Callable[[Problem], bool]] = {
    "NAT": lambda problem: problem["subject"] == "natural science",
    "SOC": lambda problem: problem["subject"] == "social science",
    "LAN": lambda problem: problem["subject"] == "language science",
    "TXT": lambda problem: bool(problem["hint"]),
    "IMG": lambda problem: bool(problem["image"]),  # a problem may belong to TXT as well
    "NO": lambda problem: not problem["hint"] and not problem["image"],
    "G1-6": lambda problem: _grade(problem) <= 6,
    "G7-12": lambda problem: _grade(problem) > 6,
    "Avg": lambda problem: True,
}


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """Find the option that the text of a model names.

    After "The answer is", it is the option whose text follows, or otherwise, as in the authors' code, the first capital
    letter. In a text without these words, it is a letter at the beginning ("B", "(B)", "B. ..."), or the text of an
    option. A letter beyond the options names none of them.

    Args:
        text (str): The answer of the model.
        choices (Sequence[str]): The options in order.

    Returns:
        The index of the option, or None if the text names none.
    """
    texts = [normalise(choice) for choice in choices]
    _, mark, rest = text.partition(ANSWER_MARK)
    answer = normalise(rest if mark else text)
    # A single character is read as a letter, even if the options are single letters themselves.
    if len(answer) > 1 and answer in texts:
        return texts.index(answer)
    match = re.search("([A-Z])", rest) if mark else LETTER_FIRST.match(text.strip())
    if match:
        index = ascii_uppercase.index(match[1])
        return index if index < len(choices) else None
    return texts.index(answer) if answer in texts else None


def scienceqa_scores(
    predictions: Sequence[Mapping[str, Any]],
    problems: str | os.PathLike[str] | Mapping[str, Problem] | None = None,
) -> dict[str, Any]:
    """Score answers to choice questions.

    Args:
        predictions (Sequence[Mapping[str, Any]]): Rows with ``id`` (the pid), ``prediction``, ``choices`` and
            ``references`` (the text of the right choice).
        problems (str | os.PathLike[str] | Mapping[str, Problem] | None): The path of ``problems.json`` or its content.
            If given, the right choices and the columns of ScienceQA's table are read from it.

    Returns:
        ``accuracy`` (0 ... 1), ``chance`` (the mean of 1 / number of choices), ``n``, and ``unreadable`` (the number of
        predictions that name no option, which count as wrong). With ``problems`` also ``columns``, the accuracy by
        column of the table, or None for a column that no prediction belongs to.

    Raises:
        ValueError: There are no predictions, one has no choices, or its id is not in ``problems.json``.
    """
    if not predictions:
        raise ValueError("no predictions to score; give at least one")
    known = _read_problems(Path(problems)) if isinstance(problems, str | os.PathLike) else problems
    right, unreadable, chance = [], 0, 0.0
    for row in predictions:
        choices, truth = _truth(row, known)
        choice = read_choice(row["prediction"], choices)
        unreadable += choice is None
        chance += 1 / len(choices) / len(predictions)
        right.append(choice == truth)
    scores: dict[str, Any] = {
        "accuracy": sum(right) / len(right),
        "chance": chance,
        "n": len(right),
        "unreadable": unreadable,
    }
    if known is not None:
        scores["columns"] = {
            name: _mean([ok for ok, row in zip(right, predictions, strict=True) if belongs(known[row["id"]])])
            for name, belongs in COLUMNS.items()
        }
    return scores


def _truth(row: Mapping[str, Any], problems: Mapping[str, Problem] | None) -> tuple[list[str], int]:
    """Return the choices of a row and the index of the right one."""
    if problems is not None:
        if row["id"] not in problems:
            raise ValueError(f"prediction {row['id']!r} is not in problems.json; give the file of the same data set")
        return problems[row["id"]]["choices"], problems[row["id"]]["answer"]
    choices, references = row.get("choices") or [], row["references"]
    if not references or references[0] not in choices:
        raise ValueError(
            f"prediction {row['id']!r}: its reference {references[:1]} is not among its choices {choices}; "
            "write both into the prediction file, or give problems.json"
        )
    return choices, choices.index(references[0])


def _read_problems(path: Path) -> dict[str, Problem]:
    """Read ``problems.json`` and check the fields that the columns need."""
    problems = read_object(path)
    needed = {"choices", "answer", "hint", "image", "subject", "grade"}
    for pid, problem in problems.items():
        if not isinstance(problem, dict):
            raise ValueError(f"{path}, problem {pid}: {shown(problem)} instead of an object in curly brackets")
        if missing := sorted(needed - set(problem)):
            raise ValueError(f"{path}, problem {pid}: no {', '.join(missing)}; the table's columns need them")
        check_types(PROBLEM, problem, f"{path}, problem {pid}: ")
        if not 0 <= problem["answer"] < len(problem["choices"]):
            raise ValueError(f"{path}, problem {pid}: answer {shown(problem['answer'])} is the index of no choice")
        if not re.fullmatch(r"grade\d{1,3}", problem["grade"], re.ASCII):
            raise ValueError(f"{path}, problem {pid}: grade {shown(problem['grade'])}; expected grade1 ... grade12")
    return problems


def _grade(problem: Problem) -> int:
    return int(problem["grade"].removeprefix("grade"))


def _mean(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
