"""Answers of the shipped checkpoint and of the demo's on both test sets, with the controls. Resumable.

python benchmarks/quality.py --card            # measure the shipped checkpoint, and rewrite its model card
python benchmarks/quality.py --demo runs/demo  # take over what `make demo` measured in that folder
python benchmarks/write_tables.py              # puts the tables into README.md and docs/results.md

Each question is asked three times: with its own image, with the image of another sample, and without an image. Scores
with another image show how much of an answer comes from the text alone.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.evaluation.predict import evaluate_with_controls
from adem_vl_hf.hub.model_card import write_model_card
from adem_vl_hf.loading import CHECKPOINT, TOWER, load_checkpoint
from adem_vl_hf.openmoji_training import test_sets
from adem_vl_hf.training import fastest_setting

REPO_ID = "adem-vl-openmoji"
TASKS = {"openmoji-scenes": "scenes", "openmoji-names": "names", "easy-vqa": "easy-VQA"}
IMAGES = {"true": "own image", "shuffled": "another image", "none": "no image"}
CAPTION_MEASURES = {"exact_match": "caption, exact match, %", "bleu4": "caption, BLEU-4", "cider": "caption, CIDEr"}
QUESTIONS = {
    "choice": "four-way choice",
    "count": "count",
    "presence": "presence",
    "relation": "relation",
    "what": "what shape or colour",
    "yes or no": "yes or no",
    "all": "all questions",
}
# names have one or two words: BLEU-4 counts groups of four, of which there are none, and is 0 even of perfect answers
UNDEFINED = {("openmoji-names", "bleu4")}


def digest(model: AdemVLForConditionalGeneration) -> str:
    """A short name of an adapter, made from its weights, for the folder of its predictions.

    Args:
        model (AdemVLForConditionalGeneration): the model; its bases do not count.

    Returns:
        Twelve hexadecimal digits. Another adapter does not go on with this one's predictions.
    """
    tensors = model.adapter_state_dict().values()
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()[:12]


def write_cards(metrics: dict[str, Any], shipped: Path = CHECKPOINT, root: Path = tables.ROOT) -> None:
    """Write the model card of the shipped checkpoint, and its copy MODEL_CARD.md.

    Args:
        metrics (dict[str, Any]): what ``evaluate_with_controls`` returned.
        shipped (Path): the folder of the checkpoint.
        root (Path): the folder of the copy.
    """
    card = write_model_card(shipped, repo_id=REPO_ID, metrics=metrics)
    shutil.copyfile(card, root / "MODEL_CARD.md")


def quality_table(metrics: dict[str, Any]) -> str:
    """A row for each measure, a column for each image that the model was shown.

    Args:
        metrics (dict[str, Any]): what ``evaluate_with_controls`` returned, by test set and image.

    Returns:
        The table; shares in per cent, BLEU-4 and CIDEr times 100.
    """
    rows = []
    for task, label in TASKS.items():
        scores = metrics.get(task, {})
        if not scores:
            continue
        for key, name in CAPTION_MEASURES.items() if "caption" in scores["true"] else ():
            values = [f"{100 * scores[image]['caption'][key]:.1f}" for image in IMAGES]
            cells = ["n/a"] * len(values) if (task, key) in UNDEFINED else values
            rows.append([label, name, str(scores["true"]["caption"]["n"]), "", *cells])
        for kind, part in sorted(scores["true"].get("questions", {}).items()):
            values = [f"{100 * scores[image]['questions'][kind]['accuracy']:.1f}" for image in IMAGES]
            chance = f"{100 * part['chance']:.1f}"
            rows.append([label, f"{QUESTIONS[kind]}, % right", str(part["n"]), chance, *values])
    return tables.markdown(["test set", "measure", "n", "chance", *IMAGES.values()], rows)


def sections() -> dict[str, str]:
    """The sections of docs/results.md about the two checkpoints and the vision tower.

    Returns:
        The text by the name of the section.
    """
    found = {}
    for name in ("shipped", "demo"):
        result = tables.load(name)
        found[f"{name} table"] = tables.NOT_MEASURED if result is None else quality_table(result["metrics"])
    tower = json.loads((TOWER / "training.json").read_text(encoding="utf-8"))
    named = [f"{style} {100 * tower[f'{style}_named']:.1f} %" for style in STYLES]
    found["tower"] = f"Things in test drawings that the tower's last linear layer names, among 710: {', '.join(named)}."
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="print the table of this checkpoint, and save it nowhere but in its card")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"), help="where predictions are written")
    parser.add_argument("--scenes", type=int, default=2000, help="number of test samples about scenes")
    parser.add_argument("--names", type=int, default=710, help="number of test samples about names")
    parser.add_argument("--demo", type=Path, help="a folder that `make demo` wrote: take its scores, measure nothing")
    parser.add_argument("--card", action="store_true", help="rewrite the model card with these scores")
    args = parser.parse_args()
    keep_freed_memory()
    if args.demo:
        facts = json.loads((args.demo / "training.json").read_text(encoding="utf-8"))
        metrics = json.loads((args.demo / "metrics.json").read_text(encoding="utf-8"))
        tables.save("demo", {"training": facts, "metrics": metrics})
    else:
        model, processor = load_checkpoint(args.checkpoint, **fastest_setting())
        folder = args.output_dir / digest(model)
        metrics = evaluate_with_controls(model, processor, test_sets(args.scenes, args.names), folder)
        if args.checkpoint:
            print(quality_table(metrics))
            if args.card:
                write_model_card(Path(args.checkpoint), repo_id=REPO_ID, metrics=metrics)
            return
        tables.save("shipped", {"metrics": metrics})
    print("\n\n".join(f"{name}\n{text}" for name, text in sections().items()))
    if args.card and (result := tables.load("shipped")) is not None:
        write_cards(result["metrics"])


if __name__ == "__main__":
    main()
