"""Train the adapter that ships with the package: what `make demo` does, for longer. Interrupted, it goes on.

    python examples/train_openmoji.py --output-dir runs/openmoji --steps 1500 --export

`--export` writes the result into the package, with the bases named so that it loads on any machine: the language model
by its Hub id (the embedded 4-bit copy of it was trained on), the tower by its place beside the adapter.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import set_seed

from adem_vl_hf.bases import LANGUAGE_MODEL_ID
from adem_vl_hf.data import open_dataset
from adem_vl_hf.demo import BATCH_SIZE, DATA, LEARNING_RATE, SETTINGS, card_metrics
from adem_vl_hf.model_card import write_model_card
from adem_vl_hf.pretrained import CHECKPOINT, build_model
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments, write_json


def export(trained: Path, target: Path) -> None:
    """Copy config, adapter, processor and code to ``target``; no path of this machine goes along."""
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        new = Path(beside) / target.name
        new.mkdir()
        for file in trained.iterdir():
            if file.suffix in (".py", ".json", ".safetensors", ".jinja") and file.name != "metrics.json":
                shutil.copy(file, new)
        config = json.loads((new / "config.json").read_text(encoding="utf-8"))
        config |= {"text_model_name_or_path": LANGUAGE_MODEL_ID, "vision_model_name_or_path": "../tower"}
        for part in (config, config["text_config"], config["vision_config"]):
            part.pop("_name_or_path", None)
        write_json(new / "config.json", config)
        tokenizer = json.loads((new / "tokenizer_config.json").read_text(encoding="utf-8"))
        # Transformers 5 writes a class name that 4.57 does not know; both know this one
        write_json(new / "tokenizer_config.json", tokenizer | {"tokenizer_class": "PreTrainedTokenizerFast"})
        write_model_card(new, repo_id="adem-vl-openmoji", metrics=_metrics(trained))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(new, target)


def _metrics(trained: Path) -> dict[str, Any] | None:
    """What the demo measured, if it made this checkpoint."""
    path = trained / "metrics.json"
    if not path.exists():
        return None
    return {task: card_metrics(part["true"]) for task, part in json.loads(path.read_text(encoding="utf-8")).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/openmoji"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--vision-tower", default="embedded")
    parser.add_argument("--export", action="store_true", help="put the result into the package when done")
    args = parser.parse_args()
    set_seed(0)
    model, processor = build_model("embedded", args.vision_tower, **fastest_setting(), **SETTINGS)
    dataset = open_dataset("openmoji", "train", args.steps * BATCH_SIZE)
    arguments = training_arguments(
        args.output_dir,
        samples=len(dataset),
        batch_size=BATCH_SIZE,
        max_steps=args.steps,
        learning_rate=LEARNING_RATE,
        save_steps=100,
    )
    facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    write_json(args.output_dir / "training.json", {**facts, "data": DATA})
    if args.export:
        export(args.output_dir, CHECKPOINT)
        print(f"exported to {CHECKPOINT}")


if __name__ == "__main__":
    main()
