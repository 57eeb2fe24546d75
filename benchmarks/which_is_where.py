"""Does an adapter know which of two things stands where, or only which group has more copies? Resumable.

python benchmarks/which_is_where.py --before runs/openmoji/third
python benchmarks/write_tables.py          # puts the table into docs/results.md

Two groups of different numbers can be told apart by their numbers: "Where is the fox, seen from the owls?" asks about
the single thing, whatever it is. Where the numbers are the same, only the things themselves say which is which. The
shipped adapter is asked, and the same adapter before the stages of ``examples/train_openmoji.py`` that are about this.
"""

import argparse
from pathlib import Path
from typing import Any

import tables
from quality import digest
from torch.utils.data import Subset
from unseen_styles import IMAGES, answers, cell

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting

TESTED = 400  # questions
NUMBERS = ("different", "the same")
ADAPTERS = ("before", "shipped")
FILE = "which_is_where"


def by_numbers(data: OpenMojiScenes) -> dict[str, Subset]:
    """Divide the questions.

    Args:
        data (OpenMojiScenes): questions about the relation of two groups.

    Returns:
        The questions by whether the two groups have the same number of copies.
    """
    places: dict[str, list[int]] = {numbers: [] for numbers in NUMBERS}
    for index in range(len(data)):
        one, other = data.scene(index)[0].groups
        places[NUMBERS[one.number == other.number]].append(index)
    return {numbers: Subset(data, found) for numbers, found in places.items()}


def ask(adapter: str, checkpoint: str | None, output: Path) -> None:
    """Let an adapter answer, unless it has done so.

    Args:
        adapter (str): one of ``ADAPTERS``.
        checkpoint (str | None): its folder; None is the shipped one.
        output (Path): the folder of predictions.
    """
    model, processor = load_checkpoint(checkpoint, **fastest_setting())
    saved, made_by = tables.load(FILE) or {}, digest(model)
    if saved.get(adapter, {}).get("adapter") != made_by:  # answers of another one
        saved[adapter] = {"adapter": made_by, "answers": {}}
    for numbers, data in by_numbers(OpenMojiScenes("test", size=TESTED, kinds=("relation",))).items():
        for images in IMAGES:
            found = saved[adapter]["answers"]
            if (part := f"{numbers}, {images}") not in found:
                file = output / made_by / f"{numbers}-{images}.jsonl"
                found[part] = answers(model, processor, data, images, file)["relation"]
                tables.save(FILE, saved)


def table(saved: dict[str, Any]) -> str:
    """A row for each kind of question.

    Args:
        saved (dict[str, Any]): the content of the result file.

    Returns:
        The table. Cells are right answers in per cent, with the own image / with another.
    """
    rows = []
    for numbers in NUMBERS:
        found = [[saved[adapter]["answers"][f"{numbers}, {images}"] for images in IMAGES] for adapter in ADAPTERS]
        rows.append([numbers, str(found[0][0]["n"]), *(cell(*pair) for pair in found)])
    return tables.markdown(["numbers of the two groups", "n", "before, %", "as shipped, %"], rows)


def sections() -> dict[str, str]:
    """The table of docs/results.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(FILE) or {}
    whole = all(len(saved.get(adapter, {}).get("answers", ())) == len(NUMBERS) * len(IMAGES) for adapter in ADAPTERS)
    return {"which is where": table(saved) if whole else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/which_is_where"), help="where predictions go")
    parser.add_argument(
        "--before", help="the folder of the adapter of before; default: its answers are left as they are"
    )
    args = parser.parse_args()
    keep_freed_memory()
    if args.before:
        ask("before", args.before, args.output_dir)
    ask("shipped", None, args.output_dir)
    print(sections()["which is where"])


if __name__ == "__main__":
    main()
