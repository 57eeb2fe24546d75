"""easy-VQA: ADEM-VL with the language model frozen, with LoRA in it, and with answers that compare first. Resumable.

python benchmarks/easy_vqa.py                                    # each for 400 steps, tested on 40 images
python benchmarks/easy_vqa.py --steps 1500 --test-images 1000    # longer, on the whole test set
python benchmarks/write_tables.py                                # puts the table into docs/results.md

The first two are `adem-vl train --data easy-vqa`. The third is the first one with other answers: those of yes or no
begin with the comparison, "triangle is not circle, no". Each question is asked with its own image and with that of
another question.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import tables
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.cli import main as adem_vl
from adem_vl_hf.data.easy_vqa import EasyVQA, text_alone
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.feature_cache import FeatureCache
from adem_vl_hf.files import write_json
from adem_vl_hf.loading import build_model, load_checkpoint
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments

RUNS: dict[str, list[str]] = {
    "frozen": [],
    "LoRA": ["--lora", "r=8", "lora_alpha=16", "target_modules=q_proj,v_proj"],
}
COMPARISON_FIRST = "frozen, comparison first"
TOWER, BATCH_SIZE, LEARNING_RATE = "embedded-dinov2", 16, 4e-3
COMMAND = [
    "train", "--data", "easy-vqa", "--each-turn-alone", "--vision-tower", TOWER, "--vision-adapter-dim", "0",
    "--batch-size", str(BATCH_SIZE), "--learning-rate", str(LEARNING_RATE),
    "--set", "save_steps=100", "logging_steps=20", "--resume",
]  # fmt: skip
KINDS = ("all", "what", "yes or no")
IMAGES = ("true", "shuffled")


def train_comparison_first(steps: int, folder: Path, features: Path) -> None:
    """Train as ``COMMAND`` does, on answers that begin with the comparison.

    Args:
        steps (int): how many training steps.
        folder (Path): where the checkpoint is written.
        features (Path): where the features of the vision tower are kept for all runs.
    """
    set_seed(42)  # that of TrainingArguments
    model, processor = build_model("embedded", TOWER, **fastest_setting(), vision_adapter_dim=0)
    FeatureCache(features).attach(model)
    questions = EachTurn(EasyVQA("train", comparison_first=True))
    arguments = training_arguments(
        folder, len(questions), BATCH_SIZE, max_steps=steps, learning_rate=LEARNING_RATE, save_steps=100,
        logging_steps=20,
    )  # fmt: skip
    facts = train(build_trainer(model, processor, questions, arguments), processor, resume=True)
    write_json(folder / "training.json", facts)


def measure(run: str, steps: int, test_images: int, folder: Path, features: Path) -> dict[str, Any]:
    """Train and test the checkpoint.

    Args:
        run (str): one of ``RUNS`` or ``COMPARISON_FIRST``.
        steps (int): how many training steps.
        test_images (int): how many test images, each with about ten questions.
        folder (Path): where the checkpoint and the predictions are written.
        features (Path): where the features of the vision tower are kept for all runs.

    Returns:
        The record of the training, and the scores by image condition.
    """
    if run == COMPARISON_FIRST:
        train_comparison_first(steps, folder, features)
    else:
        kept = ["--cache-features", str(features), "--max-steps", str(steps), "--output-dir", str(folder)]
        if code := adem_vl([*COMMAND, *RUNS[run], *kept]):
            raise SystemExit(code)
    model, processor = load_checkpoint(str(folder), **fastest_setting())
    questions, scores = EachTurn(EasyVQA("test", test_images)), {}
    for images in IMAGES:
        output = folder / f"predictions-{test_images}" / f"{images}.jsonl"
        output.parent.mkdir(exist_ok=True)
        rows = predict(model, processor, questions, output=output, batch_size=32, max_new_tokens=10, images=images)  # type: ignore[arg-type]
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
        cells = [f"{number:,}" for number in numbers]
        rows.append([name.rsplit(", ", 2)[0], *cells, minutes, *shares])
    rows.append(
        ["the question alone", "", "", "", "", *(f"{100 * share:.1f}" for share in map(text_alone().get, KINDS))]
    )  # type: ignore[operator]
    head = ["", "trainable parameters", "steps of 16", "test questions", "minutes of training"]
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
    runs = [*RUNS, COMPARISON_FIRST]
    parser.add_argument("--runs", nargs="+", choices=runs, default=runs, metavar="RUN", help="; ".join(runs))
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
