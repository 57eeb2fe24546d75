"""Decodes the frames of one file: of an animated image with Pillow, of a video file with PyAV, an optional package.

What a header says about the number and the size of frames is enough to refuse a file, and is never relied on.
"""

import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from .images import VIDEO_SUFFIXES, ImageError, check_size, most_pixels, open_image

MOST_FRAMES = 2**18  # of a video, more than two hours of it
MOST_DECODED = MOST_FRAMES * 2**21  # pixels of a video file: as many frames of 1920 x 1080
# times the pixels of an image: what may be decoded of an animated image, whose frames depend on all before them
ANIMATION_SHARE = 32


def sampled_indices(size: int, number: int) -> list[int]:
    """Compute which frames are chosen of a video: the middle one of each of so many equal parts.

    Args:
        size (int): The number of frames that there are.
        number (int): The number of frames to choose.

    Returns:
        list[int]: Their indices, in ascending order.
    """
    return [(2 * part + 1) * size // (2 * number) for part in range(number)]


def open_animation(path: Path, number: int | None, name: str, deadline: float | None = None) -> list[Image.Image]:
    """Open the frames of a file that Pillow reads.

    Args:
        path (Path): The file.
        number (int | None): How many frames to choose. None means all.
        name (str): The name of the file in errors.
        deadline (float | None): The ``time.monotonic()`` at which decoding is given up. None means never.

    Returns:
        list[Image.Image]: The frames in order, in mode RGB.

    Raises:
        ImageError: The file is damaged, no image, has more frames or pixels than are allowed, or takes too long.
    """
    first = _open_first_frame(name)
    with Image.open(path) as animation:
        try:
            total = getattr(animation, "n_frames", 1)  # reads the whole file
        except Exception as error:
            raise _damaged(name, "", error) from error
        if total == 1:
            return [first] * (number or 1)
        _check_length(total, name)
        check_size(*animation.size, name, number or total)
        width, height = animation.size
        if width * height * total > ANIMATION_SHARE * most_pixels():
            raise ImageError(
                f"{name}: {total:,} frames of {width} x {height} pixels, all of which have to be decoded, are too "
                "many; scale it down, turn it into a video file, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust its "
                "origin"
            )
        frames: dict[int, Image.Image] = {}
        indices = sampled_indices(total, number) if number else range(total)
        for index in indices:
            if index in frames:
                continue
            _check_time(deadline, name, "scale it down, or turn it into a video file")
            try:
                animation.seek(index)
                frames[index] = open_image(animation)
            except MemoryError:
                raise
            except Exception as error:
                raise _damaged(name, f"frame {index} of {total} is ", error) from error
    return of_one_size([frames[index] for index in indices], name)


def _damaged(name: str, what: str, error: Exception) -> ImageError:
    """Make the error for a file in which Pillow finds damage, by whatever exception it says so."""
    return ImageError(f"{name}: {what}damaged or truncated ({error}); export the file again")


def _check_time(deadline: float | None, name: str, remedy: str) -> None:
    """Give up after the time that there is for decoding."""
    if deadline is not None and time.monotonic() > deadline:
        raise ImageError(f"{name}: takes too long to decode; {remedy}")


def _check_length(frames: int, name: str) -> None:
    """Refuse more frames than anybody has use for."""
    if frames > MOST_FRAMES:
        raise ImageError(
            f"{name}: {frames:,} frames are more than the {MOST_FRAMES:,} that a video may have; cut it, or raise "
            f"MOST_FRAMES in {__name__}"
        )


def _open_first_frame(name: str) -> Image.Image:
    """Open a file as an image. The error for a file that is not an image says that it is not a video either."""
    try:
        return open_image(name)
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            known = ", ".join(sorted(VIDEO_SUFFIXES))
            raise ImageError(
                f"{name}: neither an image that Pillow can read nor a video file by its ending ({known}); rename it "
                "or turn it into a GIF or a folder of frames"
            ) from error
        raise


def open_video_file(path: Path, number: int | None, deadline: float | None = None) -> list[Image.Image]:
    """Open the frames of a file that PyAV decodes.

    Args:
        path (Path): The file.
        number (int | None): How many frames to choose. None means all.
        deadline (float | None): The ``time.monotonic()`` at which decoding is given up. None means never.

    Returns:
        list[Image.Image]: The frames in order, upright, in mode RGB.

    Raises:
        ImageError: The file is damaged, holds no video, has more frames or pixels than are allowed, or takes too long.
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"{path}: decoding video files needs the package 'av' (PyAV): pip install av; or turn it "
            f"into a folder of frames: ffmpeg -i {path.name} frames/%04d.png"
        ) from error
    # the number of frames that a container states is often wrong or missing, so they are counted before they are chosen
    indices = sampled_indices(sum(1 for _ in _decode(av, path, number, deadline)), number) if number else None
    wanted = set(indices) if indices else None
    kept: dict[int, Image.Image] = {}
    for index, frame in enumerate(_decode(av, path, number, deadline)):
        if wanted is None or index in wanted:
            check_size(frame.width, frame.height, str(path), len(kept) + 1)
            image = frame.to_image()
            kept[index] = open_image(image.rotate(frame.rotation, expand=True) if frame.rotation else image)
            if wanted is not None and len(kept) == len(wanted):
                break
    return of_one_size([kept[index] for index in indices] if indices else list(kept.values()), str(path))


def _decode(av: Any, path: Path, number: int | None, deadline: float | None) -> Iterable[Any]:
    """Decode the frames of the file's first video stream, at least one.

    What the header says about size and number is enough to refuse a file, and for nothing else.
    """
    frames = packets = pixels = 0
    smaller = f"cut it or scale it down (ffmpeg -i {shlex.quote(path.name)} -t 60 -vf scale=640:-2 smaller.mp4)"
    try:
        # FFmpeg would otherwise fetch what a playlist under the name of a video lists
        options = {"protocol_whitelist": "file"}
        with av.open(str(path.resolve()), options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise ImageError(f"{path}: holds no video stream; give a file with images in it")
            stream = container.streams.video[0]
            # An MP4 lists its frames one by one. Others state a number, which in an AVI from a pipe is 2**30.
            listed = stream.frames if "mp4" in container.format.name else 0
            if stream.width and stream.height:
                check_size(stream.width, stream.height, str(path), number or max(1, listed))
                _check_length(listed, str(path))
                _check_decoded(listed * stream.width * stream.height, listed, path, smaller)
            for packet in container.demux(stream):
                for frame in packet.decode():
                    frames += 1
                    _check_length(frames, str(path))
                    yield frame
                # A packet costs as much if its frame is not shown, and a frame if most of it is cut off.
                packets += 1
                coded = stream.codec_context
                pixels += max(coded.coded_width * coded.coded_height, coded.width * coded.height)
                _check_decoded(pixels, packets, path, smaller)
                _check_time(deadline, str(path), smaller)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # PyAV's own errors, and others on damaged data
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be decoded ({reason}); export it again, as H.264 in MP4, say") from error
    if not frames:
        raise ImageError(f"{path}: no frames in this video; export it again")


def _check_decoded(pixels: int, frames: int, path: Path, remedy: str) -> None:
    """Refuse a video file that has so many pixels that to decode them would take hours."""
    if pixels > MOST_DECODED:
        raise ImageError(
            f"{path}: {frames:,} frames with {pixels:,} pixels are more than the {MOST_DECODED:,} that are decoded of "
            f"a video; {remedy}, or raise MOST_DECODED in {__name__}"
        )


def of_one_size(frames: list[Image.Image], name: str) -> list[Image.Image]:
    """Return the frames as they are, or refuse them if their sizes differ.

    Args:
        frames (list[Image.Image]): The frames of a video.
        name (str): The name of the video in errors.

    Returns:
        list[Image.Image]: The same frames.

    Raises:
        ImageError: Two frames have different sizes.
    """
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise ImageError(
                f"{name}: frame {index} is {frame.width} x {frame.height} pixels, the first "
                f"{frames[0].width} x {frames[0].height}; scale or crop them to one size"
            )
    return frames
