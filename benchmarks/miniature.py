"""EVLM's mechanisms and ADEM-VL in miniature: the same frozen bases, data, order and steps. Resumable.

python benchmarks/miniature.py                  # every arm that has no result file yet
python benchmarks/miniature.py --arms evlm moe  # these alone
python benchmarks/readme.py                     # puts the table of all result files into README.md
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.demo import DEMO_SHARES, RECIPES, fine_tune
from adem_vl_hf.evaluation.predict import evaluate_with_controls

STEPS = 240  # of the demo's recipes and data
# name -> (kind of model, its settings); what is not named is as in the paper
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "evlm": ("evlm", {}),
    "adem_vl": ("adem_vl", RECIPES["adem_vl"].settings),
    "experts": ("evlm", {"moe_replicas": 4}),
    "one level": ("evlm", {"vision_feature_layer": [-1]}),
    "no media tokens": ("evlm", {"media_tokens": 0}),
    "levels concatenated": ("evlm", {"level_fusion": "concatenate"}),
    "4 media tokens": ("evlm", {"media_tokens": 4}),
    "no zero vector": ("evlm", {"zero_vectors": 0}),
}


def test_sets() -> dict[str, Any]:
    """What the arms are asked: the kinds that they are taught, of combinations that they never saw."""
    kinds = ("caption", "choice")
    return {
        "openmoji-scenes": OpenMojiScenes("test", size=240, kinds=kinds),
        "openmoji-names": OpenMojiNames("test", size=120, kinds=kinds),
    }


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train one arm and let it answer; goes on from where an earlier call stopped."""
    kind, settings = ARMS[name]
    model, processor, facts = fine_tune(
        folder, steps, resume=True, shares=DEMO_SHARES, kind=kind, settings=settings, save_steps=20
    )
    metrics = evaluate_with_controls(model, processor, test_sets(), folder / "predictions")
    return {"training": facts, "image_tokens": model.config.image_tokens, "metrics": metrics}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each arm that was measured; own picture / another picture, per cent, CIDEr times 100."""
    lines = [
        "| | trained numbers | tokens an image | scenes: choice | scenes: CIDEr | names: choice | training loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = [f"{result['training']['trained_numbers']:,}", str(result["image_tokens"])]
        for task, part, key in (
            ("openmoji-scenes", "choice", "accuracy"),
            ("openmoji-scenes", "caption", "cider"),
            ("openmoji-names", "choice", "accuracy"),
        ):
            pair = []
            for source in ("true", "shuffled"):
                scores = result["metrics"][task][source]
                pair.append(100 * (scores["caption"] if part == "caption" else scores["questions"][part])[key])
            cells.append(f"{pair[0]:.1f} / {pair[1]:.1f}")
        cells.append(f"{result['training']['train_loss']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """What README.md shows of the result files."""
    results = tables.load_arms("miniature", ARMS)
    return {"miniature table": table(results) if results else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/miniature"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help="of 32 samples")
    args = parser.parse_args()
    keep_freed_memory()
    for name in args.arms:
        own = tables.file_name(name)
        run = partial(measure, name, args.output_dir / own, args.steps)
        tables.measure_once(f"miniature/{own}", args.steps, name, run)
    results = tables.load_arms("miniature", ARMS)
    print(table(results))
    print(json.dumps({name: result["training"]["seconds"] for name, result in results.items()}))


if __name__ == "__main__":
    main()
