"""Opens the files that users send, with limits on their number and size, by the safe openers of the package."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..modeling.images import VIDEO_SUFFIXES, ImageError, TooManyPixels, open_image
from ..modeling.videos import open_video

MEGABYTES = 20  # of one file
FILES = 8  # of one turn
FRAMES = 8  # that are looked at of a video
PIXELS = 40_000_000  # of one image, which take 120 MB while it is opened
SECONDS = 20  # for decoding the videos of one turn
SIDE = 1536  # pixels of an image that is kept: more than any vision tower takes
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
RAISED = ", or raise "  # begins what an error says about raising a limit, which a visitor of the page cannot do
SUFFIXES = (*IMAGE_SUFFIXES, ".gif", *sorted(VIDEO_SUFFIXES))


def open_files(paths: Sequence[str]) -> tuple[list[Image.Image], list[list[Image.Image]]]:
    """Open the files of one turn.

    Args:
        paths (Sequence[str]): The files, each an image or a video by the ending of its name.

    Returns:
        The images in mode RGB, and the videos, each a list of frames.

    Raises:
        ValueError: There are too many files, one of them is too large, damaged, missing or of another kind, or the
            videos take more than ``SECONDS`` to decode. The message names the file without the folder that it lies in.
    """
    if len(paths) > FILES:
        raise ValueError(f"{len(paths)} files at once; send at most {FILES}")
    images: list[Image.Image] = []
    videos: list[list[Image.Image]] = []
    deadline = time.monotonic() + SECONDS
    for path in paths:
        try:
            _open(path, images, videos, deadline)
        except TooManyPixels as error:  # who sends it cannot raise the limit, as that message advises
            most = f"send an image of at most {PIXELS // 10**6} million"
            raise ValueError(f"{Path(path).name}: too many pixels; {most}") from error
        except ValueError as error:
            message = str(error).replace(str(path), Path(path).name)
            raise ValueError(message.partition(RAISED)[0]) from error
    return images, videos


def _open(path: str, images: list[Image.Image], videos: list[list[Image.Image]], deadline: float) -> None:
    try:
        suffix, size = Path(path).suffix.lower(), os.path.getsize(path)
    except (OSError, ValueError) as error:  # no such file, or a name that no file can have
        raise ImageError(f"{path}: no such file here; send it again") from error
    if size > MEGABYTES * 2**20:
        raise ImageError(f"{path}: {size / 2**20:.0f} MB; send at most {MEGABYTES} MB a file")
    if suffix in IMAGE_SUFFIXES:
        images.append(_small(open_image(path)))
    elif suffix in SUFFIXES:
        videos.append([_small(frame) for frame in open_video(path, FRAMES, deadline)])
    else:
        raise ImageError(f"{path}: neither an image nor a video; send one of {', '.join(SUFFIXES)}")


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((SIDE, SIDE))  # keeps its proportions, and never enlarges
    return image
