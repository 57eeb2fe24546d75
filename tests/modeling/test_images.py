"""open_image: every kind of picture file a user may have, and a sentence for each one that cannot be used."""

import struct
import warnings
import zlib
from io import BytesIO, StringIO
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image, ImageFile

from adem_vl_hf.data.media import ImageError, open_image, resolve_image


def encoded(image, image_format="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG file of the stated size whose pixel data is missing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["path", "text path", "bytes", "file", "pil"])
def test_every_kind_of_source_gives_the_same_picture(tmp_path, kind):
    original = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    path = tmp_path / "a.png"
    original.save(path)
    with open(path, "rb") as file:
        source = {"path": path, "text path": str(path), "bytes": path.read_bytes(), "file": file, "pil": original}[kind]
        opened = open_image(source)
        assert not file.closed
    np.testing.assert_array_equal(pixels(opened), np.asarray(original))
    assert opened is not original


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation):
    stored = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, exif=exif))
    a = np.asarray(stored)
    upright = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.transpose(1, 0, 2),
        6: np.rot90(a, -1),
        7: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(a),
    }[orientation]
    np.testing.assert_array_equal(pixels(opened), upright)
    np.testing.assert_array_equal(pixels(open_image(opened)), upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0no exif at all", b"Exif\0\0II*\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_malformed_exif_leaves_the_pixels_as_stored(exif):
    image = Image.new("RGB", (4, 6), "red")
    image.info["exif"] = exif
    assert open_image(image).size == (4, 6)


def test_orientation_survives_another_malformed_exif_tag():
    tags = struct.pack("<2sHIH", b"II", 42, 8, 2)
    tags += struct.pack("<HHII", 0x0112, 3, 1, 6)  # orientation: a short
    tags += struct.pack("<HHI4s", 0x0128, 2, 1, b"x\0\0\0") + bytes(4)  # resolution unit: text where a short belongs
    assert open_image(encoded(Image.new("RGB", (4, 6)), "JPEG", exif=b"Exif\0\0" + tags)).size == (6, 4)


def test_cmyk_jpeg_keeps_its_colours():
    opened = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    np.testing.assert_allclose(pixels(opened)[4, 4], [255, 0, 0], atol=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_composited_on_white(mode):
    image = Image.new(mode, (2, 1))
    if mode == "PA":
        image.putpalette([0, 0, 0])
    black = (0, 0, 0) if mode == "RGBA" else (0,)
    image.putpixel((0, 0), (*black, 0))  # transparent
    image.putpixel((1, 0), (*black, 255))
    assert pixels(open_image(image)).tolist() == [[[255] * 3, [0] * 3]]


def test_grey_multiplied_by_its_alpha_is_read():
    grey = Image.new("LA", (2, 1))
    grey.putpixel((1, 0), (0, 255))
    assert pixels(open_image(grey.convert("La"))).tolist() == [[[255] * 3, [0] * 3]]


def test_half_transparent_pixels_are_mixed_with_white():
    assert pixels(open_image(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))).tolist() == [[[255, 127, 127]]]


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_palette_with_a_transparent_entry(image_format):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    opened = open_image(encoded(image, image_format, transparency=0))
    assert pixels(opened).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_greyscale_is_scaled_not_clipped(mode):
    values = np.array([[0, 257, 1000, 32768, 65407, 65535]])
    image = Image.fromarray(values.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]))
    assert image.mode == mode
    assert pixels(open_image(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 1, 4, 128, 255, 255]


def test_16_bit_png_with_a_transparent_grey():
    image = Image.fromarray(np.array([[1000, 1001]], dtype=np.uint16))
    assert pixels(open_image(encoded(image, transparency=1000)))[0, :, 0].tolist() == [255, 4]


def test_one_bit_image():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(open_image(encoded(image)))[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(image_format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ["red", "blue"]]
    options = {"lossless": True} if image_format == "WEBP" else {}
    opened = open_image(encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options))
    assert pixels(opened)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", [bytearray, memoryview])
def test_other_kinds_of_bytes(form):
    assert open_image(form(encoded(Image.new("RGB", (4, 4), "red")))).getpixel((0, 0)) == (255, 0, 0)


def test_arrays_of_integers_and_booleans():
    red = np.asarray(Image.new("RGB", (4, 4), "red"))
    for array in (red.astype(np.int64), red.astype(np.int32), red > 0):
        assert open_image(array).getpixel((0, 0)) == (255, 0, 0)


def refused(source, *words):
    with pytest.raises(ImageError) as caught:
        open_image(source)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def test_unusable_paths(tmp_path):
    for name, content, words in [
        ("missing.png", None, "no such image file"),
        ("empty.jpg", b"", "empty (0 bytes)"),
        ("notes.png", b"these are my notes", "not an image"),
        ("zero.png", png_header(0, 4), "0 pixels"),
        ("nothing.png", png_header(4, 4), "truncated"),
        ("a.png", encoded(Image.effect_noise((64, 64), 50))[:-900], "truncated"),
        ("a.jpg", encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-900], "truncated"),
        ("a.eps", encoded(Image.new("RGB", (4, 4)), "EPS"), "PostScript"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert refused(path, words).startswith(f"{path}: ")
    assert refused(tmp_path, "a directory, not an image file").startswith(f"{tmp_path}: ")
    assert len(refused("A." * 50_000, "cannot be read", "A.A...")) < 1000


def test_unusable_objects():
    refused(b"", "image of 0 bytes", "empty")
    refused(b"abc", "image of 3 bytes", "not an image")
    refused(BytesIO(), "BytesIO object", "rewind")
    refused(StringIO("abc"), "opened with 'rb'")
    refused(np.zeros((4, 4, 3), np.uint16), "ndarray", "of uint8")
    refused(np.full((4, 4, 3), 256), "ndarray", "of uint8")
    refused("data:image/png;base64,AAAA", "not an image")
    refused(Image.new("RGB", (0, 5)), "0 x 5 pixels")
    refused(Image.new("F", (2, 2)), "floating-point")
    for value in [70000, -1]:
        refused(Image.fromarray(np.array([[value]], dtype=np.int32)), "outside 0 ... 65535")


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "HTTP://example.org/a", "file:///a.png", "data:text/plain,AAAA"]
)
def test_urls_are_refused(url):
    assert refused(url, "a URL", "download it first").startswith(url)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 14_000])  # Pillow warns about the first and refuses the second
def test_decompression_bombs_are_errors_and_no_global_state_changes(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert refused(path, "decompression bomb", "MAX_IMAGE_PIXELS").startswith(f"{path}: ")
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_an_image_error_where_warnings_are_errors_too():
    refused(png_header(9_500, 9_500), "decompression bomb")


def test_a_raised_pixel_limit_is_respected(monkeypatch):
    image = Image.new("1", (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    refused(image, "100 x 100 pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(image).size == (100, 100)


def test_resolve_image_finds_names_as_other_systems_write_them(tmp_path):
    (tmp_path / "deep").mkdir()
    for kept, written in (
        ("deep/a.png", "deep\\a.png"),
        (normalize("NFC", "Käse.png"), normalize("NFD", "Käse.png")),
        (normalize("NFD", "Öl.png"), normalize("NFC", "Öl.png")),
    ):
        Image.new("RGB", (1, 1)).save(tmp_path / kept)
        assert resolve_image(tmp_path, written) == tmp_path / kept
    with pytest.raises(ImageError, match="leads out of the image folder"):
        resolve_image(tmp_path / "deep", "..\\deep\\a.png")


def test_resolve_image_stays_in_its_folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for path in [tmp_path / "secret.png", folder / "sub" / "a.png"]:
        Image.new("RGB", (1, 1)).save(path)
    assert resolve_image(folder, "sub/a.png") == folder / "sub" / "a.png"
    for name in [
        "../secret.png",
        "sub/../../secret.png",
        str(tmp_path / "secret.png"),
        "C:\\a.png",
        "C:a.png",
        "..\\secret.png",
    ]:
        with pytest.raises(ImageError, match="leads out of the image folder"):
            resolve_image(folder, name)
    for name in ["b.png", "sub", ""]:
        with pytest.raises(ImageError, match="no such image file"):
            resolve_image(folder, name)
