"""A folder in which each image has a text file of the same name."""

import pytest
from PIL import Image

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.dataset_names import NoSuchSplit
from adem_vl_hf.data.media import ImageError


def pair(folder, name, text, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(folder / f"{name}{suffix}")
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def test_a_text_of_the_same_name_is_the_caption(tmp_path):
    pair(tmp_path, "a", "two dogs,\non the grass \n")
    pair(tmp_path / "sub", "b.v2", "\ufeffa cat", ".JPG")
    (tmp_path / "._a.png").write_bytes(b"of another system")
    first, second = open_dataset(str(tmp_path))
    assert (first["id"], first["answer"], first["references"]) == (
        "a.png", " two dogs,\non the grass", ["two dogs,\non the grass"],
    )  # fmt: skip
    assert (second["id"], second["answer"], second["image"].size) == ("sub/b.v2.JPG", " a cat", (4, 3))
    assert (first["prompt"], first["kind"]) == ("a picture of", "caption")


def test_a_folder_of_a_split_is_this_split(tmp_path):
    pair(tmp_path, "a", "a dog")
    pair(tmp_path / "val", "b", "a cat")
    assert [sample["answer"] for sample in open_dataset(str(tmp_path))] == [" a dog"]
    assert [sample["answer"] for sample in open_dataset(str(tmp_path), "validation")] == [" a cat"]
    with pytest.raises(NoSuchSplit, match="no split 'test'; it has train, validation"):
        open_dataset(str(tmp_path), "test")


def test_what_has_no_counterpart_is_named(tmp_path):
    pair(tmp_path, "a", "a dog")
    (tmp_path / "notes.txt").write_text("to do")
    with pytest.raises(ValueError, match=r"notes\.txt: no image of the same name"):
        open_dataset(str(tmp_path))
    (tmp_path / "notes.txt").unlink()
    Image.new("RGB", (4, 3)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: .* this one has none; write it to .*b\.txt, or remove the image"):
        open_dataset(str(tmp_path))
    (tmp_path / "b.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"b\.txt: empty; write the caption of b\.png"):
        open_dataset(str(tmp_path))
    (tmp_path / "b.txt").write_bytes("Mädchen".encode("cp1252"))
    with pytest.raises(ValueError, match=r"b\.txt: not UTF-8 text .* save it as UTF-8"):
        open_dataset(str(tmp_path))
    (tmp_path / "b.txt").write_text("a cat")
    Image.new("RGB", (4, 3)).save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.txt: the text of two images, b\.jpg and b\.png; rename one"):
        open_dataset(str(tmp_path))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    pair(tmp_path / "data", "a", "a dog")
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "data" / "a.txt").unlink()
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ImageError, match="a link out of the image folder"):
        open_dataset(str(tmp_path / "data"))


def test_metadata_are_read_in_place_of_texts_and_a_stream_is_refused(tmp_path):
    pair(tmp_path, "a", "a dog")
    with pytest.raises(ValueError, match="cannot be streamed"):
        open_dataset(str(tmp_path), streaming=True)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a hound"}')
    assert open_dataset(str(tmp_path))[0]["answer"] == " a hound"
