"""What LoRA beside the adapter adds to the recipe of the shipped checkpoint: as many steps without it. Resumable.

python benchmarks/frozen_or_lora.py     # trains both and lets them answer
python benchmarks/write_tables.py       # puts the table into docs/results.md

On a CPU with two cores, two processes train in the least time. They only train; the command above then goes on:

    ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 benchmarks/frozen_or_lora.py --compile

Both arms have the data and the learning rate of the checkpoint's first stage, and are tested as it is.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import tables
import torch
from at_a_glance import QUALITY, quality_cells, quality_label

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.evaluation.predict import evaluate_with_controls
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.openmoji_training import RECIPES, fine_tune, test_sets
from adem_vl_hf.precision import launched_processes
from adem_vl_hf.training import fastest_setting

FILE = "frozen_or_lora"
STEPS = 400  # of 32 samples
SETTINGS = RECIPES["shipped"].settings
ARMS: dict[str, dict[str, Any]] = {
    "frozen": {name: value for name, value in SETTINGS.items() if name != "lora"},
    "LoRA": SETTINGS,
}


def train(arm: str, folder: Path, steps: int, compiled: bool) -> None:
    """Train one arm, unless it is trained.

    Args:
        arm (str): a key of ``ARMS``.
        folder (Path): the output folder; an interrupted run goes on from its last checkpoint.
        steps (int): training steps of 32 samples.
        compiled (bool): whether the steps run through ``torch.compile``.
    """
    if not (folder / "training.json").is_file():
        fine_tune(folder, steps, "shipped", True, settings=ARMS[arm], compiled=compiled)


def measure(folder: Path, scenes: int, names: int) -> dict[str, Any]:
    """Let a trained arm answer.

    Args:
        folder (Path): its checkpoint.
        scenes (int): test samples about scenes.
        names (int): test samples about names.

    Returns:
        The record of its training, and its scores by test set and image.
    """
    model, processor = load_checkpoint(str(folder), **fastest_setting())
    metrics = evaluate_with_controls(model, processor, test_sets(scenes, names), folder / "predictions")
    return {"training": json.loads((folder / "training.json").read_text(encoding="utf-8")), "metrics": metrics}


def table(saved: dict[str, Any]) -> str:
    """A column for each arm.

    Args:
        saved (dict[str, Any]): what ``measure`` returned, by arm.

    Returns:
        The table. Scores are right answers in per cent, with the own image / with another one.
    """
    facts = [saved[arm]["training"] for arm in ARMS]
    rows = [
        ["trainable parameters", *(f"{one['trained_numbers']:,}" for one in facts)],
        ["steps of 32", *(f"{one['steps']:,}" for one in facts)],
        ["training loss", *(f"{one['train_loss']:.2f}" for one in facts)],
    ]
    for task, kind in QUALITY:
        cells = [" / ".join(quality_cells(saved[arm]["metrics"], task, kind)) for arm in ARMS]
        rows.append([quality_label(task, kind), *cells])
    return tables.markdown(["", *ARMS], rows)


def sections() -> dict[str, str]:
    """The table of docs/results.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(FILE) or {}
    return {"frozen or lora": table(saved) if saved.keys() == ARMS.keys() else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/frozen_or_lora"), help="where all is written")
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="the steps run through torch.compile")
    parser.add_argument("--scenes", type=int, default=500, help="test samples about scenes (default: %(default)s)")
    parser.add_argument("--names", type=int, default=710, help="test samples about names (default: %(default)s)")
    args = parser.parse_args()
    keep_freed_memory()
    if args.compile:
        torch._dynamo.config.optimize_ddp = False  # as in examples/train_openmoji.py
    for arm in ARMS:
        train(arm, args.output_dir / arm, args.steps, args.compile)
    if launched_processes() > 1:
        return
    saved = tables.load(FILE) or {}
    for arm in ARMS:
        if arm not in saved:
            saved[arm] = measure(args.output_dir / arm, args.scenes, args.names)
            tables.save(FILE, saved)
    print(sections()["frozen or lora"])


if __name__ == "__main__":
    main()
