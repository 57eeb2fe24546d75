"""Does the embedded vision tower know things, or the drawings of one artist? What does it keep of shapes? Resumable.

python benchmarks/tower_styles.py                                          # the tower that ships with this package
python benchmarks/tower_styles.py --name wider --vision-tower runs/wide/tower  # another one, with the same adapter
python benchmarks/write_tables.py                                          # puts the tables into docs/towers.md

The shipped adapter answers about test samples of the OpenMoji data sets in four styles. Linear probes on the tower
alone name 200 things in a style that the probe has not seen, and the three shapes of easy-VQA. At last, `adem-vl train`
with its defaults learns 40 images of coloured shapes, as in benchmarks/defaults.py.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tables
import torch
from defaults import TEST_SIZE, measure
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, CLIPVisionModel

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import EasyVQA, OpenMojiNames, OpenMojiScenes
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import CHECKPOINT_ON_CLIP, TOWER, load_checkpoint
from adem_vl_hf.training import fastest_setting

UNSEEN = "noto"  # no tower of this package was trained on this style
NAMES, SCENES = 300, 240  # test samples in each style; half or a third of them of one kind
PROBED, DRAWINGS = 200, 4  # things, and drawings of each in every style that the probe learns from
PARTS = ("names probe", "shapes probe", *STYLES, "forty shapes")
SHAPES = ("circle", "rectangle", "triangle")
SHAPE_IMAGES = 600  # of easy-VQA, to learn from and to test on


def answers(tower: Path, style: str, folder: Path) -> dict[str, Any]:
    """Let the adapter that ships on the small CLIP answer about one style.

    Args:
        tower (Path): the vision tower.
        style (str): one of ``STYLES``.
        folder (Path): where the predictions are written.

    Returns:
        The shares of right answers by what is asked, and the numbers of samples.
    """
    another = {} if tower == TOWER else {"vision_model_name_or_path": str(tower)}
    model, processor = load_checkpoint(str(CHECKPOINT_ON_CLIP), **another, **fastest_setting())
    data = {
        "openmoji-names": OpenMojiNames("test", size=NAMES, styles=[style]),
        "openmoji-scenes": OpenMojiScenes("test", size=SCENES, kinds=("caption", "presence", "choice"), styles=[style]),
    }
    found: dict[str, Any] = {}
    for task, samples in data.items():
        rows = predict(model, processor, samples, output=folder / f"{style}-{task}.jsonl", batch_size=20)
        result = score(task, rows)
        name = task.removeprefix("openmoji-")
        found[f"{name} caption"] = share(result["caption"]["exact_match"], result["caption"]["n"])
        for kind, values in result["questions"].items():
            found[f"{name} {kind}"] = share(values["accuracy"], values["n"])
    return found


def share(value: float, number: int) -> dict[str, Any]:
    """A share of right answers with the number of samples."""
    return {"share": round(value, 4), "n": number}


class Features:
    """Gives the class token and the mean patch of the last block, through the last norm.

    Args:
        tower (Path): the vision tower.
    """

    def __init__(self, tower: Path) -> None:
        self.tower, self.processor = CLIPVisionModel.from_pretrained(tower), AutoImageProcessor.from_pretrained(tower)
        self.norm = getattr(self.tower, "vision_model", self.tower).post_layernorm

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> torch.Tensor:
        parts = []
        for start in range(0, len(images), 50):
            pixels = self.processor(images[start : start + 50], return_tensors="pt")["pixel_values"]
            states = self.norm(self.tower(pixels).last_hidden_state)  # [I, 1+N, C]
            parts.append(torch.cat([states[:, 0], states[:, 1:].mean(1)], dim=1))
        return torch.cat(parts)


def probe(x: torch.Tensor, y: torch.Tensor, x_test: torch.Tensor, y_test: torch.Tensor) -> dict[str, Any]:
    """Train a linear classifier and test it.

    Args:
        x (torch.Tensor): [I, D], the features of the training images.
        y (torch.Tensor): [I], their classes.
        x_test (torch.Tensor): [J, D], those of the test images.
        y_test (torch.Tensor): [J], their classes.

    Returns:
        The share of test images that it classifies rightly.
    """
    mean, deviation = x.mean(0), x.std(0)
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    torch.manual_seed(0)
    linear = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(x), y).backward()
        optimizer.step()
    return share((linear(x_test).argmax(1) == y_test).float().mean().item(), len(y_test))


def probe_of_names(tower: Path) -> dict[str, Any]:
    """Probe the names of things in the unseen style, learned from all other styles.

    Args:
        tower (Path): the vision tower.

    Returns:
        The share of test images that the probe names.
    """
    features, x, y = Features(tower), [], []
    for style in STYLES:
        split, times = ("test", 1) if style == UNSEEN else ("train", DRAWINGS)
        data = OpenMojiNames(split, size=10**5, seed=5, kinds=("caption",), styles=[style])
        chosen = [i for i in range(times * len(data.things)) if data.thing_index(i) < PROBED]
        if style == UNSEEN:
            x_test, y_test = features([data[i]["image"] for i in chosen]), [data.thing_index(i) for i in chosen]
        else:
            x.append(features([data[i]["image"] for i in chosen]))
            y += [data.thing_index(i) for i in chosen]
    return probe(torch.cat(x), torch.tensor(y), x_test, torch.tensor(y_test))


def probe_of_shapes(tower: Path) -> dict[str, Any]:
    """Probe the shape in the images of easy-VQA: circle, rectangle or triangle.

    Args:
        tower (Path): the vision tower.

    Returns:
        The share of test images whose shape the probe tells.
    """
    features, parts = Features(tower), []
    for split in ("train", "test"):
        data = EasyVQA(split, SHAPE_IMAGES)
        # no question about some images has the shape as its answer
        found = [{answer for _, answer in questions} & set(SHAPES) for questions in data.questions]
        parts.append(features([data[i]["image"] for i, shape in enumerate(found) if shape]))
        parts.append(torch.tensor([SHAPES.index(*shape) for shape in found if shape]))
    return probe(*parts)


def forty_shapes(tower: Path, folder: Path) -> dict[str, Any]:
    """Train on 40 images of coloured shapes with the defaults, and caption 60 others.

    Args:
        tower (Path): the vision tower.
        folder (Path): where the checkpoint and the predictions are written.

    Returns:
        What ``measure`` returns.
    """
    return measure("defaults", "40 shapes", 4, folder, "embedded" if tower == TOWER else str(tower))


def parts_of(tower: Path, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """All that is measured of one tower.

    Args:
        tower (Path): the vision tower.
        folder (Path): where predictions are written.

    Returns:
        What measures each part, by the name of the part in the result file.
    """
    return {
        "names probe": partial(probe_of_names, tower),
        "shapes probe": partial(probe_of_shapes, tower),
        **{style: partial(answers, tower, style, folder) for style in STYLES},
        "forty shapes": partial(forty_shapes, tower, folder / "forty"),
    }


def styles_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each tower and style, and a column for each kind of question.

    Args:
        results (dict[str, dict[str, Any]]): the content of the result files by the name of the tower.

    Returns:
        The table. Cells are shares of right answers in per cent. The headings have the numbers of samples.
    """
    asked = {kind: value["n"] for one in results.values() for style in STYLES for kind, value in one[style].items()}
    rows = [
        [name, style, *(f"{100 * one[style][kind]['share']:.1f}" for kind in asked)]
        for name, one in results.items()
        for style in STYLES
    ]
    return tables.markdown(["tower", "style", *(f"{kind} ({number})" for kind, number in asked.items())], rows)


def probes_table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each tower with what it gives without the shipped adapter.

    Args:
        results (dict[str, dict[str, Any]]): the content of the result files by the name of the tower.

    Returns:
        The table. Cells are shares of test images in per cent, with their number, and captions.
    """
    head = [f"probe: {PROBED} names in {UNSEEN}", "probe: three shapes", "trained on 40 shapes, exact captions"]
    rows = []
    for name, one in results.items():
        probes = [f"{100 * one[part]['share']:.1f} ({one[part]['n']})" for part in ("names probe", "shapes probe")]
        rows.append([name, *probes, f"{round(TEST_SIZE * one['forty shapes']['exact_match'])} of {TEST_SIZE}"])
    return tables.markdown(["tower", *head], rows)


def sections() -> dict[str, str]:
    """The tables of docs/towers.md, with the towers of which everything has been measured.

    Returns:
        The text by the name of the section.
    """
    names = sorted(path.stem for path in (tables.RESULTS / "styles").glob("*.json"))
    found = tables.load_arms("styles", names)
    whole = {name.replace("_", " "): one for name, one in found.items() if all(part in one for part in PARTS)}
    made = {"styles table": styles_table, "styles probes": probes_table}
    return {section: make(whole) if whole else tables.NOT_MEASURED for section, make in made.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision-tower", type=Path, default=TOWER, metavar="FOLDER", help="of a CLIP tower like it")
    parser.add_argument("--name", default="shipped", help="the name of the tower in the table")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/styles"), help="checkpoints and predictions")
    args = parser.parse_args()
    keep_freed_memory()
    file = f"styles/{tables.file_name(args.name)}"
    parts = parts_of(args.vision_tower, args.output_dir / tables.file_name(args.name))
    for part in args.parts:
        done = tables.load(file) or {}
        if part not in done:
            print(f"=== {args.name}, {part}", flush=True)
            tables.save(file, done | {part: parts[part]()})
    print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
