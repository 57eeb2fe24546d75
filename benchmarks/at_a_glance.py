"""The two small tables of README.md: the quality of the shipped checkpoint, and the cost beside other methods.

python benchmarks/write_tables.py  # writes them; the full tables are those of quality.py and efficiency.py
"""

from typing import Any

import tables
from quality import QUESTIONS, TASKS

# (test set, kind of question; None for captions)
QUALITY = (
    ("openmoji-names", "choice"),
    ("openmoji-names", None),
    ("openmoji-scenes", "choice"),
    ("openmoji-scenes", "count"),
    ("openmoji-scenes", "relation"),
    ("openmoji-scenes", "presence"),
    ("openmoji-scenes", None),
)
# (result file, backbone and length of text, how README.md calls it)
COST = (
    ("efficiency", "smollm2/256", "SmolLM2-135M on a CPU"),
    ("efficiency_gpu", "random-7b/256", "LLaMA-7B's shape on an H100"),
)
SHOWN_METHODS = ("adem_vl", "memvp", "lavin", "llava_lora", "evlm")


def quality_label(task: str, kind: str | None) -> str:
    """Name a row.

    Args:
        task (str): the test set.
        kind (str | None): the kind of question; None for captions.

    Returns:
        The name.
    """
    return f"{TASKS[task]}: {'whole caption, exact match' if kind is None else QUESTIONS[kind]}"


def quality_cells(metrics: dict[str, Any], task: str, kind: str | None) -> list[str]:
    """The share of right answers of a row, with the own image and with another one.

    Args:
        metrics (dict[str, Any]): what ``evaluate_with_controls`` returned, by test set and image.
        task (str): the test set.
        kind (str | None): the kind of question; None for captions.

    Returns:
        Both, in per cent.
    """
    found = [metrics[task][image] for image in ("true", "shuffled")]
    shares = [s["caption"]["exact_match"] if kind is None else s["questions"][kind]["accuracy"] for s in found]
    return [f"{100 * share:.1f}" for share in shares]


def quality_table(metrics: dict[str, Any]) -> str:
    """The share of right answers, with the own image and with another one.

    Args:
        metrics (dict[str, Any]): what ``evaluate_with_controls`` returned, by test set and image.

    Returns:
        The table, in per cent.
    """
    rows = []
    for task, kind in QUALITY:
        chance = "" if kind is None else f"{100 * metrics[task]['true']['questions'][kind]['chance']:.1f}"
        rows.append([quality_label(task, kind), *quality_cells(metrics, task, kind), chance])
    return tables.markdown(["right answers, %", "own image", "another image", "chance"], rows)


def cost_table(results: dict[str, dict[str, Any]]) -> str:
    """Time and memory of the methods on two pairs of bases.

    Args:
        results (dict[str, dict[str, Any]]): the content of the result files by name.

    Returns:
        The table. Times are over those of the frozen language model alone on the same text.
    """
    rows = []
    for file, backbone, label in COST:
        for method in SHOWN_METHODS:
            found = results[file].get(f"{backbone}/{method}")
            if found is not None:
                setting = f"{label}, batch of {found['batch_size']}"
                rows.append([
                    setting, tables.METHODS[method], f"{found['trained_numbers']:,}", f"{found['step']:.2f}",
                    f"{found['token']:.2f}", f"{found['memory'] / 1e9:.1f}",
                ])  # fmt: skip
    head = ["", "method", "trainable parameters", "training step", "generated token", "peak memory in training, GB"]
    return tables.markdown(head, rows)


def sections() -> dict[str, str]:
    """The generated sections of README.md.

    Returns:
        The text by the name of the section.
    """
    shipped = tables.load("shipped")
    costs = {file: tables.load(file) for file, *_ in COST}
    measured = {file: results for file, results in costs.items() if results is not None}
    return {
        "quality at a glance": quality_table(shipped["metrics"]) if shipped else tables.NOT_MEASURED,
        "cost at a glance": cost_table(measured) if len(measured) == len(costs) else tables.NOT_MEASURED,
    }
