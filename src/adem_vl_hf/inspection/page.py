"""Writes one HTML file about a trained model: what was trained, how well it answers, and where it looks in images.

The file is self-contained: its images are inlined and it fetches nothing. The same input gives the same file. Layout,
styles and the few lines of script are in ``page_template.html``. The maps of a word are laid over the image: red where
a place raises the probability of the word, and blue where it lowers it.

In reading order: the page, its table of metrics, and its gallery.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..evaluation.image_conditions import CONDITION_LABELS, ORDER_CONDITIONS
from ..evaluation.score import PER_HUNDRED
from ..files import write_text
from ..modeling.images import open_image
from ..papers import PAPERS
from .look import BLUE, RED, Look, faded
from .maps import FAINT, css, png, word_maps

TEMPLATE = Path(__file__).with_name("page_template.html")
FILE = re.compile(r"[^\x00-\x20/\\:?#%]+(/[^\x00-\x20/\\:?#%]+)*")  # a relative path, so no other server or scheme
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
        looked_at (Look | None): The result of ``look`` for this image and this prediction. Maps of its first image are
            shown. None shows no maps.
    """

    image: Image.Image
    prompt: str
    prediction: str
    references: Sequence[str]
    correct: bool | None
    looked_at: Look | None = None


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
    links: Mapping[str, str] = {},
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
        links (Mapping[str, str]): Links to other files, shown under the introduction: the path of each file, relative
            to the page, by the text of its link.

    Returns:
        The path of the page.

    Raises:
        ValueError: The kind of model or an image condition is unknown, or a link is not a relative path.
    """
    path = Path(path)
    if kind not in PAPERS:
        raise ValueError(f"kind {kind!r}: the page knows {' and '.join(PAPERS)}")
    paper = PAPERS[kind]
    for text, address in links.items():
        if not FILE.fullmatch(address):
            raise ValueError(f"links[{text!r}] is {address!r}; give the path of a file, relative to the page")
    tables = {name: metric_rows(name, scores) for name, scores in metrics.items()}
    has_maps = any(item.looked_at is not None for item in gallery)
    html = environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        method=f"{paper.name}, {paper.subject} (arXiv {paper.number})",
        trainable_parameters=trainable_parameters,
        model=model,
        settings=settings,
        seconds=seconds,
        total_seconds=sum(seconds.values()),
        conditions=CONDITION_LABELS,
        tables=tables,
        has_captions=any(row.measure in ("BLEU-4", "CIDEr") for rows in tables.values() for row in rows),
        contents=_listed(
            {
                "what was trained": True,
                "how it learned": curves,
                "how well it answers": metrics,
                "what it answers": gallery and not has_maps,
                "where it looks": has_maps,
            }
        ),
        has_maps=has_maps,
        gallery=[_shown_item(number, item) for number, item in enumerate(gallery, start=1)],
        marked={mark: sum(item.correct is mark for item in gallery) for mark in (True, False)},
        credits=credits,
        curves=curves,
        command=command,
        links=links,
        red=css(RED),
        blue=css(BLUE),
        faint=FAINT,
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


def _shown_item(number: int, item: GalleryItem) -> dict[str, Any]:
    """Make what the template shows of one example: the image, its maps, and texts for readers who do not see them."""
    asked = f"Picture {number}, asked “{item.prompt}”, answered “{item.prediction}”"
    shown: dict[str, Any] = {"item": item, "image": png(open_image(item.image)), "alt": asked, "words": []}
    if item.looked_at is not None:
        shown["seen"] = png(faded(item.looked_at.images[0]))
        shown["words"] = [(word, word_maps(item.looked_at, n, 0)) for n, word in enumerate(item.looked_at.words)]
    return shown


def _listed(contents: Mapping[str, Any]) -> str:
    """List what the page has: "a, b and c"."""
    *others, last = (name for name, there in contents.items() if there)
    return f"{', '.join(others)} and {last}" if others else last


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
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
