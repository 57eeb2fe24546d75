"""The pictures that a call of the processor was given, row by row: images, or the frames of a video."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from .images_adem_vl import open_image


@dataclass
class Pictures:
    """Of one row: the pictures in order, and whether they are the frames of one video."""

    images: list[Any] = field(default_factory=list)
    is_video: bool = False


def rows_of_pictures(images, videos, rows: int) -> list[Pictures]:
    """``images`` and ``videos`` of a call, for each of its rows.

    Args:
        images: a picture, or one entry a row: a picture, a list of pictures, or None.
        videos: one entry a row: a video or None; for a single row the video itself will do. A video is a list of
            frames or an array [frames, H, W, 3] (chat templates wrap it in a list of one).

    Raises:
        ValueError: naming the row: not one entry a row, images and a video in one row, several videos, no frames.
    """
    many = isinstance(images, (list, tuple))
    if many and rows == 1 and len(images) > 1 and not any(isinstance(one, (list, tuple)) for one in images):
        images = [list(images)]  # all of them belong to the one text
    of_images = [None] * rows if images is None else list(images) if many else [images]
    of_videos = _videos_by_row(videos, rows)
    if not len(of_images) == len(of_videos) == rows:
        raise ValueError(
            f"{rows} texts, {len(of_images)} images and {len(of_videos)} videos do not pair up; give one entry of each "
            "per row (a list for several images, None for a row without)"
        )
    found = []
    for number, (image, video) in enumerate(zip(of_images, of_videos, strict=True)):
        given = [] if image is None else list(image) if isinstance(image, (list, tuple)) else [image]
        if video is None:
            found.append(Pictures(given))
            continue
        if given:
            raise ValueError(f"sample {number}: images and a video; give the one or the other in a row")
        frames = _frames(number, video)
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"sample {number}: its video has frames of different sizes {sorted(sizes)}; make them one")
        found.append(Pictures(frames, is_video=True))
    return found


def _is_frame(one) -> bool:
    return isinstance(one, Image.Image) or (isinstance(one, (np.ndarray, torch.Tensor)) and one.ndim == 3)


def _videos_by_row(videos, rows: int) -> list:
    if videos is None:
        return [None] * rows
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return [videos] if videos.ndim == 4 else list(videos)
    videos = list(videos)
    return [videos] if rows == 1 and (not videos or _is_frame(videos[0])) else videos


def _frames(number: int, video) -> list[Image.Image]:
    """The frames of one video as pictures."""
    frames = list(video)
    if len(frames) == 1 and not _is_frame(frames[0]):  # a list of videos, of one
        frames = list(frames[0])
    if not frames:
        raise ValueError(f"sample {number}: its video has no frames; give at least one, or None for a row without")
    if not all(_is_frame(frame) for frame in frames):
        raise ValueError(
            f"sample {number}: a video is a list of frames (pictures or arrays [H, W, 3]); one of its entries is a "
            f"{type(next(frame for frame in frames if not _is_frame(frame))).__name__}; a row takes one video"
        )
    return [open_image(frame) if isinstance(frame, Image.Image) else _from_array(number, frame) for frame in frames]


def _from_array(number: int, frame) -> Image.Image:
    array = np.asarray(frame)
    if array.shape[0] == 3 and array.shape[2] != 3:  # channels first, as torch has them
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.shape[2] != 3:
        raise ValueError(f"sample {number}: a frame is {array.shape} of {array.dtype}; give [H, W, 3] of uint8")
    return Image.fromarray(np.ascontiguousarray(array))


def pixels_of_rows(pictures: Sequence[Pictures], image_processor) -> dict[str, torch.Tensor]:
    """What the model takes: nothing where there are no pictures.

    Returns:
        ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B] where no row has more than one, else ``pixel_values``
        [B, n, 3, H, W] and ``image_mask`` [B, n]; zeros where there is none.
    """
    given = [open_image(image) for row in pictures for image in row.images]
    if not given:
        return {}
    most = max(len(row.images) for row in pictures)
    pixels = image_processor(images=given, return_tensors="pt")["pixel_values"]  # [I, 3, H, W]
    mask = torch.tensor([[place < len(row.images) for place in range(most)] for row in pictures])  # [B, n]
    pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
    pixel_values[mask] = pixels
    if most == 1:
        return {"pixel_values": pixel_values[:, 0], "image_mask": mask[:, 0]}
    return {"pixel_values": pixel_values, "image_mask": mask}
