"""Result files, and the generated sections of README.md and docs/results.md, which are made from those files alone.

A section stands between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->``. Each benchmark has a function
``sections()`` that returns the text of its sections by name; ``write_tables.py`` puts all of them into the pages.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from measures import SUFFIXES

from adem_vl_hf.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("results", "serving", "towers", "your_data")))
NOT_MEASURED = "(Not measured yet.)"
# the arms of benchmarks/arms, as tables name them
METHODS = {
    "floor": "floor",
    "adem_vl": "ADEM-VL",
    "adem_vl_authors": "ADEM-VL, authors' code",
    "memvp": "MemVP",
    "lavin": "LaVIN",
    "llama_adapter": "LLaMA-Adapter",
    "llava_lora": "LLaVA-LoRA",
    "evlm": "EVLM",
}


def save(name: str, data: dict[str, Any]) -> None:
    """Write a result file; an older one of the same name is replaced.

    Args:
        name (str): the file's name in benchmarks/results, without ``.json``.
        data (dict[str, Any]): what to write.
    """
    write_json(RESULTS / f"{name}.json", data)


def load(name: str) -> dict[str, Any] | None:
    """Read a result file.

    Args:
        name (str): the file's name in benchmarks/results, without ``.json``.

    Returns:
        Its content, or None if there is no such file.
    """
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def of_devices(file: str, makers: dict[str, Callable[[Any], str]]) -> dict[str, str]:
    """Sections for each device on which a benchmark may have run.

    Args:
        file (str): the name of the result file of a CPU; that of a GPU has the suffix ``_gpu``.
        makers (dict[str, Callable[[Any], str]]): for each section, what turns the content of a file into its text.

    Returns:
        The text by the name of the section, which ends in ``on a gpu`` for the file of a GPU.
    """
    return {
        section + suffix.replace("_", " on a "): make(saved) if (saved := load(file + suffix)) else NOT_MEASURED
        for suffix in SUFFIXES.values()
        for section, make in makers.items()
    }


def measure_once(name: str, steps: int, label: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Measure and save the result of a training, unless there is one of as many steps.

    Args:
        name (str): the name of the result file.
        steps (int): how many steps the training has.
        label (str): what to print before it begins.
        measure (Callable[[], dict[str, Any]]): trains and measures.
    """
    done = load(name)
    if done is None or done["training"]["steps"] != steps:
        print(f"\n=== {label}", flush=True)
        save(name, measure())


def file_name(name: str) -> str:
    """The name of an arm, a group or a run as it stands in names of files.

    Args:
        name (str): for example ``"evlm, 4 media tokens"``.

    Returns:
        The same with underscores for all that is neither a letter nor a digit.
    """
    return re.sub(r"\W+", "_", name)


def load_arms(folder: str, arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the result files of several arms.

    Args:
        folder (str): a folder in benchmarks/results.
        arms (Iterable[str]): the names of the arms.

    Returns:
        The results by arm, in the order of ``arms``, without those that have not been measured.
    """
    loaded = {name: load(f"{folder}/{file_name(name)}") for name in arms}
    return {name: result for name, result in loaded.items() if result is not None}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        head (Sequence[str]): the headings of the columns.
        rows (Iterable[Sequence[str]]): the cells of each row, as many as there are headings.

    Returns:
        The lines of the table, without a line break at the end.

    Raises:
        ValueError: a row has more or fewer cells than the table has columns.
    """
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"the row {list(row)} has {len(row)} cells, and the table has {len(head)} columns")
        lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def write_sections(sections: dict[str, str], pages: Sequence[Path] = PAGES) -> None:
    """Replace sections in the pages that have their marks. All other text stays as it is.

    Args:
        sections (dict[str, str]): the new text by the name of the section.
        pages (Sequence[Path]): the Markdown files.

    Raises:
        ValueError: no page has the marks of a section. No page is changed then.
    """
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    for name, body in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        own = [page for page, text in texts.items() if begin in text and end in text]
        if not own:
            names = " or ".join(page.name for page in pages)
            raise ValueError(f"there is no place for {name!r}: put {begin} and {end} into {names}")
        for page in own:
            head, rest = texts[page].split(begin, 1)
            texts[page] = f"{head}{begin}\n{body}\n{end}{rest.split(end, 1)[1]}"
    for page, text in texts.items():
        write_text(page, text)
