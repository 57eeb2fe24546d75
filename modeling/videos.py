"""Opens videos, pairs the images and videos of a processor's call with its rows, and makes pixel tensors of them.

A video is given as an animated image, a folder of numbered images, a list of images or a video file. Pillow reads GIF,
WebP and APNG. PyAV, an optional package, decodes video files (MP4, WebM, MOV and others).

In reading order: opening one video (``open_video``), sorting the images and videos of a call by row
(``pair_with_rows``), and the tensors that the model takes (``pixel_inputs``).
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .image_forms import are_several, from_array
from .images import VIDEO_SUFFIXES, ImageError, ImageSource, check_size, most_pixels, ready_image
from .video_files import of_one_size, open_animation, open_video_file, sampled_indices

if TYPE_CHECKING:  # importing it takes seconds, and a damaged image is said before
    from transformers import BaseImageProcessor

VideoSource = str | os.PathLike[str] | Sequence[ImageSource]
VIDEO_MARK = "<video>"  # says in a text where the frames of a video stand
Video = VideoSource | np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor]  # as a processor takes it

# of the files that are frames in a folder; others there are passed over
FRAME_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
STILL_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}  # of formats that are taken for one image each

EXTREME = 64  # times as long as wide: such an image is cropped before it is resized, where it would be afterwards
KEPT = 32  # times as long as wide is at least what is left of it


def open_video(source: VideoSource, number: int | None = None, deadline: float | None = None) -> list[Image.Image]:
    """Open the frames of a video. A single image is a video of one frame.

    Args:
        source (VideoSource): A video file, an animated GIF, WebP or APNG, a folder of images whose names hold their
            number ("frame-2.png" stands before "frame-10.png"), or a list of paths or PIL images. URLs are refused.
        number (int | None): How many frames to choose, as ``sample_frames`` does. Only these are kept in memory. None
            means all frames.
        deadline (float | None): The ``time.monotonic()`` at which the decoding of one file is given up. None means
            never.

    Returns:
        list[Image.Image]: The frames in order, upright, in mode RGB and all of one size.

    Raises:
        ImageError: The video has no frames or frames of different sizes, more pixels in all frames together than one
            image may have (``check_size``), more in its file than are decoded (``MOST_DECODED``), a file is missing or
            cannot be read, or the deadline has passed.
        ImportError: The source is a video file, and PyAV is not installed.
        ValueError: ``number`` is below 1.
    """
    if number is not None and number < 1:
        raise ValueError(f"the number of frames (num_frames) must be at least 1, got {number}")
    if isinstance(source, str | os.PathLike):
        name, path = str(os.fspath(source)), Path(source)
        if path.is_dir():
            return _open_list(_numbered_files(path), number, name)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            return open_video_file(path, number, deadline)
        return open_animation(path, number, name, deadline)
    if isinstance(source, Image.Image) or not isinstance(source, Sequence) or isinstance(source, bytes):
        raise ImageError(f"{type(source).__name__}: no video; give a path or a list of paths or PIL images")
    return _open_list(source, number, "the list of frames")


def sample_frames(frames: Sequence[Any], number: int) -> list[Any]:
    """Choose frames from all over a video: it is cut into equal parts, and the middle frame of each part is taken.

    Args:
        frames (Sequence[Any]): The frames in order.
        number (int): How many frames to choose.

    Returns:
        list[Any]: Always ``number`` frames. If the video has fewer, some of them are repeated.

    Raises:
        ValueError: There are no frames, or ``number`` is below 1.
    """
    if not frames or number < 1:
        raise ValueError(f"{number} of {len(frames)} frames: both must be at least 1")
    return [frames[index] for index in sampled_indices(len(frames), number)]


def _numbered_files(folder: Path) -> list[Path]:
    """List the images of a folder in the order of the numbers in their names."""
    paths = [
        path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise ImageError(f"{folder}: no images in this folder; put the frames there as frame-0001.png and so on")
    return sorted(paths, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"([0-9]+)", path.name)])


def _open_list(images: Sequence[ImageSource], number: int | None, name: str) -> list[Image.Image]:
    """Open images that are the frames of a video."""
    if not images:
        raise ImageError(f"{name}: no frames; give at least one")
    frames: list[Image.Image] = []
    for image in sample_frames(images, number) if number else images:
        frames.append(ready_image(image))
        if not isinstance(image, Image.Image):  # those that are given as images are in memory already
            check_size(*frames[-1].size, name, len(frames))
    return of_one_size(frames, name)


@dataclass
class ImagesAndVideos:
    """Holds the opened images and videos of one row.

    Args:
        images (list[Image.Image]): The images in order.
        videos (list[list[Image.Image]]): The videos in order, each as its frames.
    """

    images: list[Image.Image] = field(default_factory=list)
    videos: list[list[Image.Image]] = field(default_factory=list)

    def in_order(self, order: Sequence[bool]) -> list[Image.Image]:
        """List all images and frames in the order in which they stand in the text.

        Args:
            order (Sequence[bool]): One entry for each image and each video, in the order of the text: True for a video.

        Returns:
            list[Image.Image]: The images, and in the place of each video all of its frames.
        """
        images, videos = iter(self.images), iter(self.videos)
        return [image for is_video in order for image in (next(videos) if is_video else [next(images)])]


def pair_with_rows(
    images: ImageSource | Sequence[ImageSource | Sequence[ImageSource] | None] | None,
    videos: Video | Sequence[Video | Sequence[Video] | None] | None,
    rows: int,
    num_frames: int | None = None,
) -> list[ImagesAndVideos]:
    """Sort the images and videos of a processor's call by row, and open each of them once.

    Args:
        images (ImageSource | Sequence[ImageSource | Sequence[ImageSource] | None] | None): One image, or one entry per
            row: an image, a list of images, or None. For a single row, a list of images is enough.
        videos (Video | Sequence[Video | Sequence[Video] | None] | None): One entry per row: a video, a list of videos,
            or None. For a single row, the video itself is enough. A video is anything that ``open_video`` takes, or
            arrays of its frames: [frames, H, W, 3] of uint8, or channels first. If any row has a video that is not a
            path, an empty list means a row without one.
        rows (int): B, the number of rows.
        num_frames (int | None): How many frames of each video to choose, as ``sample_frames`` does. None means all.

    Returns:
        list[ImagesAndVideos]: The images and videos of each of the B rows.

    Raises:
        ValueError: There is not one entry per row, or a video has no frames, has frames of several sizes or cannot be
            opened. The message names the row of a video.
        ImageError: An image cannot be used. The message names its path.
    """
    images_by_row, videos_by_row = _images_by_row(images, rows), _videos_by_row(videos, rows)
    if not len(images_by_row) == len(videos_by_row) == rows:
        given = [("texts", rows)]
        given += [("images", len(images_by_row))] if images is not None else []
        given += [("videos", len(videos_by_row))] if videos is not None else []
        said = " and ".join(f"{number} {name[: -1 if number == 1 else None]}" for name, number in given)
        raise ValueError(
            f"{said} do not pair up; give one entry of each per row (a list for several, None for a row without)"
        )
    opened_videos = [
        [_open_frames(row, video, num_frames) for video in of_row] for row, of_row in enumerate(videos_by_row)
    ]
    opened_images = [[ready_image(image) for image in of_row] for of_row in images_by_row]
    return [ImagesAndVideos(*of_row) for of_row in zip(opened_images, opened_videos, strict=True)]


def _images_by_row(images: Any, rows: int) -> list[list[ImageSource]]:
    """Turn the argument ``images`` into a list of images per row."""
    if images is None:
        return [[] for _ in range(rows)]
    if _is_array(images) and images.ndim == 4:  # [n, H, W, 3]
        images = list(images)
    if not are_several(images):
        return [[images]]
    images = list(images)  # a column reads its rows anew each time it is looked at
    if rows == 1 and len(images) > 1 and not any(isinstance(entry, (list, tuple)) for entry in images):
        return [images]  # all of them belong to the only text
    return [[] if entry is None else list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in images]


def _videos_by_row(videos: Any, rows: int) -> list[list[Video]]:
    """Turn the argument ``videos`` into a list of videos per row.

    A list may hold frames, videos or rows. What its first entry is tells which.
    """
    if videos is None:
        return [[] for _ in range(rows)]
    if _is_array(videos):  # [frames, H, W, 3], or one more dimension for the rows
        return [_videos_of_row(video) for video in ([videos] if videos.ndim == 4 else videos)]
    if _is_path(videos):
        return [[videos]]
    entries = list(videos)
    if rows == 1 and (not entries or _is_still(entries[0])):
        return [[entries]]  # the frames of the only row's video
    # A batch of chats has an empty list for a row without a video. If no row has one, it is a video without frames.
    if any(entry is not None and len(entry) for entry in entries if not _is_path(entry) and not _is_frame(entry)):
        entries = [None if isinstance(entry, (list, tuple)) and not entry else entry for entry in entries]
    return [_videos_of_row(entry) for entry in entries]


def _videos_of_row(entry: Any) -> list[Video]:
    """Turn one row's entry into a list of videos: it is None, one video, or a list of videos."""
    if entry is None:
        return []
    is_list_of_videos = isinstance(entry, (list, tuple)) and entry and not _is_still(entry[0])
    return list(entry) if is_list_of_videos or (_is_array(entry) and entry.ndim == 5) else [entry]


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim == 3)


def _is_still(value: Any) -> bool:
    """Tell whether a value is one frame or the path of one, and so no video."""
    return _is_frame(value) or (_is_path(value) and Path(value).suffix.lower() in STILL_SUFFIXES)


def _open_frames(row: int, video: Any, num_frames: int | None) -> list[Image.Image]:
    """Open the frames of one video in any form that a processor takes. Errors name the row."""
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
                    "a video is a list of frames (images, paths or arrays [H, W, 3]); one of its entries is a "
                    f"{type(frame).__name__}"
                )
        frames = frames if num_frames is None else sample_frames(frames, num_frames)
        return open_video([from_array(frame) if _is_array(frame) else frame for frame in frames])
    except ValueError as error:
        raise ValueError(f"sample {row}: {error}") from error


def pixel_inputs(
    rows: Sequence[Sequence[Image.Image]], image_processor: "BaseImageProcessor", options: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Make the tensors that the model takes of the images of B rows.

    Args:
        rows (Sequence[Sequence[Image.Image]]): The images and frames of each row, in mode RGB and in order.
        image_processor (BaseImageProcessor): The image processor of the vision tower.
        options (dict[str, Any]): Keyword arguments for it.

    Returns:
        dict[str, torch.Tensor]: ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B] if no row has more than one image.
        Otherwise ``pixel_values`` [B, n, 3, H, W] and ``image_mask`` [B, n], where n is the largest number of images in
        a row. Places without an image are zeros. Without any image, the dict is empty.

    Raises:
        ImageError: An image would have more pixels than ``most_pixels()`` when its shortest edge is resized. The
            message names the row.
    """
    images = [
        before_resize(image, image_processor, options, f"sample {row}: image {number}")
        for row, of_row in enumerate(rows)
        for number, image in enumerate(of_row, 1)
    ]
    if not images:
        return {}
    largest = max(map(len, rows))  # n
    if guesses_channels(image_processor) and any(image.height in (1, 3) for image in images):
        options = {**options, "input_data_format": "channels_last"}
    pixels = image_processor(images=images, return_tensors="pt", **options)["pixel_values"]  # [I, 3, H, W]
    mask = torch.tensor([[place < len(row) for place in range(largest)] for row in rows])  # [B, n]
    if mask.all():
        pixel_values = pixels.unflatten(0, mask.shape)  # [B, n, 3, H, W]
    else:
        pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
        pixel_values[mask] = pixels
    if largest == 1:
        return {"pixel_values": pixel_values[:, 0], "image_mask": mask[:, 0]}
    return {"pixel_values": pixel_values, "image_mask": mask}


def guesses_channels(image_processor: "BaseImageProcessor") -> bool:
    """Say whether an image processor takes the rows of an image that is 1 or 3 pixels high for its channels.

    The slow ones of Transformers before 5.2 do. The fast ones are not told where the channels are, because not all of
    them take the argument. To those of later versions that use Pillow it makes no difference.

    Args:
        image_processor (BaseImageProcessor): The image processor.
    """
    try:
        from transformers.image_processing_utils_fast import BaseImageProcessorFast
    except ImportError:
        return False
    return not isinstance(image_processor, BaseImageProcessorFast)


def before_resize(
    image: Image.Image, image_processor: "BaseImageProcessor", options: Mapping[str, Any], name: str
) -> Image.Image:
    """Crop an image of extreme proportions before its shortest edge is resized, which would make it gigantic.

    This is done for an image that is more than ``EXTREME`` times as long as wide, if the image processor crops the
    centre afterwards. Its pixels are then the same within rounding.

    Args:
        image (Image.Image): The image.
        image_processor (BaseImageProcessor): The image processor.
        options (Mapping[str, Any]): Keyword arguments for it.
        name (str): Which image it is, for the error.

    Returns:
        Image.Image: What the image processor should be given: the centre of an extreme image, or else ``image``.

    Raises:
        ImageError: It would have more pixels than ``most_pixels()`` after it is resized.
    """

    def setting(option: str) -> Any:
        return options.get(option, getattr(image_processor, option, None))

    size = setting("size")
    if isinstance(size, int) and not getattr(image_processor, "default_to_square", True):
        size = {"shortest_edge": size}
    edge = _pixels_of(size, "shortest_edge")
    if not edge or not setting("do_resize") or _pixels_of(size, "longest_edge"):
        return image
    short, long = sorted(image.size)
    if long > EXTREME * short and setting("do_center_crop"):
        along = "width" if image.width == long else "height"
        seen = _pixels_of(setting("crop_size"), along) or edge  # of the resized image
        kept = max(KEPT * short, math.ceil(2 * seen * short / edge))
        # steps after which the resized image is shorter by an even number of pixels, so that its centre stays
        step = 2 * short // math.gcd(short, edge)
        removed = max(0, (long - kept) // step * step)
        first, last = removed // 2, long - removed // 2
        box = (first, 0, last, short) if along == "width" else (0, first, short, last)
        image, long = image.crop(box), last - first
    if edge * (edge * long // short) > most_pixels():
        raise ImageError(
            f"{name}: its {image.width} x {image.height} pixels become {edge} by {edge * long // short} when the "
            f"shortest edge is resized to {edge}, more than the {most_pixels():,.0f} pixels that an image may have; "
            "crop it to other proportions"
        )
    return image


def _pixels_of(size: Any, edge: str) -> int | None:
    """Read a size of an image processor, which is a dictionary or an object of the library."""
    return size.get(edge) if isinstance(size, Mapping) else getattr(size, edge, None)
