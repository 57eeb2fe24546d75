"""Do the maps of `adem-vl look` lie on the things that words name? Measured on scenes whose things have known boxes.

python benchmarks/localisation.py                  # measure (resumable), write benchmarks/results/localisation.json
python benchmarks/localisation.py --model evlm     # train an EVLM first (resumable), write localisation_evlm.json
python benchmarks/write_tables.py                  # puts the results into docs/results.md

No trained EVLM ships, so one is trained on captions of scenes for some minutes: it names things, but not all of them.

For a word that names one of two things, the mass of a map is the sum of its values above 0. A map localises if more of
this mass is inside the box of the thing that is named than inside the box of the other thing, and more than the share
of the image that the box covers, which is what a map without any places would have inside (chance).
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
from tqdm import tqdm
from where_it_looks import draw_without, of_two_kinds

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import captions
from adem_vl_hf.data.openmoji.things import plural
from adem_vl_hf.data.sample import CAPTION_PROMPT
from adem_vl_hf.inspection.answer_pass import pass_over_answer, words_of
from adem_vl_hf.inspection.contributions import by_place, contributions_in_pass
from adem_vl_hf.inspection.kept_tokens import kept_in_pass, split_scales
from adem_vl_hf.inspection.look import look
from adem_vl_hf.loading import CHECKPOINT_ON_CLIP, load_checkpoint
from adem_vl_hf.openmoji_training import fine_tune

SCENES = 200
SAVE_EVERY = 10  # scenes
STEPS = 100  # of the training of an EVLM, 32 captions each
# by the name of the model: its result file, its section of the page, and its maps; those of EVLM's levels follow
FILES = {"adem_vl": "localisation", "evlm": "localisation_evlm"}
SECTIONS = {"adem_vl": "localisation", "evlm": "localisation of evlm"}
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


def maps_of_evlm(model: Any, processor: Any, image: Any, answer: str, names: list[str]) -> dict[str, torch.Tensor]:
    """Measure the maps of words of an answer of an EVLM, as ``adem-vl look`` draws them.

    Args:
        model (Any): an ``EvlmForConditionalGeneration``.
        processor (Any): its processor.
        image (Any): the image.
        answer (str): the answer.
        names (list[str]): W words, each of which is in the answer once.

    Returns:
        The maps by what the table calls them, [W, side, side].
    """
    found = look(model, processor, image, CAPTION_PROMPT, answer)
    rows = [found.words.index(name) for name in names]
    maps = {"contribution, all levels together": found.contribution}
    maps |= {f"contribution, {part.name}": part.contribution for part in found.parts}
    maps |= {f"attention, {part.name}": part.used for part in found.parts}
    return {label: torch.from_numpy(grids[rows, 0]) for label, grids in maps.items()}


def trained_evlm(folder: Path, steps: int) -> tuple[Any, Any]:
    """Train an EVLM on captions of scenes. An interrupted training goes on from its last checkpoint.

    Args:
        folder (Path): where its checkpoints are.
        steps (int): the number of training steps.

    Returns:
        The model and its processor.
    """
    fine_tune(
        folder, steps, resume=True, shares={("scenes", "caption"): 1}, recipe="evlm", settings={"media_tokens": 4},
        save_steps=20,
    )  # fmt: skip
    return load_checkpoint(str(folder), dtype="float32", attn_implementation="eager")


def measure(number: int, name: str = "adem_vl", folder: Path = Path("runs/localisation"), steps: int = STEPS) -> None:
    """Measure scenes that are not in the result file yet, and save them there.

    Args:
        number (int): how many scenes.
        name (str): the model, a key of ``FILES``.
        folder (Path): where an EVLM is trained.
        steps (int): the number of its training steps.
    """
    done = tables.load(FILES[name]) or {"scenes": {}, **({"steps": steps} if name == "evlm" else {})}
    data = OpenMojiScenes("test", kinds=("caption",))
    wanted = list(itertools.islice(of_two_kinds(data), number))
    missing = [index for index in wanted if str(index) not in done["scenes"]]
    if not missing:
        return
    if name == "evlm":
        (model, processor), measured = trained_evlm(folder, steps), maps_of_evlm
    else:
        model, processor = load_checkpoint(str(CHECKPOINT_ON_CLIP), dtype="float32", attn_implementation="eager")
        measured = maps_of
    for place, index in enumerate(tqdm(missing, desc="scenes"), start=1):
        scene, *_ = data.scene(index)
        words = [group.name if group.number == 1 else plural(group.name) for group in scene.groups]
        boxes = [box_of(data, index, group.name) for group in scene.groups]
        maps = measured(model, processor, data[index]["image"], f" {captions(scene)[0]}", words)
        done["scenes"][str(index)] = [
            {
                "word": word,
                "areas": [round(float(box.mean()), 4) for box in (own, other)],
                **{label: [round(mass_inside(grids[row], box), 4) for box in (own, other)]
                   for label, grids in maps.items()},
            }
            for row, (word, own, other) in enumerate(zip(words, boxes, reversed(boxes), strict=True))
        ]  # fmt: skip
        if place % SAVE_EVERY == 0 or index == missing[-1]:
            tables.save(FILES[name], done)


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
    """The sections of docs/results.md about the mass of the maps.

    Returns:
        The text by the name of the section. There is one of an EVLM only if one was measured.
    """
    shipped, evlm = (tables.load(file) for file in FILES.values())
    found = {SECTIONS["adem_vl"]: tables.NOT_MEASURED if shipped is None else _section(shipped)}
    return found if evlm is None else {**found, SECTIONS["evlm"]: _section(evlm)}


def _section(saved: dict[str, Any]) -> str:
    """The table of one result file."""
    words = [word for scene in saved["scenes"].values() for word in scene]
    rows = []
    for name in list(words[0])[2:]:  # behind the word and the areas
        label = MAPS.get(name, name)
        found = summary(words, name)
        rows.append([label, *(f"{100 * found[key]:.1f}" for key in ("own", "other", "denser", "above_chance"))])
    area = 100 * statistics.mean(of["areas"][0] for of in words)
    rows.append(["chance: the area of the box", f"{area:.1f}", f"{area:.1f}", "50.0", ""])
    head = ["map of a word", "mass in the box of its thing, %", "in the box of the other thing, %",
            "denser in its own box, % of words", "more in its own box than chance, % of words"]  # fmt: skip
    after = f", after {saved['steps']} training steps" if "steps" in saved else ""
    return (
        f"{tables.markdown(head, rows)}\n\n{len(words)} words of {len(saved['scenes'])} scenes{after}. "
        "The density is the mass in a box divided by the area of the box."
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=SCENES, help="held-out scenes of two kinds of things")
    parser.add_argument("--model", choices=FILES, default="adem_vl", help="the shipped ADEM-VL, or a trained EVLM")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/localisation"), help="checkpoints of an EVLM")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of an EVLM")
    args = parser.parse_args()
    measure(args.scenes, args.model, args.output_dir, args.steps)
    print(sections()[SECTIONS[args.model]])


if __name__ == "__main__":
    main()
