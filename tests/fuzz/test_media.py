"""Damaged images and videos of every format that Pillow and PyAV write here: each opens, or is refused by its name."""

import io

import pytest
import tiny
from PIL import Image, features

pytest.importorskip("hypothesis")
from fuzzing import damaged_bytes, fuzz, write

from adem_vl_hf.modeling.images import open_image
from adem_vl_hf.modeling.videos import open_video

pytestmark = pytest.mark.slow

FORMATS = {
    "png": {}, "jpg": {}, "gif": {}, "webp": {}, "tif": {"compression": "tiff_lzw"}, "bmp": {}, "ico": {}, "ppm": {},
    "tga": {}, "dds": {}, "jp2": {}, "avif": {}, "pcx": {}, "sgi": {}, "icns": {},
}  # fmt: skip
CONTAINERS = {"mp4": "mpeg4", "avi": "mpeg4", "mkv": "mpeg4", "webm": "libvpx", "mov": "mjpeg", "mpg": "mpeg1video"}


def images():
    """A file of each format, some in several modes, and an animation."""
    found = []
    for suffix, options in FORMATS.items():
        if suffix == "avif" and not features.check("avif"):
            continue
        for mode in ("RGB", "RGBA", "P", "L", "I;16", "1"):
            file = io.BytesIO()
            try:
                kind = Image.registered_extensions()[f".{suffix}"]
                tiny.picture().resize((32, 32)).convert(mode).save(file, kind, **options)
            except (OSError, ValueError, KeyError):  # a format without this mode, or not built in
                continue
            found.append((suffix, file.getvalue()))
    frames = [tiny.picture(seed).resize((32, 32)) for seed in range(4)]
    for suffix, kind in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        found.append((suffix, file.getvalue()))
    return found


def videos(folder):
    """A file of each container, one of them with a title in Latin-1."""
    av = pytest.importorskip("av")
    found = []
    for suffix, codec in CONTAINERS.items():
        path = folder / f"film.{suffix}"
        try:
            with av.open(str(path), "w") as container:
                container.metadata["title"] = "Café"
                stream = container.add_stream(codec, rate=25)
                stream.width = stream.height = 32
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                for seed in range(6):
                    frame = av.VideoFrame.from_image(tiny.picture(seed).resize((32, 32)))
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        except Exception:  # FFmpeg was built without this codec
            continue
        data = path.read_bytes()
        found += [(suffix, data), (suffix, data.replace("Café".encode(), b"Caf\xe9 "))]
    return found


def test_images(tmp_path):
    from hypothesis import strategies as st

    sources = images()
    assert len({suffix for suffix, _ in sources}) > 8
    one = st.sampled_from(sources).flatmap(lambda one: st.tuples(st.just(one[0]), damaged_bytes([one[1]])))

    def check(outcomes, drawn):
        suffix, data = drawn
        path = write(tmp_path / f"image.{suffix}", data)
        outcomes.run(lambda: open_image(path), [path], suffix)
        outcomes.run(lambda: open_video(path), [path], f"{suffix} as a video")

    fuzz("images and animations", 250, one, check)


def test_videos(tmp_path):
    from hypothesis import strategies as st

    sources = videos(tmp_path)
    assert sources
    one = st.sampled_from(sources).flatmap(lambda one: st.tuples(st.just(one[0]), damaged_bytes([one[1]])))

    def check(outcomes, drawn):
        suffix, data = drawn
        path = write(tmp_path / f"damaged.{suffix}", data)
        outcomes.run(lambda: open_video(path, 4), [path], suffix)

    fuzz("video files", 150, one, check)
