"""What the features of the two embedded towers say about each group of things in a scene. A minute.

python benchmarks/scene_probe.py
python benchmarks/write_tables.py          # puts the table into docs/results.md

In a scene with two groups, each has a half of the image. A linear probe reads the thing and its number from the mean
and the maximum of the patches of that half. It learns from training scenes; test scenes have other pairs of things.
"""

import argparse
from typing import Any

import tables
import torch
from tower_styles import probe
from transformers import AutoImageProcessor, AutoModel

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import Scene
from adem_vl_hf.loading import resolve_vision_tower

TOWERS = {"embedded": "small CLIP", "embedded-dinov2": "DINOv2-small"}
LEARNED, TESTED, BATCH = 1600, 400, 50  # scenes with two groups


def scenes_of_two(split: str, number: int) -> tuple[list[Any], list[Scene]]:
    """Draw scenes with two groups.

    Args:
        split (str): "train" or "test".
        number (int): how many scenes.

    Returns:
        The images and the truth about them.
    """
    data, images, truths, index = OpenMojiScenes(split, size=10 * number, kinds=("caption",)), [], [], 0
    while len(images) < number:
        scene, _, _ = data.scene(index)
        if scene.relation is not None:
            images.append(data[index]["image"])
            truths.append(scene)
        index += 1
    return images, truths


class Halves:
    """Gives the features of both halves of each image.

    Args:
        tower (str): a key of ``TOWERS``.
    """

    def __init__(self, tower: str) -> None:
        folder = resolve_vision_tower(tower)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        whole = AutoModel.from_pretrained(folder)
        self.tower = getattr(whole, "vision_model", whole)
        self.norm = getattr(self.tower, "post_layernorm", torch.nn.Identity())  # DINOv2's last norm is in its output

    @torch.inference_mode()
    def __call__(self, images: list[Any], scenes: list[Scene]) -> torch.Tensor:
        """Return [2 I, 2 C]: the first group's half and the second's, of each image in turn."""
        rows = []
        for start in range(0, len(images), BATCH):
            pixels = self.processor(images[start : start + BATCH], return_tensors="pt")["pixel_values"]
            patches = self.norm(self.tower(pixels).last_hidden_state)[:, 1:]  # [I, N, C]
            side = int(patches.shape[1] ** 0.5)
            for grid, scene in zip(patches.unflatten(1, (side, side)), scenes[start : start + BATCH], strict=True):
                halves = grid.chunk(2, dim=1 if scene.relation in ("left of", "right of") else 0)
                for half in halves if scene.relation in ("left of", "above") else halves[::-1]:
                    cells = half.flatten(0, 1)  # [N / 2, C]
                    rows.append(torch.cat([cells.mean(0), cells.amax(0)]))
        return torch.stack(rows)


def measure(tower: str, learned: int, tested: int) -> dict[str, Any]:
    """Probe the things and the numbers.

    Args:
        tower (str): a key of ``TOWERS``.
        learned (int): how many training scenes.
        tested (int): how many test scenes.

    Returns:
        The shares of groups whose thing, and whose number, the probe tells.
    """
    halves, found = Halves(tower), {}
    sets = [scenes_of_two(split, number) for split, number in (("train", learned), ("test", tested))]
    x, x_test = (halves(*one) for one in sets)
    for name in ("thing", "number"):
        y, y_test = (torch.tensor([getattr(group, name) for s in one for group in s.groups]) for _, one in sets)
        found[name] = probe(x, y, x_test, y_test)
    return found


def sections() -> dict[str, str]:
    """The table of docs/results.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("scene_probe")
    if saved is None:
        return {"scene probe": tables.NOT_MEASURED}
    rows = [
        [TOWERS[tower], *(f"{100 * one[name]['share']:.1f}" for name in ("thing", "number"))]
        for tower, one in saved["towers"].items()
    ]
    number = next(iter(saved["towers"].values()))["thing"]["n"]
    table = tables.markdown(["vision tower", "which of 100 things, %", "how many, %"], rows)
    return {"scene probe": f"{table}\n\n{number} groups of {number // 2} test scenes."}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--learned", type=int, default=LEARNED, help="training scenes")
    parser.add_argument("--tested", type=int, default=TESTED, help="test scenes")
    args = parser.parse_args()
    found = {tower: measure(tower, args.learned, args.tested) for tower in args.towers}
    tables.save("scene_probe", {"towers": found})
    print(sections()["scene probe"])


if __name__ == "__main__":
    main()
