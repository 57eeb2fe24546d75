"""Does `adem-vl train` learn with its defaults? Three sizes of data, two batch sizes, and other rates. Resumable.

python benchmarks/defaults.py                  # every cell that has no result yet
python benchmarks/defaults.py --arms defaults  # the defaults alone
python benchmarks/write_tables.py              # puts the table into docs/your_data.md

The models are the embedded ones. The smallest set is that of docs/index.md: coloured shapes, 12 classes. The medium one
has two shapes in an image and says which is on the left. The large one is OpenMoji scenes.
"""

import argparse
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
from PIL import Image, ImageDraw
from torch.utils.data import Dataset
from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.sample import CAPTION_PROMPT, Sample
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import build_model
from adem_vl_hf.recipe import peak_learning_rate
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
DRAW: dict[str, Callable[..., None]] = {
    "circle": ImageDraw.ImageDraw.ellipse,
    "square": ImageDraw.ImageDraw.rectangle,
}
TEST_SIZE = 60


class Shapes(Dataset[Sample]):
    """Draws one coloured shape in a white image, or two side by side.

    Args:
        number (int): how many samples there are.
        shapes (int): how many shapes an image has, 1 or 2.
        seed (int): what places, sizes and, of two, the shapes follow from.
    """

    def __init__(self, number: int, shapes: int, seed: int) -> None:
        self.number, self.shapes, self.seed = number, shapes, seed

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Sample:
        if index >= self.number:
            raise IndexError(index)
        rng = random.Random(1000 * self.seed + index)
        classes = [(colour, shape) for colour in COLOURS for shape in DRAW]
        chosen = [classes[index % len(classes)]] if self.shapes == 1 else rng.sample(classes, 2)
        image, room = Image.new("RGB", (96, 96), "white"), 96 // self.shapes
        for place, (colour, shape) in enumerate(chosen):
            side = rng.randint(2 * room // 5, 3 * room // 5)
            x, y = place * room + rng.randint(2, room - side - 2), rng.randint(2, 94 - side)
            DRAW[shape](ImageDraw.Draw(image), [x, y, x + side, y + side], fill=colour)
        text = " left of ".join(f"a {colour} {shape}" for colour, shape in chosen)
        return Sample(
            id=str(index), image=image, prompt=CAPTION_PROMPT, answer=f" {text}", references=[text], kind="caption"
        )


class Size(NamedTuple):
    """One size of data.

    Args:
        train (Callable[[], Any]): makes the training set.
        test (Callable[[], Any]): makes the test set.
        steps (dict[int, int]): how many steps are trained, by the size of the batch.
        vision_tower (str): the one that ``adem-vl train`` takes for such data where none is named.
    """

    train: Callable[[], Any]
    test: Callable[[], Any]
    steps: dict[int, int]
    vision_tower: str


SIZES = {
    "40 shapes": Size(partial(Shapes, 40, 1, 0), partial(Shapes, TEST_SIZE, 1, 1), {4: 150, 16: 60}, "embedded-dinov2"),
    "400 pairs of shapes": Size(
        partial(Shapes, 400, 2, 0), partial(Shapes, TEST_SIZE, 2, 1), {4: 300, 16: 100}, "embedded-dinov2"
    ),
    "4,000 scenes": Size(
        partial(OpenMojiScenes, "train", size=4000, kinds=("caption",)),
        partial(OpenMojiScenes, "test", size=TEST_SIZE, kinds=("caption",)),
        {4: 300, 16: 100},
        "embedded",
    ),
}
# Fields that would follow from the sizes of these models. Keys and values both have the visual scale, and the fused
# term sums over D dimensions and S slots: 0.01 * sqrt(4096 * 320 / (576 * 80)). The projectors have about as many
# parameters as the paper's, and the features are those of the last of six blocks.
FITTED = {"visual_scale": 0.053, "projector_dim": 512, "vision_feature_layer": -1}
# what is multiplied with the peak rate of the rule (None: the paper's linear rule), and fields of the configuration
ARMS: dict[str, tuple[float | None, dict[str, Any]]] = {
    "defaults": (1.0, {}),
    "paper": (None, {}),
    "half the rate": (0.5, {}),
    "twice the rate": (2.0, {}),
    "fitted fields": (1.0, FITTED),
}


def measure(arm: str, size: str, batch_size: int, folder: Path, vision_tower: str | None = None) -> dict[str, Any]:
    """Train one arm on one size of data and let it caption the test set.

    Args:
        arm (str): a key of ``ARMS``.
        size (str): a key of ``SIZES``.
        batch_size (int): samples per step.
        folder (Path): where checkpoints and predictions are written.
        vision_tower (str | None): the frozen vision tower; None = that of the size.

    Returns:
        What the result file holds.
    """
    factor, fields = ARMS[arm]
    set_seed(42)
    model, processor = build_model(vision_tower=vision_tower or SIZES[size].vision_tower, **fastest_setting(), **fields)
    data, steps = SIZES[size].train(), SIZES[size].steps[batch_size]
    rate = None if factor is None else factor * peak_learning_rate(model.config)
    arguments = training_arguments(
        folder, len(data), batch_size, max_steps=steps, learning_rate=rate, save_strategy="no"
    )
    test = SIZES[size].test()
    trainer = build_trainer(model, processor, data, arguments)
    facts = train(trainer, processor)
    loss = trainer.evaluate(test)["eval_loss"]
    output = folder / "predictions.jsonl"
    output.unlink(missing_ok=True)
    rows = predict(model, processor, test, output=output, batch_size=20, max_new_tokens=20)
    exact = score("caption", rows)["caption"]["exact_match"]
    return {"training": facts, "fields": fields, "loss": round(loss, 4), "exact_match": exact}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each size of data and of batch.

    Args:
        results (dict[str, dict[str, Any]]): what ``measure`` returned, by "arm, size, batch".

    Returns:
        The table. Cells are exact captions of the test set in per cent, and the loss there.
    """
    rows = []
    for size, described in SIZES.items():
        for batch, steps in described.steps.items():
            found = [results.get(cell(arm, size, batch)) for arm in ARMS]
            values = ["" if one is None else f"{100 * one['exact_match']:.0f} ({one['loss']:.2f})" for one in found]
            rows.append([size, str(batch), str(steps), *values])
    return tables.markdown(["data", "batch", "steps", *ARMS], rows)


def cell(arm: str, size: str, batch: int) -> str:
    """Name one cell.

    Args:
        arm (str): a key of ``ARMS``.
        size (str): a key of ``SIZES``.
        batch (int): samples per step.

    Returns:
        The name.
    """
    return f"{arm}, {size}, {batch}"


def sections() -> dict[str, str]:
    """The table of docs/your_data.md.

    Returns:
        The text by the name of the section.
    """
    cells = [cell(arm, size, batch) for arm in ARMS for size, found in SIZES.items() for batch in found.steps]
    results = tables.load_arms("defaults", cells)
    return {"defaults table": table(results) if results else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="; ".join(ARMS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help="; ".join(SIZES))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/defaults"), help="checkpoints and predictions")
    args = parser.parse_args()
    keep_freed_memory()
    for size in args.sizes:
        for arm in args.arms:
            for batch, steps in SIZES[size].steps.items():
                name = cell(arm, size, batch)
                own = tables.file_name(name)
                run = partial(measure, arm, size, batch, args.output_dir / own)
                tables.measure_once(f"defaults/{own}", steps, name, run)
    print(sections()["defaults table"])


if __name__ == "__main__":
    main()
