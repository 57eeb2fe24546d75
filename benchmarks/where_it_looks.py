"""Where in an image a word comes from: measured on held-out scenes, and drawn for README.md.

python benchmarks/where_it_looks.py           # measure, write benchmarks/results/where_it_looks.json and the figure
python benchmarks/where_it_looks.py --plot    # only draw the figure
python benchmarks/write_tables.py             # puts the result into docs/results.md

Every layer of the language model adds a fused term: a sum over the slots of the visual memory, score x value. The
effect of a slot on a word is the gradient of the word's log-probability by the slot's value, times that value: to first
order, what the log-probability would lose if the slot were taken out of the sums of all layers. Slots of a coarse scale
are shared out among the places that they cover, so that each place of the image has one number.
"""

import argparse
import itertools
import statistics
from collections import Counter
from collections.abc import Container, Iterator
from math import isqrt
from typing import Any

import numpy as np
import tables
import torch
from caption_parts import PARTS, right_parts
from PIL import Image
from tqdm import tqdm

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import THINGS, captions, draw_scene, plural
from adem_vl_hf.data.sample import CAPTION_PROMPT
from adem_vl_hf.inspection import kept_visual_tokens
from adem_vl_hf.inspection.kept_tokens import pass_over_answer, split_scales
from adem_vl_hf.loading import load_checkpoint

SCENES = 100
FIGURE = tables.ROOT / "docs" / "figures" / "where_it_looks.png"
RED, BLUE, OPACITY = (0.84, 0.12, 0.08), (0.10, 0.25, 0.85), 0.85
PLACES = ("own", "other", "neither")  # where the highest place of a map may be
COVERED = 0.3  # the share of a place's pixels from which on it belongs to a thing


def words_of(tokens: list[str]) -> list[tuple[str, list[int]]]:
    """Group tokens into words.

    Args:
        tokens (list[str]): the tokens as text; one that begins with a space begins a word.

    Returns:
        Each word with the indices of its tokens.
    """
    starts = [index for index, token in enumerate(tokens) if index == 0 or token.startswith(" ")]
    groups = [list(range(start, end)) for start, end in itertools.pairwise([*starts, len(tokens)])]
    return [("".join(tokens[index] for index in group).strip(), group) for group in groups]


def by_place(slots: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Add up the scales of the visual memory, place by place.

    Args:
        slots (torch.Tensor): [..., sum(counts)], one number for each slot.
        counts (list[int]): slots of each scale, the finest first; all sides divide the finest one.

    Returns:
        [..., side, side] of the finest scale, with the same sum.
    """
    finest = isqrt(counts[0])
    total = torch.zeros(*slots.shape[:-1], finest, finest)
    for grid in split_scales(slots, counts):
        times = finest // grid.shape[-1]
        total += grid.repeat_interleave(times, -1).repeat_interleave(times, -2) / times**2
    return total


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
    targets = batch["input_ids"][0, positions + 1]  # [T], the tokens of the answer
    with torch.no_grad():
        memory = model.get_visual_memory(batch.pop("pixel_values"), batch.pop("image_mask"))
        memory.pop("image_hidden_states")
    value = memory["visual_value"].clone().requires_grad_()  # [1, S, D]
    out = model(**batch, **(memory | {"visual_value": value}), use_cache=False)
    logits = out.logits[0, positions]  # [T, vocabulary]
    chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]  # [T]
    maps = {}
    for word, group in words_of(tokens):
        if word in names:
            (gradient,) = torch.autograd.grad(chosen[group].sum(), value, retain_graph=True)
            maps[word] = by_place((gradient * value).sum(-1)[0].detach(), model.config.visual_token_counts)
    return maps


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
    nothing = data.sprites | {name: np.zeros_like(data.sprites[name])}
    with_it, without = (
        np.asarray(draw_scene(scene, sprites, rng), dtype=int)
        for (scene, _, rng), sprites in ((data.scene(index), data.sprites), (data.scene(index), nothing))
    )
    changed = np.abs(with_it - without).sum(-1) > 0  # [H, W]
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
            score = by_place(kept.scores_by_token[tokens_of[word]].mean(0), model.config.visual_token_counts)
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


def overlay(grid: torch.Tensor) -> np.ndarray:
    """Colours for the map of a word, to be laid over an image.

    Args:
        grid (torch.Tensor): [side, side], the effect of each place.

    Returns:
        [side, side, 4], red where the effect is above 0 and blue where it is below; a weak effect is transparent.
    """
    strength = (grid / grid.abs().max()).numpy()
    colours = np.where(strength[..., None] > 0, np.array(RED), np.array(BLUE))
    return np.concatenate([colours, OPACITY * np.abs(strength)[..., None]], axis=-1)


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
            axis.imshow(overlay(grid), zorder=2, **whole)
            axis.set_title(f"“{word}”", fontsize=8)
    legend = [Patch(color=RED, label="raises the probability of the word"), Patch(color=BLUE, label="lowers it")]
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
