"""Turns the other forms in which Transformers' processors take an image into what Pillow opens.

These are arrays and tensors, rows of ``datasets.Image(decode=False)``, and images in base64, as chats hold them. No
form reaches for a file that the caller did not name, or for the network.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w-]+=[\w.-]+)*;base64,", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")  # shorter ones are no image, and may be the name of a file


def are_several(given: Any) -> bool:
    """Tell a list, a tuple or a column of ``datasets`` from a single image, which may be a path or the bytes of a file.

    Args:
        given (Any): What a caller gave.

    Returns:
        bool: Whether it is a sequence of entries.
    """
    return isinstance(given, Sequence) and not isinstance(given, (str, bytes, bytearray, memoryview))


def plain_form(source: Any) -> Any:
    """Turn an image in one of the other forms into a PIL image, bytes or a path.

    Args:
        source (Any): An array or a tensor, as for ``from_array``; a ``bytearray`` or a ``memoryview``; a dictionary
            with the "bytes" or the "path" of a file; a ``data:`` URL; a text in base64; or anything else.

    Returns:
        Any: The image in the plainer form. Anything else is returned as it is.

    Raises:
        ValueError: The array has another shape or other values, the dictionary has neither of the two, or the text is
            not base64.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return from_array(source)
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Mapping):
        held = source.get("bytes")
        if isinstance(held, (bytes, bytearray, memoryview)):
            return bytes(held)
        if held is not None:  # a text would be opened as a path
            raise ValueError(f"a dictionary whose 'bytes' are {type(held).__name__}, not the bytes of a file")
        if isinstance(source.get("path"), (str, os.PathLike)):
            return source["path"]
        raise ValueError(f"a dictionary with {sorted(map(str, source))}; an image has 'bytes' or 'path'")
    if isinstance(source, str):
        if found := DATA_URL.match(source):
            return _decoded(source[found.end() :])
        if BASE64.fullmatch(source) and not os.path.exists(source):
            return _decoded(source)
    return source


def from_array(array: np.ndarray | torch.Tensor) -> Image.Image:
    """Turn an array into an image.

    Args:
        array (np.ndarray | torch.Tensor): [H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4, of integers from 0 to
            255, of booleans, or of floating point from 0 to 1. 16-bit integers are refused: they may reach 65535.

    Returns:
        Image.Image: The image, of mode L, RGB or RGBA.

    Raises:
        ValueError: The array has another shape, type or range.
    """
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # NumPy knows no bfloat16
    values = np.asarray(array)
    if values.ndim == 3 and values.shape[-1] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = np.moveaxis(values, 0, -1)  # [H, W, C]
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]  # [H, W]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (3, 4))):
        raise ValueError(f"an array of shape {tuple(array.shape)}; an image is [H, W, 3] or [3, H, W]")
    if not values.size:
        raise ValueError(f"an array of shape {tuple(array.shape)}, which has no pixels")
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("an array of floating point outside 0 ... 1; give uint8, or undo its normalisation")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    # lists of numbers, such as rows of ``datasets`` without a type of their own, become arrays of 32 or 64 bits
    if values.dtype in (np.int32, np.int64):
        if values.min() < 0 or values.max() > 255:
            raise ValueError(f"an array of {values.dtype} outside 0 ... 255; an image is of uint8")
        values = values.astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"an array of {values.dtype}; an image is of uint8, or of floating point from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(values))


def scaled_once(options: dict[str, Any], *shown: Any) -> dict[str, Any]:
    """Take ``do_rescale=False`` back where it says of arrays that they are scaled already: ``from_array`` undoes that.

    Args:
        options (dict[str, Any]): Keyword arguments for an image processor.
        *shown (Any): Images and videos in any form, and lists of them.

    Returns:
        dict[str, Any]: The options, without ``do_rescale=False`` if everything shown is of floating point.

    Raises:
        ValueError: One thing is of floating point and another is not, and ``do_rescale`` is False.
    """
    if options.get("do_rescale") is not False:
        return options
    scaled = set(_are_floats(shown))
    if scaled == {True, False}:
        raise ValueError("do_rescale=False: some images are of floating point and some are not; give one kind")
    return {name: value for name, value in options.items() if name != "do_rescale"} if scaled == {True} else options


def _are_floats(shown: Any) -> Iterator[bool]:
    """Tell of each image whether it is an array of floating point."""
    if isinstance(shown, (list, tuple)):
        for one in shown:
            yield from _are_floats(one)
    elif shown is not None:
        kind = getattr(shown, "dtype", None)
        yield kind.is_floating_point if isinstance(kind, torch.dtype) else getattr(kind, "kind", "") == "f"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from error
