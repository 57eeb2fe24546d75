"""MME (arXiv 2306.13394): scores of a folder of its official result files.

One file per sub-task, ``existence.txt`` and so on, with one line per question: image, question, true answer and the
model's answer, separated by tabs. Every image has two questions, one whose answer is yes and one no. As in the
benchmark's own calculation, an answer counts as yes or no by its first four characters, accuracy is over questions,
accuracy+ over images (both questions right), and a sub-task's score is the sum of the two in percent (0 ... 200).
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


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
    names = [*PERCEPTION, *COGNITION]
    tasks = {name: _task_scores(folder / f"{name}.txt") for name in names if (folder / f"{name}.txt").is_file()}
    if not tasks:
        raise ValueError(f"{folder}: no MME result file; expected {', '.join(f'{name}.txt' for name in names)}")
    return {
        "perception": _sum(tasks, PERCEPTION),
        "cognition": _sum(tasks, COGNITION),
        "missing": [name for name in names if name not in tasks],
        "tasks": tasks,
    }


def read_yes_or_no(answer: str) -> str:
    """ "yes", "no" or "other", by the first four characters ("Yes, there is" and " no." are meant to be read)."""
    start = answer.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _sum(tasks: dict[str, dict[str, float]], group: tuple[str, ...]) -> float | None:
    scores = [tasks[name]["score"] for name in group if name in tasks]
    return sum(scores) if scores else None


def _task_scores(path: Path) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)  # by image
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
    for image, answers in right.items():
        if len(answers) != 2:
            raise ValueError(f"{path}: {len(answers)} lines for image {image!r}; MME asks two questions of every image")
    if not right:
        raise ValueError(f"{path}: empty; remove it or write it anew")
    accuracy = sum(sum(answers) for answers in right.values()) / (2 * len(right))
    accuracy_plus = sum(all(answers) for answers in right.values()) / len(right)
    return {
        "accuracy": accuracy,
        "accuracy_plus": accuracy_plus,
        "score": 100 * (accuracy + accuracy_plus),
        "n": 2 * len(right),
    }
