"""Evaluate a checkpoint on a data set: with each sample's own image, with another's, and with none.

    python examples/evaluate.py runs/mine --data pictures/ --output-dir runs/mine/evaluation

A model that uses the images is better with each sample's own. Predictions are written as they are made, so after an
interruption the same command continues.
"""

import argparse
from pathlib import Path

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import open_dataset
from adem_vl_hf.evaluation.predict import evaluate_with_controls
from adem_vl_hf.evaluation.score import format_scores
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--data", required=True, help="a folder with metadata.jsonl, openmoji-scenes, ...")
    parser.add_argument("--task", default="caption", help="caption or questions")
    parser.add_argument("--size", type=int, help="number of samples, for the drawn data sets")
    parser.add_argument("--output-dir", type=Path, required=True, help="for the prediction files")
    args = parser.parse_args()

    keep_freed_memory()  # faster on a CPU
    model, processor = load_checkpoint(args.checkpoint, **fastest_setting())
    dataset = open_dataset(args.data, "test", args.size)
    scores = evaluate_with_controls(model, processor, {args.task: dataset}, args.output_dir)
    for condition, found in scores[args.task].items():
        print(f"\nimages: {condition}\n{format_scores(found)}")


if __name__ == "__main__":
    main()
