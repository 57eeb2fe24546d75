"""Frames from whatever a user has: an animated picture, a folder of numbered pictures, a list of them, a video file.

GIF, WebP and APNG are read by Pillow. Video files (MP4, WebM, MOV ...) are decoded by PyAV, which is optional.
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

from .images import ImageError, ImageSource, open_image

VideoSource = str | os.PathLike[str] | Sequence[ImageSource]

FRAME_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # of a folder; others are passed over
VIDEO_FILES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts"}


def open_video(source: VideoSource, number: int | None = None) -> list[Image.Image]:
    """The frames of a video in order, upright, RGB, all of one size; a single picture is a video of one frame.

    Args:
        source: A video file, an animated GIF, WebP or APNG, a folder of pictures whose names hold their number
            ("frame-2.png" stands before "frame-10.png"), or a list of paths or PIL images. URLs are refused.
        number: That many frames, chosen as ``sample_frames`` does, and no others are kept in memory; default all.

    Raises:
        ImageError: (a ValueError) No frames, frames of different sizes, a file that is missing or cannot be read.
        ImportError: A video file, and PyAV is not installed.
    """
    if number is not None and number < 1:
        raise ValueError(f"number must be at least 1, got {number}")
    if isinstance(source, str | os.PathLike):
        name, path = str(os.fspath(source)), Path(source)
        if path.is_dir():
            return _from_pictures(_numbered(path), number, name)
        if path.suffix.lower() in VIDEO_FILES and path.is_file():
            return _decoded(path, number)
        return _animation(path, number, name)
    if isinstance(source, Image.Image) or not isinstance(source, Sequence) or isinstance(source, bytes):
        raise ImageError(f"{type(source).__name__}: no video; give a path or a list of paths or PIL images")
    return _from_pictures(source, number, "the list of frames")


def sample_frames(frames: Sequence[Any], number: int) -> list[Any]:
    """``number`` frames from all over a video: the middle one of each of ``number`` equal stretches of it.

    A video with fewer frames has some of them repeated, so that the result is always ``number`` long.

    Raises:
        ValueError: No frames, or a ``number`` below 1.
    """
    if not frames or number < 1:
        raise ValueError(f"{number} of {len(frames)} frames: both must be at least 1")
    return [frames[place] for place in _places(len(frames), number)]


def _places(size: int, number: int) -> list[int]:
    return [(2 * place + 1) * size // (2 * number) for place in range(number)]


# what Pillow raises for files that are cut short or damaged, by where
DAMAGED = (OSError, SyntaxError, EOFError, IndexError, ValueError, struct.error)


def _numbered(folder: Path) -> list[Path]:
    """The folder's pictures in the order of the numbers in their names."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in FRAME_FILES and not path.name.startswith(".")]
    if not paths:
        raise ImageError(f"{folder}: no pictures in this folder; put the frames there as frame-0001.png and so on")
    return sorted(paths, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"([0-9]+)", path.name)])


def _from_pictures(pictures: Sequence[ImageSource], number: int | None, name: str) -> list[Image.Image]:
    if not pictures:
        raise ImageError(f"{name}: no frames; give at least one")
    return _of_one_size([open_image(one) for one in (sample_frames(pictures, number) if number else pictures)], name)


def _animation(path: Path, number: int | None, name: str) -> list[Image.Image]:
    first = _first_frame(name)
    with Image.open(path) as animation:
        try:
            total = getattr(animation, "n_frames", 1)  # which reads through the file
        except DAMAGED as error:
            raise ImageError(f"{name}: damaged or truncated ({error}); export the file again") from error
        if total == 1:
            return [first] * (number or 1)
        frames: dict[int, Image.Image] = {}
        places = _places(total, number) if number else list(range(total))
        for place in sorted(set(places)):
            try:
                animation.seek(place)
                frames[place] = open_image(animation)
            except DAMAGED as error:
                raise ImageError(
                    f"{name}: frame {place} of {total} is damaged or truncated ({error}); export the file again"
                ) from error
    return _of_one_size([frames[place] for place in places], name)


def _first_frame(name: str) -> Image.Image:
    """What is no picture at all is said to be no video either."""
    try:
        return open_image(name)
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            known = ", ".join(sorted(VIDEO_FILES))
            raise ImageError(
                f"{name}: neither a picture that Pillow can read nor a video file by its ending ({known}); rename it "
                "or turn it into a GIF or a folder of frames"
            ) from error
        raise


def _decoded(path: Path, number: int | None) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"{path}: decoding video files needs the package 'av' (PyAV): pip install av; or turn it "
            f"into a folder of frames: ffmpeg -i {path.name} frames/%04d.png"
        ) from error
    # the number of frames that a container states is often wrong or missing: they are counted before they are chosen
    places = _places(sum(1 for _ in _frames(av, path)), number) if number else None
    wanted = set(places) if places else None
    kept: dict[int, Image.Image] = {}
    for place, frame in enumerate(_frames(av, path)):
        if wanted is None or place in wanted:
            image = frame.to_image()
            kept[place] = image.rotate(frame.rotation, expand=True) if frame.rotation else image
    return _of_one_size([kept[place] for place in places] if places else list(kept.values()), str(path))


def _frames(av: Any, path: Path) -> Iterable[Any]:
    """The decoded frames of the file's first video stream, at least one."""
    found = False
    try:
        # a playlist under a video's name must not have FFmpeg fetch what it lists
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
    for place, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise ImageError(
                f"{name}: frame {place} is {frame.width} x {frame.height} pixels, the first "
                f"{frames[0].width} x {frames[0].height}; scale or crop them to one size"
            )
    return frames


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
        found.append(Pictures(given, [_frames_of(number, one, num_frames) for one in _videos_of_row(video)]))
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


def _frames_of(number: int, video, num_frames: int | None) -> list[Image.Image]:
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
