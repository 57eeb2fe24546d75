"""Do the maps of `adem-vl look` lie on the things that words name? Measured on scenes whose things have known boxes.

python benchmarks/localisation.py       # measure (resumable), write benchmarks/results/localisation.json
python benchmarks/write_tables.py       # puts the result into docs/results.md

For a word that names one of two things, the mass of a map is the sum of its values above 0. A map localises if more of
this mass is inside the box of the thing that is named than inside the box of the other thing, and more than the share
of the image that the box covers, which is what a map without any places would have inside (chance).
"""

import argparse
import itertools
import statistics
from typing import Any

import numpy as np
import tables
import torch
from tqdm import tqdm
from where_it_looks import draw_without, of_two_kinds

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import captions, plural
from adem_vl_hf.data.sample import CAPTION_PROMPT
from adem_vl_hf.inspection.answer_pass import pass_over_answer, words_of
from adem_vl_hf.inspection.contributions import by_place, contributions_in_pass
from adem_vl_hf.inspection.kept_tokens import kept_in_pass, split_scales
from adem_vl_hf.loading import load_checkpoint

SCENES = 200
SAVE_EVERY = 10  # scenes
MAPS = {
    "contribution": "contribution, all scales together",
    "contribution 8": "contribution, scale of 8 × 8",
    "contribution 4": "contribution, scale of 4 × 4",
    "score": "score of the fused term",
    "kept": "share of layers that kept the slot",
}


def box_of(data: OpenMojiScenes, index: int, name: str) -> np.ndarray:
    """Find the box around all copies of a thing in the image of a scene.

    Args:
        data (OpenMojiScenes): the data set.
        index (int): the sample.
        name (str): the thing.

    Returns:
        [H, W] of float, 1 inside the box.
    """
    changed = draw_without(data, index, name)  # [H, W]
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    box = np.zeros(changed.shape)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    return box


def mass_inside(grid: torch.Tensor, box: np.ndarray) -> float:
    """Measure how much of a map is inside a box.

    Args:
        grid (torch.Tensor): [side, side], of which values below 0 count as 0.
        box (np.ndarray): [H, W], 1 inside. A place that is partly inside counts in part.

    Returns:
        The share of the mass, 0 ... 1. A map without mass has what a constant one has: the share of the box.
    """
    side = grid.shape[-1]
    height, width = box.shape
    inside = torch.from_numpy(box.reshape(side, height // side, side, width // side).mean((1, 3)))
    mass = grid.double().clamp(min=0)
    return float((mass * inside).sum() / mass.sum()) if mass.sum() > 0 else float(box.mean())


def maps_of(model: Any, processor: Any, image: Any, answer: str, names: list[str]) -> dict[str, torch.Tensor]:
    """Measure the maps of words of an answer.

    Args:
        model (Any): an ``AdemVLForConditionalGeneration`` with scales of 8 x 8 and 4 x 4.
        processor (Any): its processor.
        image (Any): the image.
        answer (str): the answer, which begins with a space.
        names (list[str]): W words, each of which is in the answer once.

    Returns:
        The maps by the keys of ``MAPS``, [W, side, side].
    """
    counts = model.config.visual_token_counts
    batch, positions, tokens = pass_over_answer(model, processor, image, CAPTION_PROMPT, answer)
    of_word = dict(words_of(tokens))
    groups = [of_word[name] for name in names]
    by_scale = split_scales(contributions_in_pass(model, batch, positions, groups)[0], counts)
    kept, scores = (
        by_place(split_scales(torch.stack([by_token[group].mean(0) for group in groups]), counts))
        for by_token in kept_in_pass(model, batch, positions)
    )
    scales = {f"contribution {grid.shape[-1]}": grid for grid in by_scale}
    return {"contribution": by_place(by_scale), **scales, "score": scores, "kept": kept}


def measure(number: int) -> None:
    """Measure scenes that are not in the result file yet, and save them there.

    Args:
        number (int): how many scenes.
    """
    done = tables.load("localisation") or {"scenes": {}}
    data = OpenMojiScenes("test", kinds=("caption",))
    wanted = list(itertools.islice(of_two_kinds(data), number))
    missing = [index for index in wanted if str(index) not in done["scenes"]]
    if not missing:
        return
    model, processor = load_checkpoint(dtype="float32", attn_implementation="eager")
    for place, index in enumerate(tqdm(missing, desc="scenes"), start=1):
        scene, *_ = data.scene(index)
        words = [group.name if group.number == 1 else plural(group.name) for group in scene.groups]
        boxes = [box_of(data, index, group.name) for group in scene.groups]
        maps = maps_of(model, processor, data[index]["image"], f" {captions(scene)[0]}", words)
        done["scenes"][str(index)] = [
            {
                "word": word,
                "areas": [round(float(box.mean()), 4) for box in (own, other)],
                **{name: [round(mass_inside(grids[row], box), 4) for box in (own, other)]
                   for name, grids in maps.items()},
            }
            for row, (word, own, other) in enumerate(zip(words, boxes, reversed(boxes), strict=True))
        ]  # fmt: skip
        if place % SAVE_EVERY == 0 or index == missing[-1]:
            tables.save("localisation", done)


def summary(words: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Summarise one kind of map.

    Args:
        words (list[dict[str, Any]]): what was measured of each word.
        name (str): the map, a key of ``MAPS``.

    Returns:
        The mean mass inside the own box and inside the other box, the share of words with a higher density of mass in
        their own box than in the other, and the share with more mass in their own box than chance.
    """
    denser = [of[name][0] / of["areas"][0] > of[name][1] / of["areas"][1] for of in words]
    return {
        "own": statistics.mean(of[name][0] for of in words),
        "other": statistics.mean(of[name][1] for of in words),
        "denser": statistics.mean(denser),
        "above_chance": statistics.mean(of[name][0] > of["areas"][0] for of in words),
    }


def sections() -> dict[str, str]:
    """The section of docs/results.md about the mass of the maps.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("localisation")
    if saved is None:
        return {"localisation": tables.NOT_MEASURED}
    words = [word for scene in saved["scenes"].values() for word in scene]
    rows = []
    for name, label in MAPS.items():
        found = summary(words, name)
        rows.append([label, *(f"{100 * found[key]:.1f}" for key in ("own", "other", "denser", "above_chance"))])
    area = 100 * statistics.mean(of["areas"][0] for of in words)
    rows.append(["chance: the area of the box", f"{area:.1f}", f"{area:.1f}", "50.0", ""])
    head = ["map of a word", "mass in the box of its thing, %", "in the box of the other thing, %",
            "denser in its own box, % of words", "more in its own box than chance, % of words"]  # fmt: skip
    return {
        "localisation": f"{tables.markdown(head, rows)}\n\n{len(words)} words of {len(saved['scenes'])} scenes. "
        "The density is the mass in a box divided by the area of the box."
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=SCENES, help="held-out scenes of two kinds of things")
    measure(parser.parse_args().scenes)
    print(sections()["localisation"])


if __name__ == "__main__":
    main()
