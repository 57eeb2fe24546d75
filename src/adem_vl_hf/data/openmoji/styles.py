"""Draws the things of the OpenMoji data sets in four styles: OpenMoji's own, Twemoji's, Noto's and Fluent's (flat).

The SVGs of the three others ship with this package, in ``styles.json.xz``; ``examples/write_styles.py`` writes it.
Their sources and licences are in ``STYLES.md``.
"""

import hashlib
import json
import lzma
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from .sprites import SPRITE_SIZE, openmoji, rasterise, rendered_once

FILE = Path(__file__).with_name("styles.json.xz")
OPENMOJI = "openmoji"
STYLES = (OPENMOJI, "twemoji", "noto", "fluent")


@lru_cache(maxsize=len(STYLES))
def sprites_in(style: str) -> np.ndarray:
    """Load the sprites of all things in one style. They are rendered on the first call and kept in the cache folder.

    Args:
        style (str): One of ``STYLES``.

    Returns:
        The RGBA pixels [things, SPRITE_SIZE, SPRITE_SIZE, 4] in the order of the things of ``openmoji()``, uint8.

    Raises:
        ImportError: A package of the extra ``demo`` is not installed.
    """
    things, sprites = openmoji()
    if style == OPENMOJI:
        return sprites
    packed, codes = FILE.read_bytes(), [thing.code for thing in things]
    made_from = [hashlib.sha256(packed).hexdigest(), str(SPRITE_SIZE), *codes]
    key = hashlib.sha256(" ".join(made_from).encode()).hexdigest()[:16]

    def draw() -> tuple[list[str], np.ndarray]:
        svgs = json.loads(lzma.decompress(packed))[style]
        return codes, np.stack([rasterise(svgs[code]) for code in codes])

    return rendered_once(f"{style}-{key}", draw)[1]


def check_styles(styles: Sequence[str]) -> None:
    """Check the styles that a data set is asked to draw in.

    Args:
        styles (Sequence[str]): At least one of ``STYLES``.

    Raises:
        ValueError: It is empty or names another style.
    """
    if isinstance(styles, str) or not styles or set(styles) - set(STYLES):
        raise ValueError(f"styles must be one or more of {list(STYLES)}, got {styles!r}")


def choose_style(styles: Sequence[str], sample: str) -> str:
    """Choose the style that a sample is drawn in. Nothing else about the sample depends on the choice.

    Args:
        styles (Sequence[str]): The styles.
        sample (str): The data set, seed, split and index, as one text.

    Returns:
        One of the styles.
    """
    return styles[0] if len(styles) == 1 else random.Random(f"style-{sample}").choice(styles)
