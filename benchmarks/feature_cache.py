"""What do kept features save? An epoch without them, the first one that keeps them, and every later one, in turns.

python benchmarks/feature_cache.py
python benchmarks/write_tables.py  # puts the table into docs/results.md
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measures
import tables
import torch
from embedded_towers import TOWERS

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.feature_cache import FeatureCache
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import fastest_setting

BATCH_SIZE, BATCHES = 4, 2
EPOCHS = ("without", "first", "later")


def measure(vision_tower: str, repeats: int) -> dict[str, Any]:
    """Measure the three epochs of ADEM-VL without adapters in the tower.

    Args:
        vision_tower (str): the tower, as ``build_model`` takes it.
        repeats (int): the number of turns.

    Returns:
        Median seconds of an epoch, the ratios within a turn to that without, and the bytes that an image takes.
    """
    model, processor = build_model(vision_tower=vision_tower, vision_adapter_dim=0, **fastest_setting())
    model.to(measures.DEVICE)
    data, collator = open_dataset("openmoji-scenes", "train", BATCH_SIZE * BATCHES), AdemVLCollator(processor)
    rows = [[data[BATCH_SIZE * batch + i] for i in range(BATCH_SIZE)] for batch in range(BATCHES)]
    batches = [measures.to_device(collator(some)) for some in rows]
    with tempfile.TemporaryDirectory() as folder:
        caches = (FeatureCache(Path(folder, str(number))) for number in range(repeats + 1))

        def epoch(kind: str) -> None:
            if kind == "first":
                next(caches).attach(model)
            elif kind == "without":
                model.feature_cache = None
            for batch in batches:
                measures.training_step(model, batch)

        times = measures.interleaved({kind: partial(epoch, kind) for kind in EPOCHS}, repeats, vision_tower)
        written = sum(path.stat().st_size for path in Path(folder).glob("*/*/*.features"))
    return {
        "seconds": {kind: round(statistics.median(values), 3) for kind, values in times.items()},
        "ratio": {kind: round(value, 3) for kind, value in measures.ratios(times, "without").items()},
        "bytes_per_image": written // (repeats + 1) // (BATCH_SIZE * BATCHES),
        "image_size": model.config.image_size,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "dtype": str(model.vision_tower.dtype).removeprefix("torch."),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each tower.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by the name of the tower.

    Returns:
        The table, and how it was measured.
    """
    head = ["vision tower", "image, px", "KB an image", "epoch without, s", "first epoch", "every later epoch"]
    rows = []
    for name, one in results.items():
        first, later = (f"{one['ratio'][kind]:.2f}" for kind in EPOCHS[1:])
        size = f"{one['bytes_per_image'] / 1000:.0f}"
        rows.append([name, str(one["image_size"]), size, f"{one['seconds']['without']:.2f}", first, later])
    some = next(iter(results.values()))
    note = (
        f"The last two columns are parts of the epoch without. SmolLM2-135M, {BATCHES} steps of {BATCH_SIZE} scenes, "
        f"{some['dtype']}, {some['threads']} thread{'s' * (some['threads'] > 1)}, medians of {some['repeats']} turns."
    )
    return f"{tables.markdown(head, rows)}\n\n{note}"


def sections() -> dict[str, str]:
    """The section of docs/results.md about kept features.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("feature_cache")
    return {"feature cache table": table(saved) if saved else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tables.save("feature_cache", {name: measure(tower, args.repeats) for name, tower in TOWERS.items()})
    print(sections()["feature cache table"])


if __name__ == "__main__":
    main()
