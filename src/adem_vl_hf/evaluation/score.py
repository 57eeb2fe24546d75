"""From predictions to scores, by task: one dictionary that can be written as JSON."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .metrics import available, caption_metrics, question_accuracy
from .mme import mme_prediction_scores, mme_scores
from .predictions import Prediction, read_predictions
from .scienceqa import Problem, scienceqa_scores

TASKS = (
    "caption",
    "questions",
    "openmoji-names",
    "openmoji-scenes",
    "openmoji-videos",
    "openmoji-pairs",
    "scienceqa",
    "coco-caption",
    "mme",
)

# what papers print times 100, among numbers that are shares or CIDEr
PER_HUNDRED = {"accuracy", "accuracy_plus", "chance", "exact_match", "bleu4", "cider", "columns"}


def score(
    task: str,
    predictions: str | os.PathLike[str] | Sequence[Prediction],
    problems: str | os.PathLike[str] | Mapping[str, Problem] | None = None,
) -> dict[str, Any]:
    """Scores of existing predictions.

    Args:
        task: one of ``TASKS``. "caption" scores every row as a caption, "questions" every row as an answer, by kind;
            the "openmoji" tasks hold both, told apart by ``kind``; "coco-caption" is "caption" on the words that
            COCO's evaluation finds where Java is installed, and else on NLTK's (``tokenizer`` says which).
        predictions: a prediction file or its rows; for "mme" also the folder of the benchmark's result files.
        problems: ScienceQA's problems.json or its content, for the columns of its table; no other task takes it.

    Returns:
        ``{"task", "n", ...}`` with, by task: ``caption`` (of ``caption_metrics``, and ``n``) and ``questions`` (of
        ``question_accuracy``), what ``scienceqa_scores`` returns, or what ``mme_scores`` returns (``n`` questions).
        Shares are fractions between 0 and 1.

    Raises:
        ValueError: an unknown task, or predictions that do not fit it.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    if problems is not None and task != "scienceqa":
        raise ValueError(f"problems.json belongs to the task 'scienceqa', not to {task!r}; leave it out")
    if task == "mme" and isinstance(predictions, str | os.PathLike) and not Path(predictions).is_file():
        return _with_total(mme_scores(predictions))
    rows = read_predictions(predictions) if isinstance(predictions, str | os.PathLike) else list(predictions)
    if not rows:
        where = f"{predictions}: " if isinstance(predictions, str | os.PathLike) else ""
        raise ValueError(f"{where}no predictions to score; make some first")
    if task == "mme":
        return _with_total(mme_prediction_scores(rows))
    if task == "scienceqa":
        return {"task": task, **scienceqa_scores(rows, problems)}
    result: dict[str, Any] = {"task": task, "n": len(rows)}
    if task == "coco-caption":
        words = available()
        metrics = caption_metrics([r["prediction"] for r in rows], [r["references"] for r in rows], words)
        return {**result, "caption": {**metrics, "n": len(rows), "tokenizer": words}}
    captions = [row for row in rows if task == "caption" or (task != "questions" and row["kind"] == "caption")]
    questions = [] if task == "caption" else [row for row in rows if task == "questions" or row["kind"] != "caption"]
    if captions:
        metrics = caption_metrics([row["prediction"] for row in captions], [row["references"] for row in captions])
        result["caption"] = {**metrics, "n": len(captions)}
    if questions:
        result["questions"] = question_accuracy([row["prediction"] for row in questions], questions)
    return result


def _with_total(scores: dict[str, Any]) -> dict[str, Any]:
    return {"task": "mme", "n": sum(part["n"] for part in scores["tasks"].values()), **scores}


def format_scores(scores: Mapping[str, Any]) -> str:
    """The same scores for a reader, a line per number or group; shares and CIDEr times 100, as papers print them."""
    return "\n".join(_lines(scores, "", False))


def _lines(scores: Mapping[str, Any], name: str, per_hundred: bool) -> list[str]:
    numbers = [
        f"{key} {_number(value, per_hundred or key in PER_HUNDRED)}"
        for key, value in scores.items()
        if isinstance(value, str | int | float)
    ]
    lines = numbers if not name else [f"{name}: {', '.join(numbers)}"] if numbers else []
    for key, value in scores.items():
        if isinstance(value, Mapping):
            lines += _lines(value, key, per_hundred or key in PER_HUNDRED)
        elif isinstance(value, list) and value:
            lines.append(f"{key}: {', '.join(value)}")
    return lines


def _number(value: str | int | float, per_hundred: bool) -> str:
    return f"{value * (100 if per_hundred else 1):.2f}" if isinstance(value, float) else str(value)
