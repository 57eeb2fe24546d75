"""Scores answers to MME (arXiv 2306.13394), and reads and writes its official result files.

There is one result file per sub-task (``existence.txt`` and so on), with one line per question: image, question, true
answer and the answer of the model, separated by tabs. Every image has two questions. The answer to one is yes, and to
the other no. As in the benchmark's own calculation, an answer counts as yes or no by its first four characters.
Accuracy is the share of right answers, and accuracy+ the share of images with two right answers. The score of a
sub-task is the sum of the two in per cent (0 ... 200).
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.mme import COGNITION, PERCEPTION, TASKS
from ..files import write_text
from ..json_files import read_text
from .predictions import Prediction


def mme_scores(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Score the result files in a folder.

    Args:
        folder (str | os.PathLike[str]): The folder. Files of sub-tasks may be missing.

    Returns:
        ``perception`` (the sum of up to ten sub-task scores) and ``cognition`` (of up to four), each None if no file of
        the group is there; ``missing``, the sub-tasks without a file, which the sums lack; and ``tasks``, which has
        ``accuracy`` and ``accuracy_plus`` (0 ... 1), ``score`` (0 ... 200) and ``n`` (the number of questions) by
        sub-task.

    Raises:
        ValueError: There is no such folder, no result file in it, or a file is not in the format. The message names the
            line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: not a folder; give the one that holds MME's result files ({PERCEPTION[0]}.txt, ...)"
        )
    paths = {name: folder / f"{name}.txt" for name in TASKS}
    tasks = {name: _task_scores(_read_results(path), str(path)) for name, path in paths.items() if path.is_file()}
    if not tasks:
        raise ValueError(f"{folder}: no MME result file; expected {', '.join(f'{name}.txt' for name in TASKS)}")
    return _summed(tasks)


def mme_prediction_scores(rows: Sequence[Prediction]) -> dict[str, Any]:
    """Score predictions that were made on the data set ``MME``.

    Args:
        rows (Sequence[Prediction]): The rows of a prediction file.

    Returns:
        The scores, as ``mme_scores`` returns them.

    Raises:
        ValueError: The id of a row is not ``sub-task/image/number``, or an image does not have two answers.
    """
    right: dict[str, dict[str, list[bool]]] = {}  # by sub-task and image
    for row in rows:
        parts = row["id"].split("/")
        if len(parts) != 3 or parts[0] not in TASKS or not row["references"]:
            raise ValueError(f"prediction {row['id']!r} is not of MME; its ids are sub-task/image/number")
        answers = right.setdefault(parts[0], defaultdict(list))
        answers[parts[1]].append(read_yes_or_no(row["prediction"]) == row["references"][0].lower())
    return _summed({name: _task_scores(right[name], name) for name in TASKS if name in right})


def write_mme_results(rows: Sequence[Prediction], questions: Mapping[str, str], folder: str | os.PathLike[str]) -> None:
    """Write the official result files, which the benchmark's own ``calculation.py`` reads.

    Args:
        rows (Sequence[Prediction]): Predictions that were made on the data set ``MME``.
        questions (Mapping[str, str]): The text of each question by sample id, the attribute ``questions`` of the data
            set.
        folder (str | os.PathLike[str]): The folder for ``existence.txt`` and so on. Existing files are replaced.
    """
    lines: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        task, image, _ = row["id"].split("/")
        answer = " ".join(row["prediction"].split())  # one line without tabs
        lines[task].append("\t".join([image, questions[row["id"]], row["references"][0], answer]) + "\n")
    for task, own in lines.items():
        write_text(Path(folder) / f"{task}.txt", "".join(own))


def read_yes_or_no(answer: str) -> str:
    """Read an answer by its first four characters, so that "Yes, there is" and " no." count.

    Args:
        answer (str): The answer of the model.

    Returns:
        "yes", "no" or "other".
    """
    start = answer.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _summed(tasks: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Sum the scores of the sub-tasks by group."""
    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    found = {group: [tasks[name]["score"] for name in names if name in tasks] for group, names in groups.items()}
    sums = {group: sum(scores) if scores else None for group, scores in found.items()}
    return {**sums, "missing": [name for name in TASKS if name not in tasks], "tasks": tasks}


def _read_results(path: Path) -> dict[str, list[bool]]:
    """Read a result file, and tell for each image which of its answers are right."""
    right: dict[str, list[bool]] = defaultdict(list)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 4:
            raise ValueError(
                f"{path}, line {number}: {len(fields)} fields; expected image, question, truth and answer between tabs"
            )
        image, _, truth, answer = (field.strip() for field in fields)
        if truth.lower() not in ("yes", "no"):
            raise ValueError(f"{path}, line {number}: the true answer is {truth!r}; expected Yes or No")
        right[image].append(read_yes_or_no(answer) == truth.lower())
    if not right:
        raise ValueError(f"{path}: empty; remove it or write it anew")
    return right


def _task_scores(right: Mapping[str, list[bool]], where: str) -> dict[str, float]:
    """Score one sub-task; ``where`` begins the message of an error."""
    for image, answers in right.items():
        if len(answers) != 2:
            raise ValueError(
                f"{where}: {len(answers)} lines for image {image!r}; MME asks two questions of every image"
            )
    accuracy = sum(sum(answers) for answers in right.values()) / (2 * len(right))
    accuracy_plus = sum(all(answers) for answers in right.values()) / len(right)
    return {
        "accuracy": accuracy,
        "accuracy_plus": accuracy_plus,
        "score": 100 * (accuracy + accuracy_plus),
        "n": 2 * len(right),
    }
