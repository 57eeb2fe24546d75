"""Writes one HTML page that shows where the words of an answer come from.

The page is self-contained, has no script and fetches nothing: a word is chosen by a radio button, and styles show its
maps. Layout and styles are in ``look_template.html``. A map is a tiny image with one pixel for each slot.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import write_text
from ..papers import PAPERS
from .look import BLUE, RED, Look
from .maps import FAINT, css, png, word_maps
from .page import environment

TEMPLATE = Path(__file__).with_name("look_template.html")
USED = (22, 110, 70)  # the colour of what was kept, or attended to
USED_OPACITY = 0.9
FIRST_WORDS = {"a", "an", "the", "of", "on", "in", "and"}  # a word that says more is shown first


def write_look_page(path: str | os.PathLike[str], look: Look, title: str) -> Path:
    """Write the page. An older one is replaced, and missing folders are made.

    Args:
        path (str | os.PathLike[str]): The HTML file to write.
        look (Look): What ``look`` returned.
        title (str): The title of the page.

    Returns:
        The path of the page.
    """
    path = Path(path)
    write_text(path, look_page(look, title))
    return path


def look_page(look: Look, title: str) -> str:
    """Make the page.

    Args:
        look (Look): What ``look`` returned.
        title (str): The title of the page.

    Returns:
        The page as HTML.
    """
    first = next((n for n, word in enumerate(look.words) if word.strip(".,").lower() not in FIRST_WORDS), 0)
    return environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        look=look,
        paper=PAPERS[look.kind],
        first=first,
        images=[png(image) for image in look.images],
        words=[_word(look, place) for place in range(len(look.words))],
        red=css(RED),
        blue=css(BLUE),
        used=css(USED),
        faint=FAINT,
    )  # fmt: skip


def _word(look: Look, place: int) -> dict[str, Any]:
    """Make what the template shows of one word: for each image, its map of all parts together and those of each part.

    A single part has no map of its contribution beside the one of all parts.
    """
    images = []
    for number in range(len(look.images)):
        together, *parts = word_maps(look, place, number)
        parts = parts or [{}]
        used = [
            {"name": part.name, **_used(part.used[place, number], part.used[place], look.kind)} for part in look.parts
        ]
        images.append({"together": together, "parts": list(zip(parts, used, strict=True))})
    return {
        "text": look.words[place],
        "tokens": look.tokens[place],
        "probability": float(np.exp(look.log_probabilities[place])),
        "class_token": float(look.class_token[place]),
        "images": images,
    }


def _used(grid: np.ndarray, of_all: np.ndarray, kind: str) -> dict[str, str]:
    """Draw the shares of one grid, [side, side], from nothing (transparent) to the most of this word."""
    strength = grid / max(float(of_all.max()), 1e-12)
    pixels = np.empty((*grid.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = USED, np.rint(255 * USED_OPACITY * strength)
    low, high = float(grid.min()), float(grid.max())
    what, digits = ("kept in", 0) if kind == "adem_vl" else ("attention of", 1)
    span = f"{what} {low:.{digits}%} – {high:.{digits}%}"
    row, column = divmod(int(grid.argmax()), grid.shape[-1])
    alt = f"{len(grid)} by {len(grid)} places, {span}, most in row {row + 1}, column {column + 1}"
    return {"map": png(Image.fromarray(pixels, "RGBA")), "alt": alt, "span": span}
