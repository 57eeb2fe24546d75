"""Where in an image a word comes from: measured on held-out scenes, and drawn for README.md.

python benchmarks/where_it_looks.py           # measure, write benchmarks/results/where_it_looks.json and the figure
python benchmarks/where_it_looks.py --plot    # only draw the figure
python benchmarks/write_tables.py             # puts the result into docs/results.md

The effect of a slot of the visual memory on a word is its contribution, see ``adem_vl_hf.inspection.contributions``.
Slots of a coarse scale are shared out among the places that they cover, so that each place of the image has one number.
"""

import argparse
import itertools
import statistics
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import tables
import torch
from caption_parts import PARTS, right_parts
from PIL import Image
from tqdm import tqdm

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import captions, draw_scene
from adem_vl_hf.data.openmoji.things import THINGS, plural
from adem_vl_hf.data.sample import CAPTION_PROMPT
from adem_vl_hf.inspection import kept_visual_tokens
from adem_vl_hf.inspection.answer_pass import pass_over_answer, words_of
from adem_vl_hf.inspection.contributions import by_place, contributions_in_pass
from adem_vl_hf.inspection.kept_tokens import split_scales
from adem_vl_hf.inspection.look import BLUE, RED, overlay
from adem_vl_hf.loading import load_checkpoint

SCENES = 100
FIGURE = tables.ROOT / "docs" / "figures" / "where_it_looks.png"
PLACES = ("own", "other", "neither")  # where the highest place of a map may be
COVERED = 0.3  # the share of a place's pixels from which on it belongs to a thing


def effects_on_words(
    model: Any, processor: Any, image: Image.Image, answer: str, names: Container[str]
) -> dict[str, torch.Tensor]:
    """Measure the effect of each place of an image on words of an answer.

    Args:
        model (Any): an ``AdemVLForConditionalGeneration`` in evaluation mode.
        processor (Any): its processor.
        image (Image.Image): the image.
        answer (str): the answer, which begins with a space.
        names (Container[str]): the words to measure, those of them that are in the answer.

    Returns:
        For each word its map [side, side], in nats: above 0 where a place makes the word more likely.
    """
    batch, positions, tokens = pass_over_answer(model, processor, image, CAPTION_PROMPT, answer)
    words = [(word, group) for word, group in words_of(tokens) if word in names]
    if not words:
        return {}
    slots, _ = contributions_in_pass(model, batch, positions, [group for _, group in words])
    grids = by_place(split_scales(slots, model.config.visual_token_counts))
    return {word: grid for (word, _), grid in zip(words, grids, strict=True)}


def draw_without(data: OpenMojiScenes, index: int, name: str) -> np.ndarray:
    """Find the pixels of a thing in the image of a scene, by drawing the scene without it.

    Args:
        data (OpenMojiScenes): the data set.
        index (int): the sample.
        name (str): the thing.

    Returns:
        [H, W] of bool, the pixels that the thing changes.
    """
    nothing = data.sprites | {name: np.zeros_like(data.sprites[name])}
    with_it, without = (
        np.asarray(draw_scene(scene, sprites, rng), dtype=int)
        for (scene, _, rng), sprites in ((data.scene(index), data.sprites), (data.scene(index), nothing))
    )
    return np.abs(with_it - without).sum(-1) > 0


def places_of(data: OpenMojiScenes, index: int, name: str, side: int) -> torch.Tensor:
    """Where a thing stands in the image of a scene.

    Args:
        data (OpenMojiScenes): the data set.
        index (int): the sample.
        name (str): the thing.
        side (int): places of a row of the map.

    Returns:
        [side, side], whether the thing covers a place.
    """
    changed = draw_without(data, index, name)
    height, width = changed.shape
    share = changed.reshape(side, height // side, side, width // side).mean((1, 3))
    return torch.from_numpy(share > COVERED)


def of_two_kinds(data: OpenMojiScenes) -> Iterator[int]:
    """The scenes that show two kinds of things.

    Args:
        data (OpenMojiScenes): the data set.

    Yields:
        Their indices.
    """
    return (index for index in range(len(data)) if len(data.scene(index)[0].groups) == 2)


def measure(number: int) -> dict[str, Any]:
    """Measure captions of scenes of two kinds of things, and the maps of the things' words in a true caption.

    Args:
        number (int): how many scenes.

    Returns:
        ``captions``: the share of generated captions with each part right. ``effect``, and ``score`` for the bare
        scores of the layers: the share of words whose own thing has the higher mean of the two things, and the shares
        of words whose highest place is on the own thing, on the other one, and on neither.
    """
    model, processor = load_checkpoint(dtype="float32", attn_implementation="eager")
    data = OpenMojiScenes("test", kinds=("caption",))
    two = list(itertools.islice(of_two_kinds(data), number))
    higher: dict[str, list[bool]] = {"effect": [], "score": []}
    peaks: dict[str, list[str]] = {"effect": [], "score": []}
    covered: list[float] = []
    right: Counter[str] = Counter()
    for index in tqdm(two, desc="scenes"):
        scene, *_ = data.scene(index)
        sample = dict(data[index])
        right.update(right_parts(caption(model, processor, sample), sample["references"]))
        answer = f" {captions(scene)[0]}"
        words = [group.name if group.number == 1 else plural(group.name) for group in scene.groups]
        effects = effects_on_words(model, processor, sample["image"], answer, words)
        kept = kept_visual_tokens(model, processor, sample["image"], CAPTION_PROMPT, answer)
        tokens_of = dict(words_of(kept.tokens))
        side = effects[words[0]].shape[-1]
        places = [places_of(data, index, group.name, side) for group in scene.groups]
        for word, own, other in zip(words, places, reversed(places), strict=True):
            score = by_place(kept.grids(kept.scores_by_token[tokens_of[word]].mean(0)))
            covered.append(float(own.float().mean()))
            for name, grid in (("effect", effects[word]), ("score", score)):
                higher[name].append(bool(grid[own].mean() > grid[other].mean()))
                row, column = divmod(int(grid.argmax()), side)
                peaks[name].append("own" if own[row, column] else "other" if other[row, column] else "neither")
    return {
        "scenes": len(two),
        "captions": {part: right[part] / len(two) for part in PARTS},
        "words": len(covered),
        "own_thing_covers": statistics.mean(covered),
        **{
            name: {
                "own_thing_higher": statistics.mean(higher[name]),
                "highest_place": {where: peaks[name].count(where) / len(covered) for where in PLACES},
            }
            for name in higher
        },
    }


def caption(model: Any, processor: Any, sample: dict[str, Any]) -> str:
    """Let the model describe the image of a sample.

    Args:
        model (Any): an ``AdemVLForConditionalGeneration``.
        processor (Any): its processor.
        sample (dict[str, Any]): the sample.

    Returns:
        The generated caption.
    """
    inputs = processor(images=sample["image"], text=CAPTION_PROMPT, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=20, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def examples(model: Any, processor: Any, data: OpenMojiScenes) -> list[tuple[dict[str, Any], str]]:
    """The scenes of the figure: the first two that the model captions exactly, and the first that it does not.

    Args:
        model (Any): the shipped checkpoint.
        processor (Any): its processor.
        data (OpenMojiScenes): the held-out scenes; those of two kinds of things count.

    Returns:
        Each sample with the generated caption.
    """
    found: dict[bool, list[tuple[dict[str, Any], str]]] = {True: [], False: []}
    for index in of_two_kinds(data):
        if len(found[True]) >= 2 and found[False]:
            break
        sample = dict(data[index])
        said = caption(model, processor, sample)
        found[said in sample["references"]].append((sample, said))
    return [*found[True][:2], *found[False][:1]]


def draw() -> None:
    """Draw the figure: for each example the image, and below it the map of each of the two words that name things."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    model, processor = load_checkpoint(dtype="float32", attn_implementation="eager")
    data = OpenMojiScenes("test", kinds=("caption",))
    names = {form for name in THINGS for form in (name, plural(name))}
    shown = examples(model, processor, data)
    whole = {"extent": (0, 1, 0, 1)}
    figure = pyplot.figure(figsize=(8.4, 4.6), layout="constrained")
    for column, (sample, said) in zip(figure.subfigures(1, len(shown)), shown, strict=True):
        axes = column.subplot_mosaic([["image", "image"], ["first", "second"]], height_ratios=(1.3, 1))
        for axis in axes.values():
            axis.set_axis_off()
        right = said in sample["references"]
        below = "exactly right" if right else f"the truth: {sample['references'][0]}"
        axes["image"].imshow(sample["image"], **whole)
        axes["image"].set_title(f"“{said}”\n{below}", fontsize=8)
        maps = effects_on_words(model, processor, sample["image"], f" {said}", names)
        for axis, (word, grid) in zip((axes["first"], axes["second"]), maps.items(), strict=False):
            axis.imshow(Image.blend(sample["image"].convert("L"), Image.new("L", sample["image"].size, 255), 0.55),
                        cmap="gray", vmin=0, vmax=255, **whole)  # fmt: skip
            axis.imshow(overlay(grid.numpy(), float(grid.abs().max())), zorder=2, **whole)
            axis.set_title(f"“{word}”", fontsize=8)
    labels = ((RED, "raises the probability of the word"), (BLUE, "lowers it"))
    legend = [Patch(color=[part / 255 for part in colour], label=label) for colour, label in labels]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    print(FIGURE.relative_to(tables.ROOT))


def sections() -> dict[str, str]:
    """The section of docs/results.md about where the shipped checkpoint looks.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load("where_it_looks")
    if saved is None:
        return {"captions of two kinds": tables.NOT_MEASURED, "where it looks": tables.NOT_MEASURED}
    parts = {"colour": "the colour", "a thing": "at least one of the two things", "all things": "both things",
             "numbers": "the numbers", "everything": "everything (exact match)"}  # fmt: skip
    shares = [[label, f"{100 * saved['captions'][part]:.1f}"] for part, label in parts.items()]
    labels = {"effect": "effect on the word's log-probability (the figure)", "score": "score of the fused term"}
    rows = []
    for name, label in labels.items():
        own = saved[name]
        values = [own["own_thing_higher"], *(own["highest_place"][where] for where in PLACES)]
        rows.append([label, *(f"{100 * share:.1f}" for share in values)])
    head = ["map of a word", "mean higher on its thing than on the other, %", "highest place on its thing, %"]
    return {
        "captions of two kinds": tables.markdown(["what is right in the caption", "% of scenes"], shares),
        "where it looks": f"{tables.markdown([*head, 'on the other, %', 'on neither, %'], rows)}\n\n"
        f"{saved['words']} words of {saved['scenes']} scenes; a thing covers "
        f"{100 * saved['own_thing_covers']:.1f} % of the places on average.",
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=SCENES, help="held-out scenes of two kinds of things")
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw the figure")
    args = parser.parse_args()
    if not args.plot:
        tables.save("where_it_looks", measure(args.scenes))
        print(sections()["where it looks"])
    draw()


if __name__ == "__main__":
    main()
