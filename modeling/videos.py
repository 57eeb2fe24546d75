"""Opens videos, pairs the images and videos of a processor's call with its rows, and makes pixel tensors of them.

A video is given as an animated image, a folder of numbered images, a list of images or a video file. Pillow reads GIF,
WebP and APNG. PyAV, an optional package, decodes video files (MP4, WebM, MOV and others).

In reading order: opening one video (``open_video``), sorting the images and videos of a call by row
(``pair_with_rows``), and the tensors that the model takes (``pixel_inputs``).
"""

import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers import BaseImageProcessor

from .image_forms import from_array
from .images import ImageError, ImageSource, open_image

VideoSource = str | os.PathLike[str] | Sequence[ImageSource]
VIDEO_MARK = "<video>"  # says in a text where the frames of a video stand
Video = VideoSource | np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor]  # as a processor takes it

# of the files that are frames in a folder; others there are passed over
FRAME_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts",
}  # fmt: skip
STILL_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}  # of formats that are taken for one image each

# Pillow raises these for a truncated or damaged file, depending on where the damage is
DAMAGED_FILE_ERRORS = (OSError, SyntaxError, EOFError, IndexError, ValueError, struct.error)


def open_video(source: VideoSource, number: int | None = None) -> list[Image.Image]:
    """Open the frames of a video. A single image is a video of one frame.

    Args:
        source (VideoSource): A video file, an animated GIF, WebP or APNG, a folder of images whose names hold their
            number ("frame-2.png" stands before "frame-10.png"), or a list of paths or PIL images. URLs are refused.
        number (int | None): How many frames to choose, as ``sample_frames`` does. Only these are kept in memory. None
            means all frames.

    Returns:
        list[Image.Image]: The frames in order, upright, in mode RGB and all of one size.

    Raises:
        ImageError: The video has no frames or frames of different sizes, or a file is missing or cannot be read.
        ImportError: The source is a video file, and PyAV is not installed.
        ValueError: ``number`` is below 1.
    """
    if number is not None and number < 1:
        raise ValueError(f"number must be at least 1, got {number}")
    if isinstance(source, str | os.PathLike):
        name, path = str(os.fspath(source)), Path(source)
        if path.is_dir():
            return _open_list(_numbered_files(path), number, name)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            return _open_video_file(path, number)
        return _open_animation(path, number, name)
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
    return [frames[index] for index in _sampled_indices(len(frames), number)]


def _sampled_indices(size: int, number: int) -> list[int]:
    """Compute which frames ``sample_frames`` chooses of ``size`` frames."""
    return [(2 * part + 1) * size // (2 * number) for part in range(number)]


def _numbered_files(folder: Path) -> list[Path]:
    """List the images of a folder in the order of the numbers in their names."""
    paths = [
        path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise ImageError(f"{folder}: no pictures in this folder; put the frames there as frame-0001.png and so on")
    return sorted(paths, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"([0-9]+)", path.name)])


def _open_list(images: Sequence[ImageSource], number: int | None, name: str) -> list[Image.Image]:
    """Open images that are the frames of a video."""
    if not images:
        raise ImageError(f"{name}: no frames; give at least one")
    chosen = sample_frames(images, number) if number else images
    return _of_one_size([open_image(image) for image in chosen], name)


def _open_animation(path: Path, number: int | None, name: str) -> list[Image.Image]:
    """Open the frames of a file that Pillow reads."""
    first = _open_first_frame(name)
    with Image.open(path) as animation:
        try:
            total = getattr(animation, "n_frames", 1)  # reads the whole file
        except DAMAGED_FILE_ERRORS as error:
            raise ImageError(f"{name}: damaged or truncated ({error}); export the file again") from error
        if total == 1:
            return [first] * (number or 1)
        frames: dict[int, Image.Image] = {}
        indices = _sampled_indices(total, number) if number else list(range(total))
        for index in sorted(set(indices)):
            try:
                animation.seek(index)
                frames[index] = open_image(animation)
            except DAMAGED_FILE_ERRORS as error:
                raise ImageError(
                    f"{name}: frame {index} of {total} is damaged or truncated ({error}); export the file again"
                ) from error
    return _of_one_size([frames[index] for index in indices], name)


def _open_first_frame(name: str) -> Image.Image:
    """Open a file as an image. The error for a file that is not an image says that it is not a video either."""
    try:
        return open_image(name)
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            known = ", ".join(sorted(VIDEO_SUFFIXES))
            raise ImageError(
                f"{name}: neither a picture that Pillow can read nor a video file by its ending ({known}); rename it "
                "or turn it into a GIF or a folder of frames"
            ) from error
        raise


def _open_video_file(path: Path, number: int | None) -> list[Image.Image]:
    """Open the frames of a file that PyAV decodes."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"{path}: decoding video files needs the package 'av' (PyAV): pip install av; or turn it "
            f"into a folder of frames: ffmpeg -i {path.name} frames/%04d.png"
        ) from error
    # the number of frames that a container states is often wrong or missing, so they are counted before they are chosen
    indices = _sampled_indices(sum(1 for _ in _decode(av, path)), number) if number else None
    wanted = set(indices) if indices else None
    kept: dict[int, Image.Image] = {}
    for index, frame in enumerate(_decode(av, path)):
        if wanted is None or index in wanted:
            image = frame.to_image()
            kept[index] = open_image(image.rotate(frame.rotation, expand=True) if frame.rotation else image)
    return _of_one_size([kept[index] for index in indices] if indices else list(kept.values()), str(path))


def _decode(av: Any, path: Path) -> Iterable[Any]:
    """Decode the frames of the file's first video stream, at least one."""
    found = False
    try:
        # FFmpeg would otherwise fetch what a playlist under the name of a video lists
        with av.open(str(path.resolve()), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ImageError(f"{path}: holds no video stream; give a file with pictures in it")
            for frame in container.decode(container.streams.video[0]):
                found = True
                yield frame
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be decoded ({reason}); export it again, as H.264 in MP4, say") from error
    if not found:
        raise ImageError(f"{path}: no frames in this video; export it again")


def _of_one_size(frames: list[Image.Image], name: str) -> list[Image.Image]:
    """Return the frames as they are, or refuse them if their sizes differ."""
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise ImageError(
                f"{name}: frame {index} is {frame.width} x {frame.height} pixels, the first "
                f"{frames[0].width} x {frames[0].height}; scale or crop them to one size"
            )
    return frames


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
        raise ValueError(
            f"{rows} texts, {len(images_by_row)} images and {len(videos_by_row)} videos do not pair up; give one entry "
            "of each per row (a list for several images, None for a row without)"
        )
    opened_videos = [
        [_open_frames(row, video, num_frames) for video in of_row] for row, of_row in enumerate(videos_by_row)
    ]
    opened_images = [[open_image(image) for image in of_row] for of_row in images_by_row]
    return [ImagesAndVideos(*of_row) for of_row in zip(opened_images, opened_videos, strict=True)]


def _images_by_row(images: Any, rows: int) -> list[list[ImageSource]]:
    """Turn the argument ``images`` into a list of images per row."""
    if images is None:
        return [[] for _ in range(rows)]
    if _is_array(images) and images.ndim == 4:  # [n, H, W, 3]
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [[images]]
    if rows == 1 and len(images) > 1 and not any(isinstance(entry, (list, tuple)) for entry in images):
        return [list(images)]  # all of them belong to the only text
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
                    "a video is a list of frames (pictures, paths or arrays [H, W, 3]); one of its entries is a "
                    f"{type(frame).__name__}"
                )
        frames = sample_frames(frames, num_frames) if num_frames else frames
        return open_video([from_array(frame) if _is_array(frame) else frame for frame in frames])
    except ValueError as error:
        raise ValueError(f"sample {row}: {error}") from error


def pixel_inputs(
    rows: Sequence[Sequence[Image.Image]], image_processor: BaseImageProcessor, options: dict[str, Any]
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
    """
    images = [image for row in rows for image in row]
    if not images:
        return {}
    largest = max(map(len, rows))  # n
    pixels = image_processor(images=images, return_tensors="pt", **options)["pixel_values"]  # [I, 3, H, W]
    mask = torch.tensor([[place < len(row) for place in range(largest)] for row in rows])  # [B, n]
    pixel_values = pixels.new_zeros(*mask.shape, *pixels.shape[1:])  # [B, n, 3, H, W]
    pixel_values[mask] = pixels
    if largest == 1:
        return {"pixel_values": pixel_values[:, 0], "image_mask": mask[:, 0]}
    return {"pixel_values": pixel_values, "image_mask": mask}
