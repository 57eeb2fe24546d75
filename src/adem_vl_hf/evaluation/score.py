"""Turns predictions into scores by task, as one dictionary that can be written as JSON."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.easy_vqa import decision, text_alone
from .metrics import best_tokenizer, caption_metrics, question_accuracy
from .mme import mme_prediction_scores, mme_scores
from .predictions import Prediction, read_predictions
from .scienceqa import Problem, scienceqa_scores
from .tasks import TASKS

# the numbers that papers print times 100: shares, BLEU-4 and CIDEr
PER_HUNDRED = {"accuracy", "accuracy_plus", "chance", "exact_match", "bleu4", "cider", "columns"}


def score(
    task: str,
    predictions: str | os.PathLike[str] | Sequence[Prediction],
    problems: str | os.PathLike[str] | Mapping[str, Problem] | None = None,
) -> dict[str, Any]:
    """Score existing predictions.

    Args:
        task (str): One of ``TASKS``. "caption" scores every row as a caption, and "questions" every row as an answer,
            by kind. The "openmoji" tasks have both and tell them apart by ``kind``. "coco-caption" is "caption" with
            the words that COCO's own tokenizer finds if Java is installed, and otherwise with those that NLTK finds.
            ``tokenizer`` in the result names it. "easy-vqa" has a further kind "all", and as its chance what the
            questions alone give in the benchmark's whole test set; of an answer that begins with a comparison,
            what follows the last comma counts.
        predictions (str | os.PathLike[str] | Sequence[Prediction]): A prediction file or its rows. For "mme" also the
            folder of the benchmark's result files.
        problems (str | os.PathLike[str] | Mapping[str, Problem] | None): ScienceQA's ``problems.json`` or its content,
            for the columns of its table. No other task takes it.

    Returns:
        ``task``, ``n`` (the number of predictions) and the scores of the task: ``caption`` (of ``caption_metrics``) and
        ``questions`` (of ``question_accuracy``), or the entries of ``scienceqa_scores`` or of ``mme_scores``. Shares
        are between 0 and 1.

    Raises:
        ValueError: The task is unknown, or the predictions do not fit it.
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
    if task == "easy-vqa":
        rows = [{**row, "prediction": decision(row["prediction"])} for row in rows]
    result: dict[str, Any] = {"task": task, "n": len(rows)}
    if task == "coco-caption":
        words = best_tokenizer()
        metrics = caption_metrics([r["prediction"] for r in rows], [r["references"] for r in rows], words)
        return {**result, "caption": {**metrics, "n": len(rows), "tokenizer": words}}
    captions = [row for row in rows if task == "caption" or (task != "questions" and row["kind"] == "caption")]
    questions = [] if task == "caption" else [row for row in rows if task == "questions" or row["kind"] != "caption"]
    if captions:
        metrics = caption_metrics([row["prediction"] for row in captions], [row["references"] for row in captions])
        result["caption"] = {**metrics, "n": len(captions)}
    if questions:
        result["questions"] = question_accuracy([row["prediction"] for row in questions], questions)
    if task == "easy-vqa":
        result["questions"] |= question_accuracy(
            [row["prediction"] for row in rows], [{**row, "kind": "all"} for row in rows]
        )
        for kind, share in text_alone().items():  # the question says more than its kind
            if kind in result["questions"]:
                result["questions"][kind]["chance"] = share
    return result


def _with_total(scores: dict[str, Any]) -> dict[str, Any]:
    """Add the name of the task and the number of questions to MME's scores."""
    return {"task": "mme", "n": sum(part["n"] for part in scores["tasks"].values()), **scores}


def format_scores(scores: Mapping[str, Any]) -> str:
    """Format scores for a reader, with one line per number or group of numbers.

    Args:
        scores (Mapping[str, Any]): The result of ``score``.

    Returns:
        The lines. Shares, BLEU-4 and CIDEr are times 100, as papers print them.
    """
    return "\n".join(_lines(scores, "", False))


def _lines(scores: Mapping[str, Any], name: str, per_hundred: bool) -> list[str]:
    """Format one group of scores: its own numbers in one line, then the groups inside it."""
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
