"""Train the adapter that ships with the package.

    python examples/train_openmoji.py --output-dir runs/openmoji --compile --export

It learns in seven stages: first mostly captions; then all kinds of questions, names and styles of drawing; then what
still goes wrong, with more things; then which of two things stands where, among six things and among forty; then
everything once more; and last, captions above all. After an interruption the same command continues from the last
checkpoint. On a CPU with two cores, two processes with a thread each take the least time:

    ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 examples/train_openmoji.py --compile

`--export` writes the result into the package and names its bases so that it loads on any machine: the language model by
its Hub id (although it was trained on the embedded 4-bit copy), and the vision tower as one that the package brings.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.openmoji.mixture import (
    CAPTION_SHARES,
    FINAL_SHARES,
    LAST_SHARES,
    LATER_SHARES,
    MORE_PLACES_SHARES,
    PLACE_SHARES,
    SHARES,
)
from adem_vl_hf.embedded.smollm2 import LANGUAGE_MODEL_ID
from adem_vl_hf.files import write_json
from adem_vl_hf.hub.model_card import read_record, write_model_card
from adem_vl_hf.loading import CHECKPOINT
from adem_vl_hf.openmoji_training import fine_tune

# The folder, recipe, shares and number of steps of each stage, which goes on from the one before
STAGES = (
    ("first", "shipped", SHARES, 4000),
    ("second", "shipped, later", LATER_SHARES, 5300),
    ("third", "shipped, last", LAST_SHARES, 4200),
    ("fourth", "shipped, later", PLACE_SHARES, 280),
    ("fifth", "shipped, later", MORE_PLACES_SHARES, 240),
    ("sixth", "shipped, last", FINAL_SHARES, 3000),
    ("seventh", "shipped, last", CAPTION_SHARES, 3000),
)


def without(names: tuple[str, ...], value: Any) -> Any:
    """Remove keys from a JSON value, at any depth."""
    if not isinstance(value, dict):
        return value
    return {key: without(names, inner) for key, inner in value.items() if key not in names}


def export(stages: Sequence[Path], target: Path) -> None:
    """Copy what the last stage trained to ``target``, without code and without the paths of this machine."""
    trained = stages[-1]
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        new = Path(beside) / target.name
        new.mkdir()
        for file in trained.iterdir():
            if file.suffix in (".json", ".safetensors", ".jinja") and file.name != "metrics.json":
                shutil.copy(file, new)
        facts = [json.loads((stage / "training.json").read_text(encoding="utf-8")) for stage in stages]
        sums = {name: sum(one[name] for one in facts) for name in ("samples", "steps", "seconds")}
        write_json(new / "training.json", facts[-1] | sums)
        config = json.loads((new / "config.json").read_text(encoding="utf-8"))
        config |= {"text_model_name_or_path": LANGUAGE_MODEL_ID}
        # The embedded copy comes from a GGUF file, which rounds embeddings.
        config["text_model_fingerprint"]["gguf"] = True
        write_json(new / "config.json", config)
        for file in new.glob("*.json"):
            write_json(
                file, without(("_name_or_path", "auto_map", "custom_pipelines"), json.loads(file.read_text("utf-8")))
            )
        write_model_card(new, repo_id="adem-vl-openmoji", metrics=read_record(trained, "metrics.json"))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(new, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/openmoji"))
    parser.add_argument(
        "--steps",
        type=int,
        nargs=len(STAGES),
        default=[steps for *_, steps in STAGES],
        help="number of steps of each stage, of 32 samples",
    )
    parser.add_argument("--compile", action="store_true", help="the steps run through torch.compile")
    parser.add_argument("--export", action="store_true", help="put the result into the package when done")
    args = parser.parse_args()
    keep_freed_memory()
    if args.compile:
        # DDP would cut the graph of a step so that it sends some gradients early; those of this adapter are soon sent
        torch._dynamo.config.optimize_ddp = False
    folders = [args.output_dir / name for name, *_ in STAGES]
    for stage, ((_, recipe, shares, _), steps) in enumerate(zip(STAGES, args.steps, strict=True)):
        if not (folders[stage] / "training.json").is_file():
            start = folders[stage - 1] if stage else None
            fine_tune(folders[stage], steps, recipe, True, shares, compiled=args.compile, start=start, seed=stage)
    if args.export:
        export(folders, CHECKPOINT)
        print(f"exported to {CHECKPOINT}")


if __name__ == "__main__":
    main()
