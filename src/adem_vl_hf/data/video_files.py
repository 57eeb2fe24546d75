"""Videos as files: opened by the same code that travels beside the model on the Hub, and written as GIFs."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from adem_vl_hf.modeling.videos_adem_vl import VideoSource, open_video, sample_frames

from ..files import replacing

__all__ = ["VideoSource", "open_video", "sample_frames", "save_gif"]


def save_gif(frames: Sequence[Image.Image], path: str | os.PathLike[str], milliseconds: int = 150) -> None:
    """Writes the frames as a GIF that repeats for ever; its palette of 256 colours changes the pixels a little.

    Raises:
        ValueError: No frames.
    """
    if not frames:
        raise ValueError(f"{path}: no frames to write; give at least one")
    # a palette for each frame: Pillow's common one lets colours flicker
    first, *others = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
    with replacing(Path(path)) as beside:
        first.save(beside, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
