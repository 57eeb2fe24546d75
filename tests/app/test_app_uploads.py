"""Files of users: opened by the package, limited in number and size, and refused by a sentence without a folder."""

import pytest
import tiny
from films import write_mp4
from PIL import Image

from adem_vl_hf.app import uploads
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.modeling import video_files


def test_images_and_videos_are_told_apart(tmp_path):
    tiny.picture().save(tmp_path / "one.PNG")
    save_gif([tiny.picture(0), tiny.picture(1)], tmp_path / "two.gif")
    images, videos = uploads.open_files([str(tmp_path / "one.PNG"), str(tmp_path / "two.gif")])
    assert [image.size for image in images] == [(24, 20)]
    assert [len(video) for video in videos] == [uploads.FRAMES]


def test_large_ones_are_made_small_once(tmp_path):
    Image.new("RGB", (4000, 1000), "teal").save(tmp_path / "wide.png")
    (image,), _ = uploads.open_files([str(tmp_path / "wide.png")])
    assert image.size == (uploads.SIDE, uploads.SIDE // 4)


def test_what_cannot_be_used_is_named_without_its_folder(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "big.png").write_bytes(b"0" * 2**20)
    monkeypatch.setattr(uploads, "MEGABYTES", 0.5)
    for name, reason in (
        ("text.png", "not an image that Pillow can read"),
        ("notes.txt", "neither an image nor a video"),
        ("big.png", "1 MB; send at most 0.5 MB a file"),
        ("gone.png", "no such file here; send it again"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*{reason}") as raised:
            uploads.open_files([str(tmp_path / name)])
        assert str(tmp_path) not in str(raised.value)
    monkeypatch.setattr(uploads, "PIXELS", 2_000_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_666_667)  # as the page sets it for that
    Image.new("1", (2000, 1001)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="^large.png: too many pixels; send an image of at most 2 million$"):
        uploads.open_files([str(tmp_path / "large.png")])
    with pytest.raises(ValueError, match="9 files at once; send at most 8"):
        uploads.open_files(["x.png"] * 9)
    with pytest.raises(ValueError, match="no such file here; send it again"):
        uploads.open_files(["a\0b.png"])


def test_videos_that_take_long_are_given_up(tmp_path, monkeypatch):
    save_gif([tiny.picture(seed) for seed in range(3)], tmp_path / "a.gif")
    write_mp4(tmp_path / "a.mp4", [tiny.picture(seed).resize((64, 32)) for seed in range(3)])
    assert uploads.open_files([str(tmp_path / "a.gif"), str(tmp_path / "a.mp4")])
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "SECONDS", 0)
        for name in ("a.gif", "a.mp4"):
            with pytest.raises(ValueError, match=f"^{name}: takes too long to decode; .*scale it down"):
                uploads.open_files([str(tmp_path / name)])
    # who sends a film cannot raise the limit
    monkeypatch.setattr(video_files, "MOST_DECODED", 64 * 32 * 2)
    with pytest.raises(ValueError, match=r"^a\.mp4: 3 frames with 6,144 pixels .* smaller\.mp4\)$"):
        uploads.open_files([str(tmp_path / "a.mp4")])
