"""The pictures that a call of the processor was given, row by row: images, or the frames of a video."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from .images_adem_vl import open_image
from .videos_adem_vl import open_video, sample_frames


@dataclass
class Pictures:
    """Of one row: the pictures in order, and whether they are the frames of one video."""

    images: list[Any] = field(default_factory=list)
    is_video: bool = False


def rows_of_pictures(images, videos, rows: int, num_frames: int | None = None) -> list[Pictures]:
    """``images`` and ``videos`` of a call, for each of its rows.

    Args:
        images: a picture, or one entry a row: a picture, a list of pictures, or None.
        videos: one entry a row: a video, or None or an empty list; for a single row the video itself will do. A video
            is what ``open_video`` opens (a path, a list of frames) or an array [frames, H, W, 3]; chat templates wrap
            it in a list of one.
        num_frames: that many frames of each video, from all over it; default all.

    Raises:
        ValueError: naming the row: not one entry a row, images and a video in one row, several videos, no frames, a
            video that cannot be opened, frames of different sizes.
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
        found.append(Pictures(_frames(number, video, num_frames), is_video=True))
    return found


def _is_frame(one) -> bool:
    return isinstance(one, Image.Image) or (isinstance(one, (np.ndarray, torch.Tensor)) and one.ndim == 3)


def _is_path(one) -> bool:
    return isinstance(one, (str, os.PathLike))


def _videos_by_row(videos, rows: int) -> list:
    if videos is None:
        return [None] * rows
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return [videos] if videos.ndim == 4 else list(videos)
    if _is_path(videos):
        return [videos]
    videos = list(videos)
    if rows == 1 and (not videos or _is_frame(videos[0]) or (len(videos) > 1 and _is_path(videos[0]))):
        return [videos]
    # a batch of chats, some of them without a video, comes with an empty list for those
    some = any(video is not None and len(video) for video in videos if not _is_path(video) and not _is_frame(video))
    return [None if some and isinstance(video, (list, tuple)) and not video else video for video in videos]


def _frames(number: int, video, num_frames: int | None) -> list[Image.Image]:
    """The frames of one video as pictures."""
    if isinstance(video, (list, tuple)) and len(video) == 1 and not _is_frame(video[0]):  # a list of videos, of one
        video = video[0]
    try:
        if _is_path(video):
            return open_video(video, num_frames)
        if isinstance(video, Image.Image) or not hasattr(video, "__iter__"):
            raise ValueError(f"a video is a list of frames or a path, not one {type(video).__name__}")
        frames = list(video)
        if not frames:
            raise ValueError("its video has no frames; give at least one, or None for a row without")
        for frame in frames:
            if not (_is_frame(frame) or _is_path(frame)):
                raise ValueError(
                    "a video is a list of frames (pictures, paths or arrays [H, W, 3]); one of its entries is a "
                    f"{type(frame).__name__}; a row takes one video"
                )
        frames = sample_frames(frames, num_frames) if num_frames else frames
        return open_video([_from_array(f) if isinstance(f, (np.ndarray, torch.Tensor)) else f for f in frames])
    except ValueError as error:
        raise ValueError(f"sample {number}: {error}") from error


def _from_array(frame) -> Image.Image:
    array = np.asarray(frame)
    if array.shape[0] == 3 and array.shape[2] != 3:  # channels first, as torch has them
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.shape[2] != 3:
        raise ValueError(f"a frame is {array.shape} of {array.dtype}; give [H, W, 3] of uint8")
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
