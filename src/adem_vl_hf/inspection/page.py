"""Writes one HTML file about a trained model: what was trained, how well it answers, and where it looks in images.

The file is self-contained: its images are inlined and it fetches nothing. The same input gives the same file. Layout,
styles and the few lines of script are in ``page_template.html``. A map is a tiny image with one pixel per memory slot
(or patch), which is laid over the image as darkness. Bright squares are those that were kept, or that a word used most.

In reading order: the page, its table of metrics, and its gallery.
"""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..evaluation.image_conditions import CONDITION_LABELS, ORDER_CONDITIONS
from ..evaluation.score import PER_HUNDRED
from ..files import write_text
from ..modeling.images import open_image
from ..papers import PAPERS
from .answer_pass import words_of
from .attended_patches import AttendedPatches
from .kept_tokens import KeptTokens

TEMPLATE = Path(__file__).with_name("page_template.html")
IMAGE_SIDE = 384  # pixels; larger images are scaled down, because a page of photos would take a hundred megabytes
SHADE = (9, 12, 24)  # the colour of the darkness over an image
DARKEST = 0.88  # its opacity where it is darkest, so that a trace of the image stays visible
MEASURES = {"exact_match": "exact match", "bleu4": "BLEU-4", "cider": "CIDEr", "accuracy_plus": "accuracy+"}
SHARES = PER_HUNDRED - {"bleu4", "cider"}  # shown in per cent, while BLEU-4 and CIDEr have no unit


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """Holds one example of the gallery.

    Args:
        image (Image.Image): The image.
        prompt (str): The prompt.
        prediction (str): The answer of the model.
        references (Sequence[str]): Every true answer.
        correct (bool | None): Whether the prediction counts as right. None shows no mark.
        looked_at (KeptTokens | AttendedPatches | None): The result of ``kept_visual_tokens`` or ``attended_patches``
            for this image and this prediction. None shows no maps.
    """

    image: Image.Image
    prompt: str
    prediction: str
    references: Sequence[str]
    correct: bool | None
    looked_at: KeptTokens | AttendedPatches | None = None


def write_page(
    path: str | os.PathLike[str],
    title: str,
    *,
    kind: str = "adem_vl",
    trainable_parameters: int,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
    gallery: Sequence[GalleryItem],
    credits: Sequence[str] = (),
    curves: Mapping[str, str] | None = None,
    command: str | None = None,
) -> Path:
    """Write the page. An older one is replaced, and missing folders are made.

    Args:
        path (str | os.PathLike[str]): The HTML file to write.
        title (str): The title of the page.
        kind (str): The kind of model, a key of ``PAPERS``.
        trainable_parameters (int): The number of trainable parameters.
        model (Mapping[str, Any]): The parts of the model by name, shown as a list.
        settings (Mapping[str, Any]): The training settings by name, shown as a list.
        seconds (Mapping[str, float]): The duration of each stage of the run, in seconds.
        metrics (Mapping[str, Mapping[str, Mapping[str, Any]]]): The result of ``score`` by data set and by image
            condition, a key of ``CONDITION_LABELS``.
        gallery (Sequence[GalleryItem]): The examples, in the order shown.
        credits (Sequence[str]): The origins and licences of the images, one line each.
        curves (Mapping[str, str] | None): Plots of what was logged during the training, as ``data:`` URLs by name.
        command (str | None): The command line that trained the model.

    Returns:
        The path of the page.

    Raises:
        ValueError: The kind of model or an image condition is unknown.
    """
    path = Path(path)
    if kind not in PAPERS:
        raise ValueError(f"kind {kind!r}: the page knows {' and '.join(PAPERS)}")
    paper = PAPERS[kind]
    all_kept = [item.looked_at.kept for item in gallery if isinstance(item.looked_at, KeptTokens)]
    # There is one scale of darkness for the whole page, so that maps can be compared.
    lowest_kept = min((float(grid.min()) for kept in all_kept for grid in kept), default=1.0)
    html = environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        kind=kind,
        method=f"{paper.name}, {paper.subject} (arXiv {paper.number})",
        trainable_parameters=trainable_parameters,
        model=model,
        settings=settings,
        seconds=seconds,
        total_seconds=sum(seconds.values()),
        conditions=CONDITION_LABELS,
        tables={name: metric_rows(name, scores) for name, scores in metrics.items()},
        gallery=[_shown_item(number, item, lowest_kept) for number, item in enumerate(gallery, start=1)],
        marked={mark: sum(item.correct is mark for item in gallery) for mark in (True, False)},
        lowest_kept=lowest_kept,
        credits=credits,
        curves=curves,
        command=command,
    )  # fmt: skip
    write_text(path, html)
    return path


@dataclass
class Row:
    """Holds one line of the table of metrics. Numbers that papers print times 100 are times 100.

    Args:
        group (str): The kind of question or the sub-task. Empty for a number of the whole data set.
        measure (str): The name of the metric.
        n (int | None): The number of samples, if it is known.
        is_share (bool): Whether the numbers are shown in per cent.
        values (dict[str, float | None]): The number by image condition, or None if there is none.
        chance (float | None): The accuracy that is possible without the images, if the metric is an accuracy.
    """

    group: str
    measure: str
    n: int | None
    is_share: bool
    values: dict[str, float | None]
    chance: float | None = None

    def bar(self, value: float) -> float:
        """Compute the length of the bar beside a value.

        Args:
            value (float): The value.

        Returns:
            The length in per cent of the longest bar, which is as long as 100 or the row's largest number, whichever is
            more.
        """
        return max(0.0, 100 * value / max(100.0, *(other or 0.0 for other in self.values.values())))


def metric_rows(name: str, scores: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Make the table of one data set.

    Args:
        name (str): The name of the data set, for error messages.
        scores (Mapping[str, Mapping[str, Any]]): The result of ``score`` by image condition.

    Returns:
        The lines of the table.

    Raises:
        ValueError: A condition is not a key of ``CONDITION_LABELS``.
    """
    if unknown := set(scores) - set(CONDITION_LABELS):
        raise ValueError(
            f"metrics[{name!r}] has {sorted(unknown)}; its keys are image conditions: {list(CONDITION_LABELS)}"
        )
    columns = [name for name in CONDITION_LABELS if name not in ORDER_CONDITIONS.values() or name in scores]
    rows: dict[tuple[str, ...], Row] = {}
    for condition in columns:
        for keys, value, beside in _numbers(scores.get(condition, {}), ()):
            times = 100 if PER_HUNDRED & set(keys) else 1
            if keys not in rows:
                *groups, measure = ("columns", keys[-1], "accuracy") if "columns" in keys else keys
                rows[keys] = Row(
                    group=groups[-1] if groups else "",
                    measure=MEASURES.get(measure, measure.replace("_", " ")),
                    n=None if "columns" in keys else beside.get("n"),
                    is_share=bool(SHARES & set(keys)),
                    values=dict.fromkeys(columns),
                )
            rows[keys].values[condition] = value * times
            if keys[-1] == "accuracy" and "chance" in beside:
                rows[keys].chance = beside["chance"] * times
    return list(rows.values())


def _numbers(
    scores: Mapping[str, Any], keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], float, Mapping[str, Any]]]:
    """Yield every measured number with the keys that lead to it and the mapping that it is in."""
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*keys, key))
        elif isinstance(value, int | float) and key not in ("n", "chance", "unreadable"):
            yield (*keys, key), float(value), scores


def _shown_item(number: int, item: GalleryItem, lowest_kept: float) -> dict[str, Any]:
    """Make what the template shows of one example: the image, its maps, and texts for readers who do not see them."""
    asked = f"Picture {number}, asked “{item.prompt}”, answered “{item.prediction}”"
    image = png(open_image(item.image))
    shown: dict[str, Any] = {"item": item, "image": image, "alt": asked, "maps": [], "scales": []}
    looked_at = item.looked_at
    if looked_at is None:
        return shown
    shown["seen"] = png(looked_at.image)
    words = words_of(looked_at.tokens)
    by_token = looked_at.scores_by_token if isinstance(looked_at, KeptTokens) else looked_at.patches_by_token
    by_word = looked_at.grids(torch.stack([by_token[tokens].mean(0) for _, tokens in words]))  # [words, side, side]
    shown["maps"] = _kept(looked_at, lowest_kept) if isinstance(looked_at, KeptTokens) else _attended(looked_at)
    for grids in by_word:
        maps = [_word_map(word, grid, kept=isinstance(looked_at, KeptTokens))
                for (word, _), grid in zip(words, grids, strict=True)]  # fmt: skip
        shown["scales"].append({"side": grids.shape[-1], "words": maps})
    return shown


def _kept(kept: KeptTokens, lowest_kept: float) -> list[dict[str, Any]]:
    """Make the maps of all words together, one for each scale."""
    maps = []
    for grid in kept.kept:
        side, low, high = grid.shape[-1], float(grid.min()), float(grid.max())
        row, column = divmod(int(grid.argmin()), side)
        maps.append({
            "side": side, "range": f"{low:.0%} – {high:.0%}", "map": _shade(grid, lowest_kept, 1.0),
            "alt": f"{side} by {side} squares over the picture, kept in {low:.0%} to {high:.0%} of layers and words, "
            f"least in row {row + 1}, column {column + 1}",
        })  # fmt: skip
    return maps


def _attended(attended: AttendedPatches) -> list[dict[str, Any]]:
    """Make the map of all words together, with the attention to the zero vector and to the class token."""
    (grid,) = attended.grids(attended.patches_by_token.mean(0))
    side, low, high = grid.shape[-1], float(grid.min()), float(grid.max())
    row, column = divmod(int(grid.argmax()), side)
    zero, of_class = (float(share.mean()) for share in (attended.zero_by_token, attended.class_by_token))
    return [{
        "side": side, "range": f"{low:.1%} – {high:.1%}", "map": _shade(grid, low, high),
        "alt": f"{side} by {side} squares over the picture, with {low:.1%} to {high:.1%} of the attention each, "
        f"most in row {row + 1}, column {column + 1}",
        "apart": [f"{zero:.0%} on nothing", f"{of_class:.0%} class token"],
    }]  # fmt: skip


def _word_map(word: str, grid: torch.Tensor, kept: bool) -> dict[str, Any]:
    """Make the map of one word on one scale, [side, side], from its lowest score (darkest) to its highest."""
    side, low, high = grid.shape[-1], float(grid.min()), float(grid.max())
    row, column = divmod(int(grid.argmax()), side)
    what = "score" if kept else "attention"
    alt = f"{word}: {what} of {side} by {side} squares, highest in row {row + 1}, column {column + 1}"
    if kept:
        span = " – ".join(f"{round(end, 2) + 0.0:.2f}".replace("-", "−") for end in (low, high))  # no minus zero
    else:
        span = f"{low:.1%} – {high:.1%}"
    return {"word": word, "range": span, "alt": alt, "map": _shade(grid, low, high)}


def _shade(grid: torch.Tensor, low: float, high: float) -> str:
    """Draw a grid [side, side] as darkness with one pixel per slot: full at ``low``, and none at ``high``."""
    darkness = ((high - grid) / max(high - low, 1e-9)).clamp(0, 1)  # no darkness if all values are equal
    opacity = (darkness * DARKEST * 255).round().to(torch.uint8)
    image = Image.new("RGBA", (grid.shape[1], grid.shape[0]), (*SHADE, 0))
    image.putalpha(Image.fromarray(opacity.contiguous().numpy()))
    return png(image)


def png(image: Image.Image) -> str:
    """Encode an image as a ``data:`` URL.

    Args:
        image (Image.Image): The image. A large one is scaled down.

    Returns:
        The URL.
    """
    if max(image.size) > IMAGE_SIDE:
        image = image.copy()
        image.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def environment() -> Environment:
    """Make the Jinja environment with the filters of the template.

    Returns:
        The environment. It escapes every value.
    """
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"duration": _duration, "shown": _shown}
    return made


def _duration(seconds: float) -> str:
    """Format a duration: "41 s", "12 min 05 s" or "1 h 03 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shown(value: Any) -> str:
    """Format a value of the two lists."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
