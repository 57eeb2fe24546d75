"""One HTML file that shows a trained model: what was trained, how well it answers, and where it looks on pictures.

The file stands alone (pictures inlined, nothing fetched) and is the same for the same input. Layout, styles and the
few lines of script are in ``page_template.html``. Maps are drawn as tiny images, one pixel per memory slot, laid over
the picture as darkness: bright squares are those that were kept, or that a word drew from most.
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
from .attended_patches import AttendedPatches
from .kept_tokens import KeptTokens

TEMPLATE = Path(__file__).with_name("page_template.html")
PICTURE_SIDE = 384  # pixels: larger pictures are scaled down, or a page of photos would weigh a hundred megabytes
SHADE = (9, 12, 24)  # the darkness laid over a picture
DARKEST = 0.88  # its opacity; a trace of the picture stays visible
MEASURES = {"exact_match": "exact match", "bleu4": "BLEU-4", "cider": "CIDEr", "accuracy_plus": "accuracy+"}
SHARES = PER_HUNDRED - {"bleu4", "cider"}  # printed as per cent; BLEU-4 and CIDEr times 100 without a unit


@dataclass(frozen=True, eq=False)
class Card:
    """One example of the gallery.

    Args:
        image: the picture.
        prompt, prediction: what the model was given and what it said.
        references: every true answer.
        correct: whether the prediction counts as right; None where nothing decides that (no mark is shown).
        kept: of ``kept_visual_tokens`` (or ``attended_patches``) for this picture and this prediction; None = no maps.
    """

    image: Image.Image
    prompt: str
    prediction: str
    references: Sequence[str]
    correct: bool | None
    kept: KeptTokens | AttendedPatches | None = None


def write_page(
    path: str | os.PathLike[str],
    title: str,
    *,
    kind: str = "adem_vl",
    trained_numbers: int,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
    cards: Sequence[Card],
    credits: Sequence[str] = (),
) -> Path:
    """Write the page (an older one is replaced, folders are made) and return its path.

    Args:
        kind: a key of ``PAPERS``. trained_numbers: how many numbers were trained.
        model, settings: name -> value, shown as two lists: the parts of the model, and how it was trained.
        seconds: stage of the run -> how long it took.
        metrics: data set -> a key of ``CONDITION_LABELS`` (the pictures that the model saw) -> what
            ``evaluation.scoring.score`` returned.
        cards: the gallery, in the order shown.
        credits: where pictures come from and their licence, a line each.

    Raises:
        ValueError: a key of ``metrics`` or a ``kind`` that is none of those.
    """
    path = Path(path)
    if kind not in PAPERS:
        raise ValueError(f"kind {kind!r}: the page knows {' and '.join(PAPERS)}")
    paper = PAPERS[kind]
    shares = [float(grid.min()) for card in cards if isinstance(card.kept, KeptTokens) for grid in card.kept.kept]
    lowest_kept = min(shares, default=1.0)  # one scale of darkness for the whole page, so that maps compare
    html = _environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        kind=kind,
        method=f"{paper.name}, {paper.subject} (arXiv {paper.number})",
        trained_numbers=trained_numbers,
        model=model,
        settings=settings,
        seconds=seconds,
        total_seconds=sum(seconds.values()),
        sources=CONDITION_LABELS,
        tables={name: metric_rows(name, scores) for name, scores in metrics.items()},
        cards=[_card(number, card, lowest_kept) for number, card in enumerate(cards, start=1)],
        marked={mark: sum(card.correct is mark for card in cards) for mark in (True, False)},
        lowest_kept=lowest_kept,
        credits=credits,
    )  # fmt: skip
    write_text(path, html)
    return path


@dataclass
class Row:
    """One line of the metrics table; numbers are times 100 where papers print them so, None where there is none."""

    group: str  # the kind of question, the sub-task ...; empty for a number of the whole data set
    measure: str
    n: int | None  # how many samples it is measured on
    is_share: bool  # shown as per cent
    values: dict[str, float | None]  # by picture source
    chance: float | None = None  # what accuracy is without looking

    def bar(self, value: float) -> float:
        """How long the bar of a value is, 0 ... 100: of 100, or of the row's largest number where that is more."""
        return max(0.0, 100 * value / max(100.0, *(other or 0.0 for other in self.values.values())))


def metric_rows(name: str, scores: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The numbers of data set ``name``, from what ``score`` returned for each picture source.

    Raises:
        ValueError: a source that is none of ``CONDITION_LABELS``.
    """
    if unknown := set(scores) - set(CONDITION_LABELS):
        raise ValueError(
            f"metrics[{name!r}] has {sorted(unknown)}; its keys are the pictures seen: {list(CONDITION_LABELS)}"
        )
    columns = [source for source in CONDITION_LABELS if source not in ORDER_CONDITIONS.values() or source in scores]
    rows: dict[tuple[str, ...], Row] = {}
    for source in columns:
        for keys, value, beside in _numbers(scores.get(source, {}), ()):
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
            rows[keys].values[source] = value * times
            if keys[-1] == "accuracy" and "chance" in beside:
                rows[keys].chance = beside["chance"] * times
    return list(rows.values())


def _numbers(
    scores: Mapping[str, Any], keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], float, Mapping[str, Any]]]:
    """Every measured number with the keys that lead to it and the mapping that holds it."""
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*keys, key))
        elif isinstance(value, int | float) and key not in ("n", "chance", "unreadable"):
            yield (*keys, key), float(value), scores


def _card(number: int, card: Card, lowest_kept: float) -> dict[str, Any]:
    asked = f"Picture {number}, asked “{card.prompt}”, answered “{card.prediction}”"
    picture = _png(open_image(card.image))
    shown: dict[str, Any] = {"card": card, "picture": picture, "alt": asked, "kept": [], "scales": []}
    if card.kept is None:
        return shown
    shown["seen"] = _png(card.kept.picture)
    words = _words(card.kept.tokens)
    by_token = card.kept.scores_by_token if isinstance(card.kept, KeptTokens) else card.kept.patches_by_token
    by_word = card.kept.grids(torch.stack([by_token[tokens].mean(0) for _, tokens in words]))  # [words, side, side]
    shown["kept"] = _kept(card.kept, lowest_kept) if isinstance(card.kept, KeptTokens) else _attended(card.kept)
    for grids in by_word:
        maps = [_word_map(word, grid, kept=isinstance(card.kept, KeptTokens))
                for (word, _), grid in zip(words, grids, strict=True)]  # fmt: skip
        shown["scales"].append({"side": grids.shape[-1], "words": maps})
    return shown


def _kept(kept: KeptTokens, lowest_kept: float) -> list[dict[str, Any]]:
    """The maps of all words together, of every scale."""
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
    """The map of all words together, and what went elsewhere."""
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
    """The map of one word on one scale, [side, side], from the lowest score there (darkest) to the highest."""
    side, low, high = grid.shape[-1], float(grid.min()), float(grid.max())
    row, column = divmod(int(grid.argmax()), side)
    what = "score" if kept else "attention"
    alt = f"{word}: {what} of {side} by {side} squares, highest in row {row + 1}, column {column + 1}"
    if kept:
        span = " – ".join(f"{round(end, 2) + 0.0:.2f}".replace("-", "−") for end in (low, high))  # no minus zero
    else:
        span = f"{low:.1%} – {high:.1%}"
    return {"word": word, "range": span, "alt": alt, "map": _shade(grid, low, high)}


def _words(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The words of an answer with the tokens that each is made of; a token that begins with a space begins a word."""
    words: list[tuple[str, list[int]]] = []
    for index, token in enumerate(tokens):
        if not words or token[:1].isspace():
            words.append(("", []))
        text, indices = words[-1]
        words[-1] = (text + token, [*indices, index])
    return [(text.strip() or "␣", indices) for text, indices in words]


def _shade(grid: torch.Tensor, low: float, high: float) -> str:
    """A map [side, side] as a picture of one pixel per slot: darkness, full where it is ``low``, none at ``high``."""
    darkness = ((high - grid) / max(high - low, 1e-9)).clamp(0, 1)  # none where all is the same
    opacity = (darkness * DARKEST * 255).round().to(torch.uint8)
    picture = Image.new("RGBA", (grid.shape[1], grid.shape[0]), (*SHADE, 0))
    picture.putalpha(Image.fromarray(opacity.contiguous().numpy()))
    return _png(picture)


def _png(picture: Image.Image) -> str:
    """The picture as a ``data:`` address."""
    if max(picture.size) > PICTURE_SIDE:
        picture = picture.copy()
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": _duration, "shown": _shown}
    return environment


def _duration(seconds: float) -> str:
    """``41 s``, ``12 min 05 s``, ``1 h 03 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
