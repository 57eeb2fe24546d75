"""Frames from files: which of them, in which order, upright, and errors that name the culprit and the remedy."""

import re
import socket
import struct
import time

import numpy as np
import pytest
from films import write_mp4
from PIL import Image

from adem_vl_hf.data.media import ImageError, open_video, sample_frames, save_gif
from adem_vl_hf.modeling import video_files

GREYS = [0, 50, 100, 150, 200, 250]


def frames(values=GREYS, size=(32, 16)):
    return [Image.new("RGB", size, (value,) * 3) for value in values]


def greys(video):
    return [round(float(np.asarray(frame).mean())) for frame in video]


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {})])
def test_animated_pictures(name, options, tmp_path):
    path = tmp_path / name
    first, *others = frames()
    first.save(path, save_all=True, append_images=others, duration=100, **options)
    video = open_video(path)
    assert greys(video) == pytest.approx(GREYS, abs=2)
    assert all(type(frame) is Image.Image and frame.mode == "RGB" and frame.size == (32, 16) for frame in video)
    assert greys(open_video(str(path), number=3)) == pytest.approx([50, 150, 250], abs=2)
    assert len(open_video(path, number=13)) == 13


def test_transparent_frames_become_white(tmp_path):
    path = tmp_path / "a.webp"
    clear, red = Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("RGBA", (8, 8), "red")
    clear.save(path, save_all=True, append_images=[red], lossless=True)
    assert [frame.getpixel((4, 4)) for frame in open_video(path)] == [(255, 255, 255), (255, 0, 0)]


def test_one_picture_is_a_video_of_one_frame(tmp_path):
    frames([77])[0].save(tmp_path / "a.png")
    assert greys(open_video(tmp_path / "a.png")) == [77]
    assert greys(open_video(tmp_path / "a.png", number=2)) == [77, 77]


def test_a_folder_goes_by_number_and_passes_other_files_over(tmp_path):
    for number, frame in zip((1, 2, 9, 10, 11, 100), frames(), strict=True):
        frame.save(tmp_path / f"frame-{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".frame-5.png").write_text("an editor's")
    assert greys(open_video(tmp_path)) == GREYS
    assert greys(open_video(tmp_path, number=2)) == [50, 200]


def test_a_list_of_paths_and_pictures(tmp_path):
    first, second = frames([10, 20])
    first.save(tmp_path / "a.png")
    assert greys(open_video([tmp_path / "a.png", second, Image.new("L", (32, 16), 30)])) == [10, 20, 30]


def test_frames_are_taken_from_all_over():
    assert sample_frames(range(8), 8) == list(range(8))
    assert sample_frames(range(100), 4) == [12, 37, 62, 87]
    assert sample_frames(range(3), 1) == [1]
    assert sample_frames("ab", 5) == ["a", "a", "b", "b", "b"]
    for size in range(1, 20):
        for number in range(1, 25):
            taken = sample_frames(range(size), number)
            assert len(taken) == number
            assert taken == sorted(taken)
            assert len(set(taken)) == min(size, number)
    for bad in (([], 2), ([1], 0)):
        with pytest.raises(ValueError, match="both must be at least 1"):
            sample_frames(*bad)


def test_what_was_written_as_gif_is_read_again(tmp_path):
    coloured = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue", "red")]
    save_gif(coloured, tmp_path / "new" / "a.gif", milliseconds=70)
    again = open_video(tmp_path / "new" / "a.gif")
    assert [frame.getpixel((3, 3)) for frame in again] == [frame.getpixel((3, 3)) for frame in coloured]
    with Image.open(tmp_path / "new" / "a.gif") as gif:
        assert (gif.info["loop"], gif.info["duration"]) == (0, 70)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]
    with pytest.raises(ValueError, match="no frames to write"):
        save_gif([], tmp_path / "b.gif")


def test_a_video_file(tmp_path):
    path = tmp_path / "a.mp4"
    write_mp4(path, frames(size=(64, 32)))
    assert greys(open_video(path)) == pytest.approx(GREYS, abs=4)
    assert [frame.size for frame in open_video(path, number=3)] == [(64, 32)] * 3
    assert greys(open_video(path, number=3)) == pytest.approx([50, 150, 250], abs=4)
    assert greys(open_video(path, number=12)) == pytest.approx(sorted(GREYS * 2), abs=4)


def test_a_video_held_upright_is_read_upright(tmp_path):
    """As telephones write it: the pixels lie, and the track's matrix says to turn them clockwise by 90 degrees."""
    lying = Image.new("RGB", (64, 32), "black")
    lying.paste("white", (0, 0, 32, 32))  # the left half, which is the upper one once it stands
    path = tmp_path / "a.mp4"
    write_mp4(path, [lying] * 3)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # behind version and flags, times and ids, layer and volume
    one = 1 << 16
    assert struct.unpack(">9i", data[place : place + 36])[0] == one
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    path.write_bytes(data[:place] + turned + data[place + 36 :])
    frame = open_video(path)[0]
    assert frame.size == (32, 64)
    assert frame.getpixel((16, 10))[0] > 200
    assert frame.getpixel((16, 54))[0] < 50


def write_to_a_pipe(path, images):
    """Write a film into something that cannot seek, so that its header knows nothing of its length."""
    av = pytest.importorskip("av")

    class Pipe:
        def __init__(self, file):
            self.write = file.write

    with path.open("wb") as file, av.open(Pipe(file), "w", format={".mkv": "matroska"}.get(path.suffix, "avi")) as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        for image in images:
            film.mux(stream.encode(av.VideoFrame.from_image(image)))
        film.mux(stream.encode())


def test_a_header_that_is_wrong_about_the_number_of_frames(tmp_path):
    """The AVI says that it has 2**30."""
    for name in ("a.avi", "a.mkv"):
        write_to_a_pipe(tmp_path / name, frames(size=(64, 32)))
        assert len(open_video(tmp_path / name)) == 6
        assert len(open_video(tmp_path / name, number=2)) == 2


def test_what_would_take_hours_to_decode_is_refused(tmp_path, monkeypatch):
    write_mp4(tmp_path / "a b.mp4", frames(size=(64, 32)))
    write_to_a_pipe(tmp_path / "a.mkv", frames(size=(64, 32)))
    monkeypatch.setattr(video_files, "MOST_DECODED", 64 * 32 * 7)  # with the packet that ends a stream
    for name in ("a b.mp4", "a.mkv"):
        assert len(open_video(tmp_path / name, number=2)) == 2
    monkeypatch.setattr(video_files, "MOST_DECODED", 64 * 32 * 4)
    remedy = r"cut it or scale it down \(ffmpeg -i 'a b\.mp4' -t 60 .*\), or raise MOST_DECODED in adem_vl_hf"
    for name, message in (
        ("a b.mp4", f"6 frames with 12,288 pixels are more than the 8,192 that are decoded of a video; {remedy}"),
        ("a.mkv", "5 frames with 10,240 pixels are more than the 8,192"),
    ):
        with pytest.raises(ImageError, match=rf"{name}: {message}"):
            open_video(tmp_path / name, number=2)


def test_what_is_cut_off_a_frame_counts_as_decoded(tmp_path, monkeypatch):
    """Each frame says that all but 16 x 16 of its 512 x 512 pixels are not to be shown."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "whole.ts"), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        for image in frames(size=(512, 512)):
            film.mux(stream.encode(av.VideoFrame.from_image(image)))
        film.mux(stream.encode())
    with av.open(str(tmp_path / "whole.ts")) as whole, av.open(str(tmp_path / "cut.ts"), "w") as cut:
        read, written = whole.streams.video[0], cut.add_stream_from_template(whole.streams.video[0])
        crop = av.bitstream.BitStreamFilterContext("h264_metadata=crop_right=496:crop_bottom=496", read, written)
        for packet in whole.demux(read):
            for filtered in crop.filter(packet) if packet.dts is not None else []:
                filtered.stream = written
                cut.mux(filtered)
    assert [frame.size for frame in open_video(tmp_path / "cut.ts")] == [(16, 16)] * 6
    monkeypatch.setattr(video_files, "MOST_DECODED", 512 * 512 * 4)
    with pytest.raises(ImageError, match=r"cut\.ts: 5 frames with 1,310,720 pixels"):
        open_video(tmp_path / "cut.ts", number=2)


def test_decoding_ends_at_the_deadline(tmp_path):
    save_gif(frames(), tmp_path / "a.gif")
    write_mp4(tmp_path / "a.mp4", frames(size=(64, 32)))
    for name, remedy in (("a.gif", "scale it down, or turn it into a video file"), ("a.mp4", r"cut it or scale it .*")):
        assert len(open_video(tmp_path / name, 2, deadline=time.monotonic() + 100)) == 2
        with pytest.raises(ImageError, match=rf"{name}: takes too long to decode; {remedy}$"):
            open_video(tmp_path / name, 2, deadline=time.monotonic())


def test_without_pyav_the_remedies_are_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.mp4").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"a\.mp4: .*pip install av; .*ffmpeg -i a\.mp4 frames/"):
        open_video(tmp_path / "a.mp4")


def test_unusable_sources_name_the_culprit_and_the_remedy(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.xyz").write_text("no video at all")
    mixed = [frames([1])[0], frames([2], size=(8, 8))[0]]
    for source, message in (
        (empty, "empty: no images in this folder; put the frames there as frame-0001.png"),
        (tmp_path / "none.gif", r"none\.gif: no such image file"),
        (tmp_path / "none.mp4", r"none\.mp4: no such image file"),
        ("https://example.org/a.gif", r"https://example\.org/a\.gif: a URL; download it first"),
        (tmp_path / "text.xyz", r"text\.xyz: neither an image .* nor a video file by its ending .*; rename it"),
        ("https://example.org/a.mp4", r"https://example\.org/a\.mp4: a URL; download it first"),
        ([], "the list of frames: no frames; give at least one"),
        (mixed, "frame 1 is 8 x 8 pixels, the first 32 x 16; scale or crop"),
        (mixed[0], "Image: no video; give a path or a list"),
        (b"bytes", "bytes: no video"),
    ):
        with pytest.raises(ImageError, match=message):
            open_video(source)
    with pytest.raises(ValueError, match=r"num_frames\) must be at least 1, got 0"):
        open_video(mixed[:1], number=0)


def test_a_playlist_under_a_video_s_name_fetches_nothing(tmp_path):
    pytest.importorskip("av")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        server.settimeout(0.2)
        (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{address}'\n")
        with pytest.raises(ImageError, match=r"list\.mp4: "):
            open_video(tmp_path / "list.mp4")
        with pytest.raises(TimeoutError):  # nobody called
            server.accept()


def outcome(path, data: bytes) -> str:
    """What is said of a file with this content."""
    path.write_bytes(data)
    try:
        return f"{len(open_video(path))} whole frames"
    except ImageError as error:
        return str(error).removeprefix(f"{path.parent}/")


def test_damaged_files_are_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(ImageError, match=r"bad\.mp4: cannot be decoded \(.*\); export it again"):
        open_video(tmp_path / "bad.mp4")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    noise = [Image.fromarray(frame) for frame in pixels]
    noise[0].save(tmp_path / "whole.gif", save_all=True, append_images=noise[1:])
    data = (tmp_path / "whole.gif").read_bytes()
    path = tmp_path / "cut.gif"
    said = [outcome(path, data[:cut]) for cut in range(len(data) // 4, len(data) - 1, 29)]
    pattern = r"cut\.gif: (frame \d of \d is )?damaged or truncated|[1-4] whole frames"
    assert [text for text in said if not re.match(pattern, text)] == []
    assert any("frame" in text for text in said)
