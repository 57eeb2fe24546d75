"""Does the shipped adapter name things in a style of drawing that it has never seen, and in photographs? Resumable.

python benchmarks/unseen_styles.py
python benchmarks/write_tables.py          # puts the table into docs/towers.md

It is asked as it is, and once more after it was trained further on the names of 710 things drawn in three styles: in
these, in the fourth style, and about photographs (``photographs.py``, which downloads 161 MB).
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
from adem_vl_hf.data.openmoji.styles import OPENMOJI, STYLES
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.openmoji_training import BATCH_SIZE, RECIPES
from adem_vl_hf.training import IN_ORDER, build_trainer, fastest_setting, train, training_arguments

RECIPE = RECIPES["shipped"]
SEEN = tuple(style for style in STYLES if style != UNSEEN)
TESTED = 300  # samples in each style, half of each kind
PHOTOGRAPHS = "photographs"
IMAGES = ("true", "shuffled")
FILE = "unseen_styles"
STAGES = {"shipped": "as it ships", "further": "trained further"}


def fine_tune(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train the shipped adapter further on the names of things in the styles of ``SEEN``, or go on where it stopped.

    Args:
        folder (Path): where checkpoints and the adapter are written.
        steps (int): how many steps.
        seed (int): of the drawings.

    Returns:
        The content of ``training.json``.
    """
    set_seed(seed)
    model, processor = load_checkpoint(**fastest_setting())
    drawings = OpenMojiNames("train", size=steps * BATCH_SIZE, seed=seed, styles=SEEN)
    arguments = training_arguments(
        folder,
        samples=len(drawings),
        batch_size=BATCH_SIZE,
        max_steps=steps,
        learning_rate=RECIPE.learning_rate,
        max_grad_norm=RECIPE.max_grad_norm,
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
        The table and a line about the training. Cells are right answers in per cent, with the own image / with another.
    """
    rows, stages = [], {stage: text for stage, text in STAGES.items() if _is_whole(saved, stage)}
    for name in (*SEEN, UNSEEN, PHOTOGRAPHS):
        cells, number = [], 0
        for kind in ("choice", "caption"):
            for stage in stages:
                found = [saved["answers"][f"{stage}, {name}, {images}"].get(kind) for images in IMAGES]
                cells.append(" / ".join(f"{100 * one['share']:.1f}" for one in found if one))
                number = max([number, *(one["n"] for one in found if one)])
        what = name if name in (SEEN if "further" in stages else (OPENMOJI,)) else f"{name}, never seen"
        rows.append([what, str(number), *cells])
    kinds = ("one of four names", "the name, exactly")
    head = ["pictures", "n", *(f"{kind}, {stage}, %" for kind in kinds for stage in stages.values())]
    text = tables.markdown(head, rows)
    if (trained := saved["training"]) and len(stages) > 1:
        text += f"\n\n{trained['steps']} further steps of {BATCH_SIZE}, seed {trained['seed']}."
    return text


def _is_whole(saved: dict[str, Any], stage: str) -> bool:
    """Tell whether a stage was asked about all pictures."""
    pictures = (*STYLES, PHOTOGRAPHS)
    return all(f"{stage}, {name}, {images}" in saved["answers"] for name in pictures for images in IMAGES)


def sections() -> dict[str, str]:
    """The table of docs/towers.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(FILE)
    whole = saved is not None and _is_whole(saved, "shipped")
    return {"unseen styles": table(saved) if saved is not None and whole else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of the further training; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/unseen"), help="the adapter and predictions")
    parser.add_argument("--photographs", type=Path, default=Path("runs/photographs"), help="where the package is kept")
    args = parser.parse_args()
    keep_freed_memory()
    photographs = photographs_of_names(fetch(args.photographs))
    training = fine_tune(args.output_dir, args.steps, args.seed) if args.steps else None
    saved = tables.load(FILE) or {"answers": {}}
    if training and saved.get("training") != training:  # the answers after another training
        saved["answers"] = {part: found for part, found in saved["answers"].items() if part.startswith("shipped, ")}
    saved["training"] = training or saved.get("training")
    data = {style: OpenMojiNames("test", size=TESTED, styles=[style]) for style in (*SEEN, UNSEEN)}
    for stage, checkpoint in (("shipped", None), *([("further", str(args.output_dir))] if training else [])):
        model, processor = load_checkpoint(checkpoint, **fastest_setting())
        for name, samples in {**data, PHOTOGRAPHS: photographs}.items():
            for images in IMAGES:
                if (part := f"{stage}, {name}, {images}") not in saved["answers"]:
                    output = args.output_dir / f"predictions-{stage}" / f"{name}-{images}.jsonl"
                    saved["answers"][part] = answers(model, processor, samples, images, output)
                    tables.save(FILE, saved)
    print(sections()["unseen styles"])


if __name__ == "__main__":
    main()
