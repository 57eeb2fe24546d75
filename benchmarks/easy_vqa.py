"""easy-VQA by `adem-vl train`: ADEM-VL with the language model frozen, and with LoRA in it. Resumable.

python benchmarks/easy_vqa.py                                    # both for 400 steps, tested on 40 images
python benchmarks/easy_vqa.py --steps 1500 --test-images 1000    # both longer, on the whole test set
python benchmarks/write_tables.py                                # puts the table into docs/results.md

Each question is asked with its own image and with that of another question.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.cli import main as adem_vl
from adem_vl_hf.data.easy_vqa import EasyVQA, text_alone
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting

RUNS: dict[str, list[str]] = {
    "frozen": [],
    "LoRA": ["--lora", "r=8", "lora_alpha=16", "target_modules=q_proj,v_proj"],
}
COMMAND = [
    "train", "--data", "easy-vqa", "--each-turn-alone", "--vision-tower", "embedded-dinov2",
    "--vision-adapter-dim", "0", "--batch-size", "16", "--learning-rate", "4e-3",
    "--set", "save_steps=100", "logging_steps=20", "--resume",
]  # fmt: skip
KINDS = ("all", "what", "yes or no")
IMAGES = ("true", "shuffled")


def measure(run: str, steps: int, test_images: int, folder: Path, features: Path) -> dict[str, Any]:
    """Train as a user does, and test the checkpoint.

    Args:
        run (str): a key of ``RUNS``.
        steps (int): how many training steps.
        test_images (int): how many test images, each with about ten questions.
        folder (Path): where the checkpoint and the predictions are written.
        features (Path): where the features of the vision tower are kept for all runs.

    Returns:
        The record of the training, and the scores by image condition.
    """
    kept = ["--cache-features", str(features), "--max-steps", str(steps), "--output-dir", str(folder)]
    if code := adem_vl([*COMMAND, *RUNS[run], *kept]):
        raise SystemExit(code)
    model, processor = load_checkpoint(str(folder), **fastest_setting())
    questions, scores = EachTurn(EasyVQA("test", test_images)), {}
    for images in IMAGES:
        output = folder / f"predictions-{test_images}" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True)
        rows = predict(model, processor, questions, output=output, batch_size=32, max_new_tokens=4, images=images)  # type: ignore[arg-type]
        scores[images] = score("easy-vqa", rows)
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {"training": training, "metrics": scores}


def table(results: dict[str, dict[str, Any]], alone: dict[str, float]) -> str:
    """A row for each run.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by a name that begins with that of the run.
        alone (dict[str, float]): of ``text_alone``.

    Returns:
        The table. Cells are right answers in per cent, with the own image / with another one.
    """
    rows = []
    for name, result in results.items():
        training, found = result["training"], [result["metrics"][images]["questions"] for images in IMAGES]
        shares = [" / ".join(f"{100 * one[kind]['accuracy']:.1f}" for one in found) for kind in KINDS]
        numbers = (training["trained_numbers"], training["steps"], found[0]["all"]["n"])
        minutes = f"{training['seconds'] / 60:.0f}"
        rows.append([name.split(",")[0], *(f"{number:,}" for number in numbers), minutes, *shares])
    rows.append(
        ["the question alone", "", "", "", "", *(f"{100 * share:.1f}" for share in map(text_alone().get, KINDS))]
    )  # type: ignore[operator]
    head = ["language model", "trainable parameters", "steps of 16", "test questions", "minutes of training"]
    return tables.markdown([*head, *(f"{kind}, %" for kind in KINDS)], rows)


def sections() -> dict[str, str]:
    """The table of docs/results.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("easy_vqa")
    return {"easy vqa table": table(saved["runs"], saved["alone"]) if saved else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--test-images", type=int, default=40, help="of about ten questions each")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/easy-vqa"), help="checkpoints and predictions")
    args = parser.parse_args()
    keep_freed_memory()
    results = (tables.load("easy_vqa") or {"runs": {}})["runs"]
    for run in args.runs:
        name = f"{run}, {args.steps} steps, {args.test_images} images"
        if name not in results:
            folder = args.output_dir / tables.file_name(f"{run}-{args.steps}")
            result = measure(run, args.steps, args.test_images, folder, args.output_dir / "features")
            same_run = f"{run}, {args.steps} steps, "  # which the newer test replaces
            results = {other: found for other, found in results.items() if not other.startswith(same_run)}
            results[name] = result
            # pages are compared with this file where the benchmark is not at hand
            tables.save("easy_vqa", {"runs": results, "alone": text_alone()})
    print(sections()["easy vqa table"])


if __name__ == "__main__":
    main()
