"""Quality in miniature: ADEM-VL, its peers, ladder and ablations on the same bases, data, order and steps. Resumable.

python benchmarks/compare.py                                  # every run that has no result file, seed after seed
python benchmarks/compare.py --groups peers ladder --seeds 0  # part of it
python benchmarks/readme.py                                   # puts the tables of all result files into README.md

A run trains on captions and four-way choices of OpenMoji scenes and answers held-out ones, with their own picture and
with another one. The loss on held-out answers tells runs apart that answer alike.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import tables
import torch
from arms import ARMS
from comparisons import GROUPS, Run, key
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.mixture import OpenMojiMixture
from adem_vl_hf.demo import BATCH_SIZE, DEMO_SHARES, RECIPES
from adem_vl_hf.evaluation.run import predict
from adem_vl_hf.evaluation.scoring import score
from adem_vl_hf.evaluation.shown import donors_of, shown
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

STEPS, SEEDS, TEST_SIZE = 240, 3, 400
CLIPPED = ("evlm",)  # whose gradients jump while gates open


@torch.inference_mode()
def held_out_loss(model: Any, processor: Any, dataset: OpenMojiScenes, images: str) -> float:
    """Mean cross-entropy of the answers' tokens, each batch weighted by its tokens."""
    collate, donors, total, tokens = AdemVLCollator(processor), donors_of(len(dataset)), 0.0, 0
    model.eval()
    for start in range(0, len(dataset), BATCH_SIZE):
        rows = []
        for index in range(start, min(start + BATCH_SIZE, len(dataset))):
            sample = dataset[index]
            sample["image"] = shown(dataset, index, sample, images, donors).pictures[0]  # type: ignore[arg-type]
            rows.append(sample)
        batch = collate(rows)
        number = int((batch["labels"] != -100).sum())
        total, tokens = total + float(model(**batch).loss) * number, tokens + number
    return total / tokens


def measure(run: Run, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train and let answer; goes on from where an earlier call stopped."""
    set_seed(seed)
    build = ARMS[run.arm].build
    model, processor = build("embedded", "embedded", **fastest_setting(), **run.settings)
    recipe = RECIPES["evlm" if run.arm in CLIPPED else "adem_vl"]
    dataset = OpenMojiMixture("train", steps * BATCH_SIZE, seed=seed, shares=DEMO_SHARES)
    arguments = training_arguments(
        folder, len(dataset), BATCH_SIZE, max_steps=steps, learning_rate=recipe.learning_rate, seed=seed,
        max_grad_norm=recipe.max_grad_norm, save_steps=20, **IN_ORDER,
    )  # fmt: skip
    if any(p.requires_grad for p in model.parameters()):
        facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    else:
        facts = {"steps": steps, "trained_numbers": 0}
    test = OpenMojiScenes("test", TEST_SIZE, kinds=("caption", "choice"))
    result: dict[str, Any] = {"training": facts, "metrics": {}, "held_out_loss": {}}
    for images in ("true", "shuffled"):
        output = folder / "predictions" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True, parents=True)
        rows = predict(model, processor, test, output=output, batch_size=32, max_new_tokens=20, images=images)  # type: ignore[arg-type]
        result["metrics"][images] = score("openmoji-scenes", rows)
        result["held_out_loss"][images] = held_out_loss(model, processor, test, images)
    return result


def _mean_and_range(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(group: str) -> str:
    """A row for each run of a group: mean and range over its seeds; empty where nothing was measured."""
    lines = [
        "| | trained numbers | seeds | held-out loss | another picture's | choice, % | another picture's | CIDEr | "
        "the paper's ScienceQA |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in GROUPS[group].items():
        results = [r for seed in range(SEEDS) if (r := tables.load(f"compare/{key(run)}-{seed}")) is not None]
        if not results:
            continue
        cells = [f"{results[0]['training']['trained_numbers']:,}", str(len(results))]
        for images in ("true", "shuffled"):
            cells.append(_mean_and_range([r["held_out_loss"][images] for r in results], 3))
        for images in ("true", "shuffled"):
            values = [100 * r["metrics"][images]["questions"]["choice"]["accuracy"] for r in results]
            cells.append(_mean_and_range(values, 1))
        cells.append(_mean_and_range([100 * r["metrics"]["true"]["caption"]["cider"] for r in results], 1))
        cells.append("" if run.paper is None else f"{run.paper:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def sections() -> dict[str, str]:
    """What README.md shows of the result files."""
    return {f"{group} table": table(group) or "(Not measured yet.)" for group in GROUPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--groups", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help="; ".join(GROUPS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/compare"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH_SIZE} samples")
    args = parser.parse_args()
    keep_freed_memory()
    for seed in args.seeds:
        for group in args.groups:
            for name, run in GROUPS[group].items():
                own = f"{key(run)}-{seed}"
                once = partial(measure, run, args.output_dir / own, args.steps, seed)
                tables.measure_once(f"compare/{own}", args.steps, f"{group}: {name}, seed {seed}", once)
    for group in args.groups:
        print(f"\n{group}\n{table(group)}")


if __name__ == "__main__":
    main()
