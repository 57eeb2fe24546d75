"""Writes small films."""

from pathlib import Path

import pytest
from PIL import Image


def write_mp4(path: Path, images: list[Image.Image]) -> None:
    """Write images of one size, with even sides, as an MP4 of ten frames a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *images[0].size, "yuv420p", 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
