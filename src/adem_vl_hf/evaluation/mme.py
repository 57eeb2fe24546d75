"""MME (arXiv 2306.13394): its official result files, and the scores of a folder of them or of predictions.

One file per sub-task, ``existence.txt`` and so on, with one line per question: image, question, true answer and the
model's answer, separated by tabs. Every image has two questions, one whose answer is yes and one no. As in the
benchmark's own calculation, an answer counts as yes or no by its first four characters, accuracy is over questions,
accuracy+ over images (both questions right), and a sub-task's score is the sum of the two in percent (0 ... 200).
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.mme import COGNITION, PERCEPTION, TASKS
from ..files import write_text
from .predictions import Prediction


def mme_scores(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Scores of the sub-tasks in a folder and their two sums.

    Returns:
        ``perception`` (sum of up to ten sub-task scores) and ``cognition`` (of up to four), null where no file of that
        group is there; ``missing``: the sub-tasks without a file, which the sums lack; ``tasks``: by sub-task
        ``accuracy``, ``accuracy_plus`` (0 ... 1), ``score`` (0 ... 200) and ``n``, the number of questions.

    Raises:
        ValueError: no folder, no result file in it, or a file that is not in the format; the message names the line.
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
    """The same of the rows of a prediction file that was made on the data set ``MME``.

    Raises:
        ValueError: a row whose id is not ``sub-task/picture/number``, or a picture without two answers.
    """
    right: dict[str, dict[str, list[bool]]] = {}  # by sub-task and picture
    for row in rows:
        parts = row["id"].split("/")
        if len(parts) != 3 or parts[0] not in TASKS or not row["references"]:
            raise ValueError(f"prediction {row['id']!r} is not of MME; its ids are sub-task/picture/number")
        answers = right.setdefault(parts[0], defaultdict(list))
        answers[parts[1]].append(read_yes_or_no(row["prediction"]) == row["references"][0].lower())
    return _summed({name: _task_scores(right[name], name) for name in TASKS if name in right})


def write_mme_results(rows: Sequence[Prediction], questions: Mapping[str, str], folder: str | os.PathLike[str]) -> None:
    """Write the official result files, which the benchmark's own ``calculation.py`` reads.

    Args:
        rows: predictions on the data set ``MME``. questions: its ``questions``, by sample id.
        folder: where ``existence.txt`` and so on go; files that are there are replaced.
    """
    lines: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        task, picture, _ = row["id"].split("/")
        answer = " ".join(row["prediction"].split())  # one line, and no tab
        lines[task].append("\t".join([picture, questions[row["id"]], row["references"][0], answer]) + "\n")
    for task, own in lines.items():
        write_text(Path(folder) / f"{task}.txt", "".join(own))


def read_yes_or_no(answer: str) -> str:
    """ "yes", "no" or "other", by the first four characters ("Yes, there is" and " no." are meant to be read)."""
    start = answer.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _summed(tasks: dict[str, dict[str, float]]) -> dict[str, Any]:
    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    found = {group: [tasks[name]["score"] for name in names if name in tasks] for group, names in groups.items()}
    sums = {group: sum(scores) if scores else None for group, scores in found.items()}
    return {**sums, "missing": [name for name in TASKS if name not in tasks], "tasks": tasks}


def _read_results(path: Path) -> dict[str, list[bool]]:
    """Which answers of a result file are right, by image."""
    right: dict[str, list[bool]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
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
