"""Move the adapter that ships on DINOv2-small to the small CLIP, which was taught to see alike, and train it further.

    python examples/train_on_clip.py --heads runs/distilled/heads.safetensors --output-dir runs/on_clip --export

``examples/distil_tower.py`` leaves linear layers that find DINOv2's features in those of the small CLIP. The first
layers of the adapter's projectors take them in, so that the adapter reads the small CLIP from the first step. Then it
learns what the small CLIP sees in another way. After an interruption the same command continues from the last
checkpoint. On a CPU with two cores, two processes with a thread each take the least time:

    ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 examples/train_on_clip.py --compile ...

`--export` writes the result into the package. It is trained on the tower that is there, which must be the same.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from train_openmoji import export

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.openmoji.mixture import ON_CLIP_SHARES
from adem_vl_hf.files import write_json
from adem_vl_hf.loading import CHECKPOINT, CHECKPOINT_ON_CLIP, build_model
from adem_vl_hf.modeling.one_save import one_save
from adem_vl_hf.openmoji_training import RECIPES, fine_tune

RECIPE = "shipped, last"
WEIGHTS = "model.safetensors"
PROJECTORS = {"cls": "adapter.cls_projector", "patches": "adapter.visual_projector"}


def moved(weights: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Let the projectors of an adapter read the features from which linear layers find those that it was trained on.

    Args:
        weights (Mapping[str, torch.Tensor]): The weights of the adapter.
        heads (Mapping[str, torch.Tensor]): Weight [C, C'] and bias [C] of the layers for class token and patches.

    Returns:
        The weights, with ``P(H x + h) = (P H) x + (P h + p)`` in place of the first layer of each projector.
    """
    result = dict(weights)
    for place, projector in PROJECTORS.items():
        weight, bias = weights[f"{projector}.fc1.weight"], weights[f"{projector}.fc1.bias"]
        result[f"{projector}.fc1.weight"] = weight @ heads[f"{place}.weight"]
        result[f"{projector}.fc1.bias"] = weight @ heads[f"{place}.bias"] + bias
    return result


def begin(heads: Path, folder: Path) -> None:
    """Save the shipped adapter as one on the small CLIP.

    Args:
        heads (Path): The file of the linear layers.
        folder (Path): The folder of the new checkpoint.
    """
    model, processor = build_model("embedded", "embedded", "adem_vl", **RECIPES[RECIPE].settings)
    with one_save(folder) as beside:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        save_file(moved(load_file(CHECKPOINT / WEIGHTS), load_file(heads)), beside / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((beside / "config.json").read_text(encoding="utf-8"))
        config.pop("adapter_digest")  # of the weights that are replaced
        write_json(beside / "config.json", config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, required=True, help="the linear layers that distil_tower.py left")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/on_clip"))
    parser.add_argument("--steps", type=int, default=1200, help="of 32 samples")
    parser.add_argument("--compile", action="store_true", help="the steps run through torch.compile")
    parser.add_argument("--export", action="store_true", help="put the result into the package when done")
    args = parser.parse_args()
    keep_freed_memory()
    if args.compile:
        torch._dynamo.config.optimize_ddp = False  # as in train_openmoji.py
    start, trained = args.output_dir / "start", args.output_dir / "trained"
    if not (trained / "training.json").is_file():
        with PartialState(cpu=not torch.cuda.is_available()).local_main_process_first():
            if not (start / "config.json").is_file():
                begin(args.heads, start)
        fine_tune(trained, args.steps, RECIPE, True, ON_CLIP_SHARES, compiled=args.compile, start=start)
    if args.export:
        export([trained], CHECKPOINT_ON_CLIP)
        print(f"exported to {CHECKPOINT_ON_CLIP}")


if __name__ == "__main__":
    main()
