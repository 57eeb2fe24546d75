"""The images that a command is given as files."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..terminal import say


def open_images(command: str, paths: Sequence[str], remedy: str) -> list[Any]:
    """Open images, and say on stderr of which only the first frame is seen.

    Args:
        command (str): The name of the command, which begins the message.
        paths (Sequence[str]): The files.
        remedy (str): What to do about the other frames.

    Returns:
        The images, in mode RGB.

    Raises:
        ImageError: A file cannot be read as an image.
    """
    from PIL import Image

    from ..modeling.images import open_image

    images = []
    for path in paths:
        images.append(open_image(path))
        animated = False
        with Image.open(path) as file, suppress(Exception):  # a damaged second frame does not matter here
            animated = getattr(file, "is_animated", False) and file.format != "MPO"  # MPO: one photograph, two views
        if animated:
            say(f"adem-vl {command}: {path} is animated, and its first frame is taken; {remedy}", sys.stderr)
    return images
