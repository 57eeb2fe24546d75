"""Train the adapter that ships with the package: what `make demo` does, for longer. Interrupted, it goes on.

    python examples/train_openmoji.py --output-dir runs/openmoji --steps 4500 --export

`--export` writes the result into the package, with the bases named so that it loads on any machine: the language model
by its Hub id (the embedded 4-bit copy of it was trained on), the tower by its place beside the adapter.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.bases import LANGUAGE_MODEL_ID
from adem_vl_hf.demo import fine_tune
from adem_vl_hf.files import write_json
from adem_vl_hf.model_card import read_record, write_model_card
from adem_vl_hf.pretrained import CHECKPOINT


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
        config["text_model_fingerprint"]["gguf"] = True  # the embedded copy is of a GGUF file, its embeddings rounded
        for part in (config, config["text_config"], config["vision_config"]):
            part.pop("_name_or_path", None)
        write_json(new / "config.json", config)
        write_model_card(new, repo_id="adem-vl-openmoji", metrics=read_record(trained, "metrics.json"))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(new, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/openmoji"))
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--vision-tower", default="embedded")
    parser.add_argument("--export", action="store_true", help="put the result into the package when done")
    args = parser.parse_args()
    keep_freed_memory()
    fine_tune(args.output_dir, args.steps, args.vision_tower, resume=True)
    if args.export:
        export(args.output_dir, CHECKPOINT)
        print(f"exported to {CHECKPOINT}")


if __name__ == "__main__":
    main()
