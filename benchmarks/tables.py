"""The tables of README.md, made from the result files in benchmarks/results and from nothing else."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measures import SUFFIXES

from adem_vl_hf.evaluation.image_conditions import CONDITION_LABELS, ORDER_CONDITIONS
from adem_vl_hf.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "(Not measured yet.)"
TASKS = (("openmoji-scenes", "scenes"), ("openmoji-names", "names"))
SEEN = {name: label for name, label in CONDITION_LABELS.items() if name not in ORDER_CONDITIONS.values()}


def save(name: str, data: dict[str, Any]) -> None:
    """Keep one result file."""
    write_json(RESULTS / f"{name}.json", data)


def load(name: str) -> dict[str, Any] | None:
    """One result file, or None where it was never made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def of_devices(file: str, makers: dict[str, Callable[[Any], str]]) -> dict[str, str]:
    """Sections of README.md made from a result file, and again, named so, from that of a GPU."""
    return {
        section + suffix.replace("_", " on a "): make(saved) if (saved := load(file + suffix)) else NOT_MEASURED
        for suffix in SUFFIXES.values()
        for section, make in makers.items()
    }


def measure_once(name: str, steps: int, label: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Make and keep a result of a training of ``steps``, unless there is one."""
    done = load(name)
    if done is None or done["training"]["steps"] != steps:
        print(f"\n=== {label}", flush=True)
        save(name, measure())


def file_name(arm: str) -> str:
    """Of an arm's folder and its result file."""
    return re.sub(r"\W+", "_", arm)


def load_arms(folder: str, arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The results of those arms that were measured, in the order of ``arms``."""
    loaded = {name: load(f"{folder}/{file_name(name)}") for name in arms}
    return {name: result for name, result in loaded.items() if result is not None}


def quality_table(metrics: dict[str, Any]) -> str:
    """Rows of measures, columns of what the model saw; per cent, CIDEr and BLEU-4 times 100."""
    lines = [
        "| test set | measure | n | chance | " + " | ".join(SEEN.values()) + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, label in TASKS:
        scores = metrics[task]
        names = {"exact_match": "caption exact match, %", "bleu4": "caption BLEU-4", "cider": "caption CIDEr"}
        for key, name in names.items():
            values = [f"{100 * scores[c]['caption'][key]:.1f}" for c in SEEN]
            lines.append(f"| {label} | {name} | {scores['true']['caption']['n']} | | {' | '.join(values)} |")
        for kind, part in sorted(scores["true"].get("questions", {}).items()):
            values = [f"{100 * scores[c]['questions'][kind]['accuracy']:.1f}" for c in SEEN]
            name = {"choice": "four-way choice"}.get(kind, kind)
            lines.append(
                f"| {label} | {name}, % right | {part['n']} | {100 * part['chance']:.1f} | {' | '.join(values)} |"
            )
    return "\n".join(lines)


def write_readme(sections: dict[str, str], readme: Path = ROOT / "README.md") -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    text = readme.read_text(encoding="utf-8")
    for name, body in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{readme} has no place for {name!r}: put {begin} and {end} where it belongs")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{body}\n{end}{rest.split(end, 1)[1]}"
    write_text(readme, text)
