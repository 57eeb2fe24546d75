"""Pictures named by a data file. They are opened by the same code that travels beside the model on the Hub."""

import os
from pathlib import Path, PureWindowsPath

from adem_vl_hf.modeling.images_adem_vl import ImageError, ImageSource, open_image

__all__ = ["ImageError", "ImageSource", "open_image", "resolve_image"]


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
