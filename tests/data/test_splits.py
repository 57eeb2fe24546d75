"""Splits: what a word in a name says, and which rows of the metadata of a whole folder belong to one."""

import json
from itertools import islice

import datasets
import pytest
from PIL import Image

from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.dataset_names import NoSuchSplit
from adem_vl_hf.data.media import open_image


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


def answers(folder, split="train"):
    """The answers of a split, without the spaces before them."""
    return sorted(sample["answer"].strip() for sample in open_dataset(str(folder), split))


CLASSES = {
    "a word in a file's name": (["fox/0.png", "cat/0.png", "fox/1_test.png"], ["cat", "fox", "fox"]),
    "a word in every file's name": (["fox/0.png", "cat/0.png", "fox/train_1.png"], ["cat", "fox", "fox"]),
    "a class": (["beaker/0.png", "test_tube/0.png"], ["beaker", "test tube"]),
    "a class of a split's name": (["train/0.png", "bus/0.png"], ["bus", "train"]),
    "capitals in the ending": (["fox/0.PNG", "cat/0.png", "fox/1_test.jpg"], ["cat", "fox", "fox"]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_no_image_is_left_out_for_a_word_in_a_name(tmp_path, case):
    names, expected = CLASSES[case]
    draw(tmp_path, *names)
    assert answers(tmp_path) == expected
    streamed = islice(open_dataset(str(tmp_path), streaming=True), len(expected))
    assert sorted(sample["answer"].strip() for sample in streamed) == expected


def test_a_folder_of_a_split_keeps_its_images(tmp_path):
    draw(tmp_path, "good/0.png", "bad/0.png", "dev/good/1.png", "dev/bad/1.png", "good/1.png")
    assert answers(tmp_path) == ["bad", "good", "good"]
    assert answers(tmp_path, "validation") == ["bad", "good"]
    with pytest.raises(NoSuchSplit, match="no split 'test'; it has"):
        open_dataset(str(tmp_path), "test")


def test_splits_that_somebody_made_stay(tmp_path):
    draw(tmp_path, "train/fox/0.png", "train/cat/0.png", "test/fox/0.png", "test/cat/0.png", "docs/figure.png")
    assert answers(tmp_path) == answers(tmp_path, "test") == ["cat", "fox"]


def test_a_table_that_is_called_test_is_not_trained_and_the_others_are(tmp_path):
    for name in ("data_2024", "test-extra"):
        datasets.Dataset.from_list([{"question": "?", "answer": name}]).to_parquet(tmp_path / f"{name}.parquet")
    draw(tmp_path, "0.png", "1.png", "2.png")
    assert answers(tmp_path) == ["data_2024"]
    assert answers(tmp_path, "test") == ["test-extra"]
    datasets.Dataset.from_list([{"question": "?", "answer": "train"}]).to_parquet(tmp_path / "train.parquet")
    assert answers(tmp_path) == ["train"]


def test_a_card_says_which_files_are_of_which_split(tmp_path):
    for name in ("a", "test-b"):
        datasets.Dataset.from_list([{"question": "?", "answer": name}]).to_parquet(tmp_path / f"{name}.parquet")
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: test-b.parquet\n"
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    assert answers(tmp_path) == ["test-b"]


def metadata(folder, suffix, rows):
    """Write the metadata of a folder in one of the formats."""
    path = folder / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)


FORMATS = ["jsonl", "csv", "parquet"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("streaming", [False, True])
def test_metadata_of_the_whole_folder_are_those_of_its_splits(tmp_path, suffix, streaming):
    names = ["train/0.png", "test/0.png", "extra/0.png", "test/1.png"]
    draw(tmp_path, *names)
    metadata(tmp_path, suffix, [{"file_name": name, "text": name} for name in names])
    for split, expected in (("train", ["extra/0.png", "train/0.png"]), ("test", ["test/0.png", "test/1.png"])):
        samples = list(islice(open_dataset(str(tmp_path), split, streaming=streaming), len(expected)))
        assert sorted(sample["answer"].strip() for sample in samples) == expected
        assert all(open_image(sample["image"]).size == (4, 3) for sample in samples)
    with pytest.raises(
        NoSuchSplit, match=f"metadata.{suffix}: no split 'val'; its files are in folders of train, test"
    ):
        open_dataset(str(tmp_path), "val", streaming=streaming)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_with_metadata_of_its_own_reads_those(tmp_path, suffix, streaming):
    draw(tmp_path, "train/0.png", "test/0.png")
    metadata(tmp_path, suffix, [{"file_name": name, "text": "whole"} for name in ("train/0.png", "test/0.png")])
    metadata(tmp_path / "test", suffix, [{"file_name": "0.png", "text": "own"}])
    for split, expected in (("train", " whole"), ("test", " own")):
        assert next(iter(open_dataset(str(tmp_path), split, streaming=streaming)))["answer"] == expected


def test_a_class_called_train_is_no_split_of_metadata(tmp_path):
    names = ["train/0.png", "bus/0.png"]
    draw(tmp_path, *names)
    metadata(tmp_path, "csv", [{"file_name": name, "text": name} for name in names])
    assert answers(tmp_path) == ["bus/0.png", "train/0.png"]
