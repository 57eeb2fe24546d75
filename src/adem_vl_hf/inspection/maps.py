"""Draws for HTML pages where the words of an answer come from. A map is a tiny image with one pixel for each slot."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from .look import Look, overlay

IMAGE_SIDE = 384  # pixels; larger images are scaled down, because a page of photos would take a hundred megabytes
FAINT = 0.1  # nats; a word to which all places contribute less than this, regardless of the sign, has paler colours


def word_maps(look: Look, place: int, number: int) -> list[dict[str, str]]:
    """Draw the contributions of one image to one word. All parts of a word have one scale of colours.

    The scale ends at the largest contribution to the word. Where all contributions are less than ``FAINT`` together, it
    ends higher in proportion: a word that owes the image nothing is not as red and blue as one that owes it much.

    Args:
        look (Look): What ``look`` returned.
        place (int): The index of the word.
        number (int): The index of the image.

    Returns:
        A map of all parts together, and then one of each part, or of a single part one map. Each has a ``name``, the
        ``map`` as a ``data:`` URL, a text for readers who do not see it (``alt``), and the sums of what raises and of
        what lowers (``span``).
    """
    together = look.contribution[place]  # [n, side, side]
    sizes = [np.abs(part.contribution[place]) for part in look.parts]
    paler = max(1.0, FAINT / max(sum(float(size.sum()) for size in sizes), 1e-12))
    largest = max(float(size.max()) for size in sizes)
    name = f"all {'scales' if look.kind == 'adem_vl' else 'levels'} together"
    drawn = [(name, together[number], float(np.abs(together).max()))] if len(look.parts) > 1 else []
    drawn += [(part.name, part.contribution[place, number], largest) for part in look.parts]
    return [
        {"name": name, "map": png(Image.fromarray(overlay(grid, most * paler), "RGBA")),
         "alt": f"{look.words[place]}, {name}: {_said(grid)}",
         "span": f"+{grid.clip(min=0).sum():.2f} and −{abs(grid.clip(max=0).sum()):.2f} nats"}
        for name, grid, most in drawn
    ]  # fmt: skip


def _said(grid: np.ndarray) -> str:
    """Say where the largest contributions of a grid, [side, side], are."""
    side = grid.shape[-1]
    said = [f"{side} by {side} places"]
    for does, signed in (("raises", grid), ("lowers", -grid)):
        row, column = divmod(int(signed.argmax()), side)
        said.append(f"row {row + 1}, column {column + 1} {does} the probability most" if signed.max() > 0 else
                    f"none {does} the probability")  # fmt: skip
    return "; ".join(said)


def css(colour: tuple[int, int, int]) -> str:
    """Write a colour for a style sheet.

    Args:
        colour (tuple[int, int, int]): Red, green and blue, 0 ... 255.

    Returns:
        The colour.
    """
    return "rgb({} {} {})".format(*colour)


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
