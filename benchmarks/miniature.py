"""What each mechanism of EVLM does, at a small scale and beside ADEM-VL. Resumable.

python benchmarks/miniature.py                      # every arm that has no result file yet
python benchmarks/miniature.py --arms evlm experts  # only these
python benchmarks/write_tables.py                   # puts the table into docs/results.md

All arms have the same frozen bases, samples in the same order, and number of steps.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.evaluation.predict import evaluate_with_controls
from adem_vl_hf.openmoji_training import RECIPES, SHORT_SHARES, fine_tune

STEPS = 240  # with the recipes and the data of the demo
# name -> (kind of model, its settings); all other settings are those of the paper
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
# the same names as tables show them
LABELS = {
    "evlm": "EVLM",
    "adem_vl": "ADEM-VL",
    "experts": "EVLM with experts",
    "one level": "EVLM, one level of the tower",
    "no media tokens": "EVLM without media tokens",
    "levels concatenated": "EVLM, all levels to every layer",
    "4 media tokens": "EVLM, 4 media tokens",
    "no zero vector": "EVLM without the zero vector",
}


def test_sets() -> dict[str, Any]:
    """The held-out samples that every arm answers: captions and choices, as in training.

    Returns:
        The data set by its name.
    """
    kinds = ("caption", "choice")
    return {
        "openmoji-scenes": OpenMojiScenes("test", size=240, kinds=kinds),
        "openmoji-names": OpenMojiNames("test", size=120, kinds=kinds),
    }


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train one arm and let it answer. An interrupted run goes on from its last checkpoint.

    Args:
        name (str): a key of ``ARMS``.
        folder (Path): where checkpoints and predictions are written.
        steps (int): training steps of 32 samples.

    Returns:
        What the result file holds.
    """
    kind, settings = ARMS[name]
    model, processor, facts = fine_tune(
        folder, steps, resume=True, shares=SHORT_SHARES, recipe=kind, settings=settings, save_steps=20
    )
    metrics = evaluate_with_controls(model, processor, test_sets(), folder / "predictions")
    return {"training": facts, "image_tokens": model.config.image_tokens, "metrics": metrics}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each arm that was measured.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by arm.

    Returns:
        The table. Two scores in a cell are those with the own image and with another image; CIDEr is times 100.
    """
    rows = []
    for name, result in results.items():
        cells = [LABELS.get(name, name), f"{result['training']['trained_numbers']:,}", str(result["image_tokens"])]
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
        rows.append(cells)
    head = ["", "trainable parameters", "tokens per image", "scenes: choice, %", "scenes: CIDEr", "names: choice, %"]
    return tables.markdown([*head, "training loss"], rows)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about EVLM's mechanisms.

    Returns:
        The text by the name of the section.
    """
    results = tables.load_arms("miniature", ARMS)
    return {"miniature table": table(results) if results else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/miniature"), help="checkpoints and predictions")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of 32 samples")
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
