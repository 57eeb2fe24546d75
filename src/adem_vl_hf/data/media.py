"""Finds the image files that a data file names, and writes GIFs.

Images and videos are opened by the code that travels with the model, so that training and use see the same pixels. Its
functions are importable from here.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from unicodedata import normalize

from PIL import Image

from ..files import replacing
from ..modeling.image_forms import BASE64, DATA_URL
from ..modeling.images import ImageError, ImageSource, open_image, ready_image
from ..modeling.videos import VideoSource, open_video, sample_frames

__all__ = [
    "ImageError",
    "ImageSource",
    "VideoSource",
    "check_inside",
    "holds_image",
    "open_image",
    "open_video",
    "ready_image",
    "resolve_image",
    "sample_frames",
    "save_gif",
]


def holds_image(text: str) -> bool:
    """Tell whether a text is an image itself, in base64, and not the name of one.

    Args:
        text (str): The text.

    Returns:
        Whether it is a ``data:`` URL or a long text in base64.
    """
    return bool(DATA_URL.match(text) or BASE64.fullmatch(text))


def resolve_image(folder: str | os.PathLike[str], name: str) -> Path:
    """Find an image that a data file names, inside its image folder and nowhere else.

    A data file may come from anywhere, so its names must not reach other files of this machine.

    Args:
        folder (str | os.PathLike[str]): The image folder.
        name (str): The path of the image, relative to the folder, or an absolute path that leads into it.

    Returns:
        The path of the image file.

    Raises:
        ImageError: The name is a URL, leads elsewhere, leaves the folder with ``..`` or by a link, or is not the name
            of a file there.
    """
    if "://" in name:
        raise ImageError(f"{name[:200]}: a URL; download it first and give the path of the file")
    parsed = PureWindowsPath(name)  # understands both kinds of path separator
    places = Path(folder).absolute(), _roots(Path(folder).absolute())[0]
    is_inside = Path(name).is_absolute() and any(Path(name).is_relative_to(place) for place in places)
    if ".." in parsed.parts or ((parsed.drive or parsed.root) and not is_inside):
        raise ImageError(f"{name}: leads out of the image folder {folder}; give a path relative to that folder")
    path = Path(folder) / name
    try:  # as it is written, else as Windows separates folders and as macOS and other systems write an umlaut
        spellings = [name, name.replace("\\", "/")]
        spellings += [normalize(form, one) for form in ("NFC", "NFD") for one in spellings]
        path = next((found for one in spellings if (found := Path(folder) / one).is_file()), path)
        is_file = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long for the system, or has a zero byte
        raise ImageError(f"{name[:100]!r}: no name of a file ({getattr(error, 'strerror', None) or error})") from error
    if not is_file:
        raise ImageError(f"{path}: no such image file; correct the name or put the file there")
    check_inside(folder, path)
    return path


def check_inside(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Refuse a file that lies outside a folder, where a link in it may lead.

    The cache of the Hub is an exception: its folders consist of links to the files of the same repository.

    Args:
        folder (str | os.PathLike[str]): The folder.
        path (str | os.PathLike[str]): The file.

    Raises:
        ImageError: It lies outside.
    """
    found = Path(path).resolve()
    if not any(found.is_relative_to(root) for root in _roots(Path(folder).absolute())):
        raise ImageError(
            f"{path}: a link out of the image folder {folder}, which is not followed; put the file itself there"
        )


@lru_cache(maxsize=8)  # asked for each image of a data set
def _roots(folder: Path) -> tuple[Path, ...]:
    """The absolute folder without links, and in the cache of the Hub the one that its links lead to."""
    inside = folder.resolve()
    return inside, *(one.parent / "blobs" for one in (inside, *inside.parents) if one.name == "snapshots")


def save_gif(frames: Sequence[Image.Image], path: str | os.PathLike[str], milliseconds: int = 150) -> None:
    """Write frames as a GIF that repeats for ever.

    A GIF has a palette of 256 colours for each frame, which changes the pixels a little.

    Args:
        frames (Sequence[Image.Image]): The frames in order, all of one size.
        path (str | os.PathLike[str]): The file to write. Missing folders are made.
        milliseconds (int): How long each frame is shown.

    Raises:
        ValueError: There are no frames.
    """
    if not frames:
        raise ValueError(f"{path}: no frames to write; give at least one")
    # one palette for each frame, because colours flicker with the common palette that Pillow makes
    first, *others = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
    with replacing(Path(path)) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
