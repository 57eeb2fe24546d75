"""The pictures that a call of the processor was given, row by row: images, or the frames of a video."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .images_adem_vl import open_image
from .videos_adem_vl import open_video, sample_frames

STILL = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # of files that hold one picture


@dataclass
class Pictures:
    """Of one row: its images, and its videos frame by frame."""

    images: list[Any] = field(default_factory=list)
    videos: list[list[Any]] = field(default_factory=list)

    def in_order(self, order: Sequence[bool]) -> list[Any]:
        """All pictures as they stand in the text; ``order`` is True for a video."""
        images, videos = iter(self.images), iter(self.videos)
        return [picture for is_video in order for picture in (next(videos) if is_video else [next(images)])]


def rows_of_pictures(images, videos, rows: int, num_frames: int | None = None) -> list[Pictures]:
    """``images`` and ``videos`` of a call, for each of its rows.

    Args:
        images: a picture, or one entry a row: a picture, a list of pictures, or None.
        videos: one entry a row: a video, a list of videos, or None or an empty list; for a single row the video itself
            will do. A video is what ``open_video`` opens (a path, a list of frames or of their paths) or an array
            [frames, H, W, 3].
        num_frames: that many frames of each video, from all over it; default all.

    Raises:
        ValueError: naming the row: not one entry a row, a video that has no frames or frames of several sizes, or that
            cannot be opened.
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
        found.append(Pictures(given, [_frames(number, one, num_frames) for one in _videos_of_row(video)]))
    return found


def _is_frame(one) -> bool:
    return isinstance(one, Image.Image) or (isinstance(one, (np.ndarray, torch.Tensor)) and one.ndim == 3)


def _is_path(one) -> bool:
    return isinstance(one, (str, os.PathLike))


def _is_still(one) -> bool:
    """A frame, or the path of one."""
    return _is_frame(one) or (_is_path(one) and Path(one).suffix.lower() in STILL)


def _videos_by_row(videos, rows: int) -> list:
    if videos is None:
        return [None] * rows
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return [videos] if videos.ndim == 4 else list(videos)
    if _is_path(videos):
        return [videos]
    videos = list(videos)
    if rows == 1 and (not videos or _is_still(videos[0])):
        return [videos]
    # a batch of chats, some of them without a video, comes with an empty list for those
    some = any(video is not None and len(video) for video in videos if not _is_path(video) and not _is_frame(video))
    return [None if some and isinstance(video, (list, tuple)) and not video else video for video in videos]


def _videos_of_row(video) -> list:
    if video is None:
        return []
    if isinstance(video, (list, tuple)) and video and not _is_still(video[0]):
        return list(video)
    if isinstance(video, (np.ndarray, torch.Tensor)) and video.ndim == 5:
        return list(video)
    return [video]


def _frames(number: int, video, num_frames: int | None) -> list[Image.Image]:
    """The frames of one video as pictures."""
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
                    f"{type(frame).__name__}"
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


def pixels_of_rows(rows: Sequence[Sequence[Any]], image_processor, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the model takes of each row's pictures; nothing where there are none. ``options``: the image processor's.

    Returns:
        ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B] where no row has more than one, else ``pixel_values``
        [B, n, 3, H, W] and ``image_mask`` [B, n]; zeros where there is none.
    """
    given = [open_image(image) for row in rows for image in row]
    if not given:
        return {}
    most = max(map(len, rows))
    pixels = image_processor(images=given, return_tensors="pt", **options)["pixel_values"]  # [I, 3, H, W]
    mask = torch.tensor([[place < len(row) for place in range(most)] for row in rows])  # [B, n]
    pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
    pixel_values[mask] = pixels
    if most == 1:
        return {"pixel_values": pixel_values[:, 0], "image_mask": mask[:, 0]}
    return {"pixel_values": pixel_values, "image_mask": mask}
