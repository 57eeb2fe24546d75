"""Opens the files that users send, with limits on their number and size, by the safe openers of the package."""

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ..modeling.images import VIDEO_SUFFIXES, ImageError, open_image
from ..modeling.videos import open_video

MEGABYTES = 20  # of one file
FILES = 8  # of one turn
FRAMES = 8  # that are looked at of a video
PIXELS = 40_000_000  # of one image, which take 120 MB while it is opened
SIDE = 1536  # pixels of an image that is kept: more than any vision tower takes
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = (*IMAGE_SUFFIXES, ".gif", *sorted(VIDEO_SUFFIXES))


def open_files(paths: Sequence[str]) -> tuple[list[Image.Image], list[list[Image.Image]]]:
    """Open the files of one turn.

    Args:
        paths (Sequence[str]): The files, each an image or a video by the ending of its name.

    Returns:
        The images in mode RGB, and the videos, each a list of frames.

    Raises:
        ValueError: There are too many files, or one of them is too large, damaged or of another kind. The message names
            the file without the folder that it lies in.
    """
    if len(paths) > FILES:
        raise ValueError(f"{len(paths)} files at once; send at most {FILES}")
    images: list[Image.Image] = []
    videos: list[list[Image.Image]] = []
    for path in paths:
        try:
            _open(path, images, videos)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), Path(path).name)) from error
    return images, videos


def _open(path: str, images: list[Image.Image], videos: list[list[Image.Image]]) -> None:
    suffix, size = Path(path).suffix.lower(), os.path.getsize(path)
    if size > MEGABYTES * 2**20:
        raise ImageError(f"{path}: {size / 2**20:.0f} MB; send at most {MEGABYTES} MB a file")
    if suffix in IMAGE_SUFFIXES:
        _check_pixels(path)
        images.append(_small(open_image(path)))
    elif suffix in SUFFIXES:
        videos.append([_small(frame) for frame in open_video(path, FRAMES)])
    else:
        raise ImageError(f"{path}: neither an image nor a video; send one of {', '.join(SUFFIXES)}")


def _check_pixels(path: str) -> None:
    """Refuse too large an image; users of a page cannot raise the limit, which other messages advise."""
    pixels = None
    with warnings.catch_warnings(), suppress(OSError, SyntaxError, ValueError):  # damaged: open_image says how
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = PIXELS + 1
    if pixels is not None and pixels > PIXELS:
        raise ImageError(f"{path}: too many pixels; send an image of at most {PIXELS // 10**6} million")


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((SIDE, SIDE))  # keeps its proportions, and never enlarges
    return image
