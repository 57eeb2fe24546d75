"""The images and videos that a data file names, opened by the code that travels with the model, and GIF writing."""

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from PIL import Image

from ..files import replacing
from ..modeling.images import ImageError, ImageSource, open_image
from ..modeling.videos import VideoSource, open_video, sample_frames

__all__ = [
    "ImageError",
    "ImageSource",
    "VideoSource",
    "open_image",
    "open_video",
    "resolve_image",
    "sample_frames",
    "save_gif",
]


def resolve_image(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of picture ``name`` inside ``folder``. A data file must not reach other files of the machine.

    Raises:
        ImageError: ``name`` is absolute, climbs out with ``..``, or names no file there.
    """
    parsed = PureWindowsPath(name)  # knows both kinds of separator
    if parsed.drive or parsed.root or ".." in parsed.parts:
        raise ImageError(f"{name}: leads out of the image folder {folder}; give a path relative to that folder")
    path = Path(folder) / name
    if not path.is_file():
        raise ImageError(f"{path}: no such image file; correct the name or put the file there")
    return path


def save_gif(frames: Sequence[Image.Image], path: str | os.PathLike[str], milliseconds: int = 150) -> None:
    """Writes the frames as a GIF that repeats for ever; its palette of 256 colours changes the pixels a little.

    Raises:
        ValueError: No frames.
    """
    if not frames:
        raise ValueError(f"{path}: no frames to write; give at least one")
    # a palette for each frame: Pillow's common one lets colours flicker
    first, *others = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
    with replacing(Path(path)) as beside:
        first.save(beside, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
