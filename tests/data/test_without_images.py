"""Samples of tables without the bytes of their images: all else is as in the samples that are trained."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.without_images import KEPT, samples_without_images

FIELDS = ("image", "images")


def picture():
    return Pictures.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def bytes_of(sample):
    found = [sample[field] for field in FIELDS if sample.get(field) is not None]
    found = found[0] if found and isinstance(found[0], list) else found
    return [one["bytes"] if isinstance(one, dict) else one for one in found]


@pytest.mark.parametrize("form", ["image", "list", "bytes"])
def test_texts_are_whole_and_images_are_cut(tmp_path, form):
    whole = picture()
    whole.save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    images = {"image": [whole, None, whole], "list": [[whole, whole], None, []], "bytes": [data, None, data]}[form]
    kind = {"image": Image(), "list": [Image()], "bytes": Value("binary")}[form]
    name = "images" if form == "list" else "image"
    rows = {name: images, "question": ["a?", "b?", "c?"], "answer": [["x", "y"], ["z"], ["w"]], "id": [7, 8, 9]}
    features = Features({name: kind, "question": Value("string"), "answer": [Value("string")], "id": Value("int64")})
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "set")
    dataset = open_dataset(str(tmp_path / "set"))
    found = list(samples_without_images(dataset))
    assert len(found) == 3
    for index, sample in enumerate(found):
        trained = dataset[index]
        assert sample.keys() == trained.keys()
        assert all(sample[field] == trained[field] for field in sample.keys() - set(FIELDS))
        assert bytes_of(sample) == [one[:KEPT] for one in bytes_of(trained)]


def test_rows_that_were_chosen_keep_their_order(tmp_path):
    rows = Dataset.from_dict({"question": [f"{n}?" for n in range(2500)], "answer": ["x"] * 2500})
    rows.shuffle(seed=1).select(range(2100)).save_to_disk(tmp_path / "set")
    dataset = open_dataset(str(tmp_path / "set"))
    dataset.rows = dataset.rows.select(range(2099, -1, -1))
    assert [one["prompt"] for one in samples_without_images(dataset)] == [dataset[n]["prompt"] for n in range(2100)]
