"""Opens one image, in whichever form it is given, as the RGB image that the image processor expects.

Pillow's ``convert("RGB")`` alone turns transparent pixels black, clips 16-bit values and leaves photos lying on their
side. The model would then see an image that its user never meant.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from .image_forms import plain_form

ImageSource = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray | torch.Tensor | Mapping[str, Any]
IMAGE_MARK = "<image>"  # says in a text where an image stands
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts",
}  # fmt: skip
CAPTION_PROMPT = "a picture of"  # the prompt for captions in the authors' code

# by EXIF orientation (EXIF 2.32, tag 0x0112): the transposition that turns the stored pixels upright; 1 needs none
TURN_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# of Pillow's limit, which counts 3 bytes a pixel; Pillow itself keeps RGB in 4
SHARE_OF_LIMIT = 0.75
BAND = 2**20  # pixels of an image that are put on white at once
# Pixels of a side. A JPEG has at most 65,535, and panoramas stay below. To scale a line down to a few pixels takes over
# a hundred bytes for each of its pixels.
MOST_A_SIDE = 2**18


class ImageError(ValueError):
    """Says that an image or a video cannot be used. The message begins with its path and ends with the remedy."""


class TooManyPixels(ImageError):
    """Says that an image has more pixels than ``most_pixels()``."""


def open_image(source: ImageSource) -> Image.Image:
    """Open an image, turn it upright and convert it to mode RGB.

    Transparent pixels become white. 16-bit greyscale (modes ``I;16*`` and ``I``, read as 0 ... 65535) is scaled to 8
    bits. Of an animation, the first frame is taken.

    Args:
        source (ImageSource): A path, the bytes of an image file, a binary file object, a PIL image, or one of the forms
            of ``plain_form``: an array, a tensor, a dictionary with "bytes" or "path", a ``data:`` URL or base64. A
            file object stays open. A PIL image stays unchanged, and of an animation the frame that it stands at is
            taken. Other URLs are refused, so that opening an image never uses the network.

    Returns:
        Image.Image: A new image in mode RGB, 8 bits per channel, fully loaded and without metadata.

    Raises:
        ImageError: The source is missing, empty, truncated or not an image, has no pixels, more of them than
            ``most_pixels()``, or a side of more than ``MOST_A_SIDE``.
    """
    name = _describe(source)
    try:
        plain: Any = plain_form(source)
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from error
    opened = nullcontext(plain) if isinstance(plain, Image.Image) else _open(plain, name)
    with opened as image:
        try:
            check_size(*image.size, name)
            image.load()  # for some formats, size, mode and metadata are only known now
            check_size(*image.size, name)
            rgb = _to_rgb(_upright(image), name)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError and others on damaged data, undocumented
            raise ImageError(f"{name}: damaged or truncated ({error}); fetch or export the file again") from error
    rgb.info.clear()  # with its EXIF block, opening the result again would turn it again
    return rgb


def size_in_header(source: bytes) -> tuple[int, int]:
    """Read how large an image file says that it is, before anything is decoded.

    Args:
        source (bytes): The bytes of the file.

    Returns:
        tuple[int, int]: The width and the height in pixels.

    Raises:
        ImageError: It is not an image, or too large, as for ``open_image``.
    """
    name = _describe(source)
    with _open(source, name) as image:
        check_size(*image.size, name)
        return image.size


def ready_image(source: ImageSource) -> Image.Image:
    """Open an image, unless ``open_image`` has done it already.

    Args:
        source (ImageSource): As for ``open_image``.

    Returns:
        Image.Image: ``source`` itself if it is in memory, in mode RGB and without metadata that could turn it.
        Otherwise, the image that ``open_image`` makes of it.

    Raises:
        ImageError: As ``open_image``.
    """
    # exactly Image: an object of its subclass ImageFile is a file that is not decoded yet
    if type(source) is not Image.Image or source.mode != "RGB" or source.info:
        return open_image(source)
    check_size(*source.size, _describe(source))
    return source


def most_pixels() -> float:
    """Say how many pixels an image, or all frames of a video together, may have.

    These are 256 MiB of them, and follow ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    return math.inf if Image.MAX_IMAGE_PIXELS is None else SHARE_OF_LIMIT * Image.MAX_IMAGE_PIXELS


def check_size(width: int, height: int, name: str, frames: int = 1) -> None:
    """Refuse an image or the frames of a video with more pixels than a header should make anybody allocate.

    Up to twice its limit, Pillow itself only warns. A filter that turns the warning into an error would change the
    state of the whole process.

    Args:
        width (int): The width in pixels.
        height (int): The height in pixels.
        name (str): Whose size it is, for the error.
        frames (int): The number of frames of this size.

    Raises:
        ImageError: There are no pixels, more than ``most_pixels()``, or a side has more than ``MOST_A_SIDE``.
    """
    if not width or not height:
        raise ImageError(f"{name}: the image is {width} x {height} pixels; remove it or replace it")
    if width * height > most_pixels():
        raise TooManyPixels(_too_large(name, f"{width} x {height} pixels are"))
    if max(width, height) > MOST_A_SIDE:
        raise ImageError(
            f"{name}: the image is {width} x {height} pixels, and a side may have at most {MOST_A_SIDE:,}; cut it into "
            "pieces or scale it down"
        )
    if width * height * frames > most_pixels():
        raise ImageError(
            f"{name}: {frames:,} frames of {width} x {height} pixels are more than the {most_pixels():,.0f} pixels "
            "that all frames together may have; choose fewer (num_frames), scale them down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust their origin"
        )


def _describe(source: ImageSource) -> str:
    """Name a source in error messages: by its path where there is one, otherwise by what it is."""
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "PIL image")
    elif isinstance(source, str | os.PathLike):
        name = str(os.fspath(source))
    elif isinstance(source, bytes):
        name = f"image of {len(source)} bytes"
    elif isinstance(source, Mapping) and source.get("path"):
        name = str(source["path"])
    else:
        name = str(getattr(source, "name", None) or f"{type(source).__name__} object")
    return name if len(name) <= 200 else f"{name[:197]}..."  # such as an image in base64 that is given as a path


def _open(source: str | os.PathLike[str] | bytes | IO[bytes], name: str) -> Image.Image:
    """Read the header of an image file. The pixels of the result are not loaded yet."""
    if isinstance(source, str | os.PathLike):
        _check_path(source, name)
        file: Path | BytesIO = Path(source)
    else:
        file = BytesIO(_read(source, name))
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(_too_large(name, f"{error} That is")) from error
    except UnidentifiedImageError as error:
        if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
            raise ImageError(
                f"{name}: a video, where an image is read; give it as a video (videos=..., on the command line --video)"
            ) from error
        raise ImageError(
            f"{name}: not an image that Pillow can read, or its header is damaged or says 0 pixels; "
            "export it as PNG or JPEG"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read ({reason}); check the file and its permissions") from error
    if image.format == "EPS":  # Pillow would run the program Ghostscript on the file, which may come from anywhere
        image.close()
        raise ImageError(f"{name}: PostScript is not read; export it as PNG or JPEG")
    return image


def _read(source: bytes | IO[bytes], name: str) -> bytes:
    """Read all bytes of a file object, or check those that are given."""
    data = source.read() if hasattr(source, "read") else source
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: not an image; give a path, bytes, a file opened with 'rb' or a PIL image")
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); fetch or export it again, or rewind the file object")
    return data


def _check_path(source: str | os.PathLike[str], name: str) -> None:
    """Refuse a path that is a URL, a directory, or not the name of a file with content."""
    if re.match(r"(?i)([a-z][a-z0-9+.-]*://|data:)", name):
        raise ImageError(f"{name}: a URL; download it first and give the path of the file")
    try:
        status = os.stat(source)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such image file; correct the path or put the file there") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read ({reason}); check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: a directory, not an image file; name a file inside it")
    if status.st_size == 0:
        raise ImageError(f"{name}: empty (0 bytes); fetch or export it again")


def _too_large(name: str, what: str) -> str:
    return (
        f"{name}: {what} more than the {most_pixels():,.0f} allowed (0.75 of PIL.Image.MAX_IMAGE_PIXELS): possibly a "
        "decompression bomb; scale the image down, or raise that limit if you trust its origin"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn the stored pixels as the EXIF block says."""
    # ImageOps.exif_transpose would also write the EXIF block back, which fails if any of its other tags is malformed
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):
        return image  # the block cannot be parsed; viewers then show the pixels as they are stored
    return image.transpose(TURN_UPRIGHT[orientation]) if orientation in TURN_UPRIGHT else image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a loaded image of any mode to RGB, on white where it is transparent. The result is a new object."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bit(image, name)
    elif image.mode == "F":
        raise ImageError(f"{name}: 32-bit floating-point pixels have no fixed range; save it with 8 or 16 bits")
    elif image.mode == "La":  # grey that was multiplied by its alpha, which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        return _on_white(image)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Put an image on white, band by band: at once, it would take three more copies of it."""
    width, height = image.size
    found = Image.new("RGB", image.size)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height))).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        found.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return found


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale greyscale values from 0 ... 65535 to 0 ... 255, rounded.

    Older versions of Pillow open 16-bit files in mode ``I``, which has 32 bits.
    """
    values = np.asarray(image).astype(np.int64)  # [H, W]
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name}: integer pixels outside 0 ... 65535; save it with 8 or 16 bits")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # the tRNS chunk of a PNG names one grey value that is transparent
        values[values == transparent] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
