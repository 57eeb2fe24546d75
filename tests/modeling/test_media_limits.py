"""Images and videos that would take the memory of a machine are refused at once, with the limit and how to raise it."""

import io
import struct
import zlib
from functools import partial

import pytest
import refusals
from PIL import Image

from adem_vl_hf.modeling.images import ImageError, open_image
from adem_vl_hf.modeling.videos import open_video

refused_at_once = partial(refusals.refused_at_once, ImageError)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def apng(frames, side=1):
    """An animated PNG of one frame whose header claims more."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    data = file.getvalue()
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 10, 0, 0))
    return data[:33] + chunk(b"acTL", struct.pack(">II", frames, 0)) + control + data[33:]


def gif(side, frames):
    file = io.BytesIO()
    images = [Image.new("RGB", (side, side), (6 * number, 0, 0)) for number in range(frames)]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


def film(path, width, height, frames):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
        container.mux(stream.encode())
    return path


def test_a_huge_image_that_compresses_well_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (9400, 9400)).save(path)  # 88 million pixels in 11 kB
    refused_at_once(lambda: open_image(path), r"bomb\.png: 9400 x 9400 pixels .* the 67,108,864 allowed .* raise")


@pytest.mark.parametrize(
    ("frames", "message"), [(60_000_000, "262,144 that a video may have"), (2**31 - 1, "raise MOST_FRAMES")]
)
@pytest.mark.parametrize("number", [None, 8])
def test_the_number_of_frames_in_a_header_is_not_believed(tmp_path, frames, message, number):
    path = tmp_path / "claims.gif"
    path.write_bytes(apng(frames))
    refused_at_once(lambda: open_video(path, number), message)


def test_a_header_that_claims_a_few_frames_too_many_is_damage(tmp_path):
    path = tmp_path / "claims.png"
    path.write_bytes(apng(100))
    refused_at_once(lambda: open_video(path), r"claims\.png: frame 1 of 100 is damaged or truncated")


def test_the_frames_of_an_animation_have_a_budget_together(tmp_path, monkeypatch):
    path = tmp_path / "long.gif"
    path.write_bytes(gif(300, 40))
    assert len(open_video(path)) == 40
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)  # 3,000,000 pixels together, of 3,600,000
    refused_at_once(lambda: open_video(path), r"40 frames of 300 x 300 pixels .* choose fewer \(num_frames\)")
    assert len(open_video(path, 2)) == 2


def test_what_has_to_be_decoded_of_an_animation_has_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "long.gif"
    path.write_bytes(gif(100, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)  # 11,250 pixels for an image, 360,000 to be decoded
    refused_at_once(lambda: open_video(path, 1), "40 frames of 100 x 100 pixels, all of which have to be decoded")


def test_the_frames_of_a_film_have_the_limit_of_an_image_and_a_budget_together(tmp_path, monkeypatch):
    path = film(tmp_path / "film.mp4", 640, 480, 12)
    assert len(open_video(path)) == 12
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    refused_at_once(lambda: open_video(path, 1), r"film\.mp4: 640 x 480 pixels are more than the 300,000 allowed")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)
    refused_at_once(lambda: open_video(path), "12 frames of 640 x 480 pixels are more than the 3,000,000 pixels")
    assert len(open_video(path, 9)) == 9


def test_a_film_with_a_tag_in_latin_1_opens(tmp_path):
    av = pytest.importorskip("av")
    path = film(tmp_path / "film.avi", 32, 32, 3)
    with av.open(str(path)) as source, av.open(str(tmp_path / "named.avi"), "w") as target:
        target.metadata["title"] = "Caf\u00e9 "
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "named.avi").read_bytes()
    assert "Café".encode() in data
    path.write_bytes(data.replace("Café ".encode(), b"Caf\xe9  "))
    assert len(open_video(path)) == 3


def test_transparency_is_put_on_white_the_same_in_bands(monkeypatch):
    image = Image.effect_noise((50, 60), 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((50, 60)))
    whole = open_image(image)
    monkeypatch.setattr("adem_vl_hf.modeling.images.BAND", 150)
    assert open_image(image).tobytes() == whole.tobytes()
