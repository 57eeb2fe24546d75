"""Data sets are indexed as lists are: from the end, in a loop that ends, and with numbers of NumPy."""

import json

import easy_vqa_files
import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.indexing import from_start, names_of_repeated

DRAWN = ("openmoji", "openmoji-names", "openmoji-scenes", "openmoji-videos", "openmoji-pairs")


def rows(folder):
    (folder / "rows.csv").write_text("image,text\n" + "".join(f"{i}.png,number {i}\n" for i in range(3)))
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return str(folder / "rows.csv")


@pytest.mark.parametrize("name", [*DRAWN, "easy-vqa", "a table"])
def test_a_data_set_is_indexed_as_a_list(tmp_path, monkeypatch, name):
    easy_vqa_files.install(tmp_path / "index", monkeypatch)
    dataset = open_dataset(rows(tmp_path)) if name == "a table" else open_dataset(name, size=3)
    assert len(dataset) == 3
    assert [sample["id"] for sample in dataset] == [dataset[np.int64(i)]["id"] for i in range(3)]
    assert dataset[-1]["id"] == dataset[2]["id"]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            dataset[outside]


def test_an_index_that_is_none():
    with pytest.raises(IndexError, match="there is no sample -4: the data set has 3"):
        from_start(-4, 3)
    with pytest.raises(TypeError):
        from_start("0", 3)


def test_each_sample_has_a_name_of_its_own():
    names = ["a", "a", "a@1", "b", "a", "a@1@1"]
    renamed = names_of_repeated(enumerate(names))
    assert renamed == {1: "a@1@1@1", 4: "a@4"}
    assert len({renamed.get(place, name) for place, name in enumerate(names)}) == len(names)


@pytest.mark.parametrize("key", ["text", "messages"])
def test_names_that_a_file_gives_twice(tmp_path, key):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"id": name, key: chat if key == "messages" else "Ho"} for name in ("a", "a", "a@1", None, None)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [sample["id"] for sample in open_dataset(str(tmp_path / "rows.jsonl"))] == ["a", "a@1@1", "a@1", "3", "4"]
