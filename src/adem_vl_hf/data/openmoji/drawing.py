"""Pictures drawn on demand: pictograms of random size and tilt on a coloured canvas."""

import colorsys
import random

import numpy as np
from PIL import Image

CANVAS = 96  # pixels

# hue (degrees), saturation, value: the middle of each named colour; the grey ones have no hue to speak of
COLOURS = {
    "red": (0, 0.75, 0.85),
    "orange": (30, 0.85, 0.95),
    "yellow": (54, 0.75, 0.97),
    "green": (125, 0.65, 0.65),
    "blue": (218, 0.75, 0.85),
    "purple": (278, 0.55, 0.65),
    "pink": (330, 0.38, 0.98),
    "brown": (25, 0.62, 0.45),
    "grey": (0, 0.0, 0.55),
    "white": (0, 0.0, 0.98),
}


def canvas(colour: str, rng: random.Random) -> Image.Image:
    """A plain square of the named colour, with a little play in hue, saturation and brightness."""
    hue: float
    hue, saturation, value = COLOURS[colour]
    play = rng.uniform
    hue = (hue + play(-6, 6)) % 360
    saturation = min(1.0, max(0.0, saturation + play(-0.08, 0.08))) if saturation else 0.0
    value = min(1.0, max(0.0, value + play(-0.05, 0.05 if value < 0.95 else 0.02)))
    rgb = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    red, green, blue = (round(255 * part) for part in rgb)
    return Image.new("RGB", (CANVAS, CANVAS), (red, green, blue))


def place(
    picture: Image.Image, sprite: np.ndarray, centre: tuple[float, float], size: float, rng: random.Random, tilt: float
) -> None:
    """Draw ``sprite`` [h, w, 4] on ``picture`` in place, ``size`` pixels wide, turned by up to ``tilt`` degrees."""
    pixels = round(size)
    image = Image.fromarray(sprite).resize((pixels, pixels), Image.Resampling.BILINEAR)
    image = image.rotate(rng.uniform(-tilt, tilt), Image.Resampling.BILINEAR)
    corner = (round(centre[0] - pixels / 2), round(centre[1] - pixels / 2))
    picture.paste(image, corner, image)


def paste(picture: Image.Image, sprite: np.ndarray, centre: tuple[float, float], size: float, angle: float) -> None:
    """Draw ``sprite`` [h, w, 4] on ``picture`` in place, ``size`` pixels wide, turned by ``angle`` degrees
    anticlockwise; at any angle all of it is drawn."""
    pixels = round(size)
    image = Image.fromarray(sprite).resize((pixels, pixels), Image.Resampling.BILINEAR)
    image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    corner = (round(centre[0] - image.width / 2), round(centre[1] - image.height / 2))
    picture.paste(image, corner, image)
