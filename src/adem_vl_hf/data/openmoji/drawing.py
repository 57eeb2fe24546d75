"""Draws pictograms of random size and angle on a coloured canvas."""

import colorsys
import random

import numpy as np
from PIL import Image

CANVAS = 96  # width and height in pixels

# Hue (degrees), saturation and value at the middle of each named colour. Grey and white have no hue to speak of.
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
    """Make a plain square of a named colour whose hue, saturation and brightness vary a little.

    Args:
        colour (str): A key of ``COLOURS``.
        rng (random.Random): The source of the variation.

    Returns:
        An image of ``CANVAS`` x ``CANVAS`` pixels in mode RGB.
    """
    hue: float
    hue, saturation, value = COLOURS[colour]
    vary = rng.uniform
    hue = (hue + vary(-6, 6)) % 360
    saturation = min(1.0, max(0.0, saturation + vary(-0.08, 0.08))) if saturation else 0.0
    value = min(1.0, max(0.0, value + vary(-0.05, 0.05 if value < 0.95 else 0.02)))
    rgb = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    red, green, blue = (round(255 * part) for part in rgb)
    return Image.new("RGB", (CANVAS, CANVAS), (red, green, blue))


def place(
    image: Image.Image, sprite: np.ndarray, centre: tuple[float, float], size: float, rng: random.Random, tilt: float
) -> None:
    """Draw a sprite at a random angle on an image, in place. Corners that turn out of the sprite's square are cut off.

    Args:
        image (Image.Image): The image to draw on.
        sprite (np.ndarray): The RGBA pixels [h, w, 4] of the sprite, uint8.
        centre (tuple[float, float]): The centre of the sprite on the image, x and y in pixels.
        size (float): The width of the sprite on the image, in pixels.
        rng (random.Random): The source of the angle.
        tilt (float): The greatest angle to either side, in degrees.
    """
    pixels = round(size)
    drawn = Image.fromarray(sprite).resize((pixels, pixels), Image.Resampling.BILINEAR)
    drawn = drawn.rotate(rng.uniform(-tilt, tilt), Image.Resampling.BILINEAR)
    corner = (round(centre[0] - pixels / 2), round(centre[1] - pixels / 2))
    image.paste(drawn, corner, drawn)


def place_whole(image: Image.Image, sprite: np.ndarray, centre: tuple[float, float], size: float, angle: float) -> None:
    """Draw a sprite at a given angle on an image, in place. The whole sprite is drawn at any angle.

    Args:
        image (Image.Image): The image to draw on.
        sprite (np.ndarray): The RGBA pixels [h, w, 4] of the sprite, uint8.
        centre (tuple[float, float]): The centre of the sprite on the image, x and y in pixels.
        size (float): The width of the sprite on the image at angle 0, in pixels.
        angle (float): The angle in degrees, anticlockwise.
    """
    pixels = round(size)
    drawn = Image.fromarray(sprite).resize((pixels, pixels), Image.Resampling.BILINEAR)
    drawn = drawn.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    corner = (round(centre[0] - drawn.width / 2), round(centre[1] - drawn.height / 2))
    image.paste(drawn, corner, drawn)
