"""What the shipped checkpoint and the demo's own answer on both test sets, with the controls. Resumable.

python benchmarks/quality.py --write           # measure the shipped checkpoint; rewrite README.md's tables and the card
python benchmarks/quality.py --demo runs/demo  # take over the figures that `make demo` measured there
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
from adem_vl_hf.demo import test_sets
from adem_vl_hf.evaluation.predict import evaluate_with_controls
from adem_vl_hf.hub.model_card import write_model_card
from adem_vl_hf.loading import CHECKPOINT, TOWER, load_checkpoint
from adem_vl_hf.training import fastest_setting


def digest(model: AdemVLForConditionalGeneration) -> str:
    """Names an adapter by its numbers: predictions that another one made are not gone on with."""
    tensors = model.adapter_state_dict().values()
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()[:12]


def write_cards(metrics: dict[str, Any], shipped: Path = CHECKPOINT, root: Path = tables.ROOT) -> None:
    """The shipped checkpoint's card with these figures, and its copy at the top of the repository."""
    card = write_model_card(shipped, repo_id="adem-vl-openmoji", metrics=metrics)
    shutil.copyfile(card, root / "MODEL_CARD.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="print the table of this one (default: keep that of the one that ships)")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"), help="prediction files")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--names", type=int, default=710)
    parser.add_argument("--demo", type=Path, help="a folder that `make demo` wrote: its figures, instead of measuring")
    parser.add_argument("--write", action="store_true", help="rewrite the tables of README.md and the model card")
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
            print(tables.quality_table(metrics))
            return
        tables.save("shipped", {"metrics": metrics})
    sections = {}
    for name in ("shipped", "demo"):
        if (result := tables.load(name)) is not None:
            sections[f"{name} table"] = tables.quality_table(result["metrics"])
            print(f"\n{name}\n{sections[f'{name} table']}")
    tower = json.loads((TOWER / "training.json").read_text(encoding="utf-8"))
    sections["tower"] = (
        f"Retrieval top-1 of the shipped tower: names {100 * tower['names_top1']:.1f} % (of 710 names), "
        f"scenes {100 * tower['scenes_top1']:.1f} % (of the captions of 500 test scenes)."
    )
    if (head := tables.load("lm_head")) is not None:
        sections["lm head"] = (
            f"A training step with the LM head on every position takes {head['ratio']:.2f} times as long as with the "
            f"head on the supervised ones (SmolLM2-135M, batch {head['batch_size']}, {head['repeats']} interleaved "
            "repeats, medians)."
        )
    if args.write:
        tables.write_readme(sections)
        if (result := tables.load("shipped")) is not None:
            write_cards(result["metrics"])


if __name__ == "__main__":
    main()
