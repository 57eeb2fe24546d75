"""What do the two embedded vision towers give on 40 images of coloured shapes, and what do they cost? Resumable.

python benchmarks/embedded_towers.py        # what has no result yet
python benchmarks/write_tables.py  # puts the table into docs/towers.md

The training is that of benchmarks/defaults.py: the defaults, 40 images, 150 steps of 4, and 60 test images. The cost is
measured afterwards, with both towers in turns.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import measures
import tables
import torch
from defaults import SIZES, TEST_SIZE, measure

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import fastest_setting

DATA, BATCH_SIZE = "40 shapes", 4
STEPS = SIZES[DATA].steps[BATCH_SIZE]
TOWERS = {"small CLIP": "embedded", "DINOv2-small": "embedded-dinov2"}
REPEATS = 15


def cost() -> dict[str, Any]:
    """Measure a training step without the optimizer, and the tower alone on one image, for both towers in turns.

    Returns:
        What the result file holds: medians in seconds by the name of the tower.
    """
    data = SIZES[DATA].train()
    rows = [data[i] for i in range(BATCH_SIZE)]
    steps, alone, sides = {}, {}, {}
    for name, vision_tower in TOWERS.items():
        model, processor = build_model(vision_tower=vision_tower, **fastest_setting())
        batch = measures.to_device(AdemVLCollator(processor)(rows))
        model.to(measures.DEVICE)
        steps[name] = partial(measures.training_step, model, batch)
        alone[name] = partial(_look, model.vision_tower, batch["pixel_values"][:1].to(model.vision_tower.dtype))
        sides[name] = model.config.image_size
    return {
        "threads": torch.get_num_threads(),
        "image_size": sides,
        "step": _medians(measures.interleaved(steps, REPEATS, "steps")),
        "tower": _medians(measures.interleaved(alone, REPEATS, "towers", calls=3)),
    }


@torch.inference_mode()
def _look(tower: torch.nn.Module, pixel_values: torch.Tensor) -> None:
    tower(pixel_values)


def _medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def table(results: dict[str, dict[str, Any]], costs: dict[str, Any]) -> str:
    """A row for each tower.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by the name of the tower.
        costs (dict[str, Any]): what ``cost`` returned.

    Returns:
        The table.
    """
    head = ["vision tower", "image, px", "exact captions", "loss", "training step, s", "tower alone, ms an image"]
    rows = []
    for name, one in results.items():
        exact, step = round(TEST_SIZE * one["exact_match"]), costs["step"][name]
        cells = [f"{exact} of {TEST_SIZE}", f"{one['loss']:.2f}", f"{step:.2f}", f"{1000 * costs['tower'][name]:.0f}"]
        rows.append([name, str(costs["image_size"][name]), *cells])
    return tables.markdown(head, rows)


def sections() -> dict[str, str]:
    """The table of docs/towers.md.

    Returns:
        The text by the name of the section.
    """
    results, costs = tables.load_arms("towers", TOWERS), tables.load("towers/cost")
    return {"embedded towers table": table(results, costs) if costs else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/towers"), help="checkpoints and predictions")
    args = parser.parse_args()
    keep_freed_memory()
    for name, vision_tower in TOWERS.items():
        own = tables.file_name(name)
        run = partial(measure, "defaults", DATA, BATCH_SIZE, args.output_dir / own, vision_tower)
        tables.measure_once(f"towers/{own}", STEPS, name, run)
    if tables.load("towers/cost") is None:
        tables.save("towers/cost", cost())
    print(sections()["embedded towers table"])


if __name__ == "__main__":
    main()
