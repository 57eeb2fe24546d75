"""COCO captions: Karpathy's splits, the authors' training captions, and the tokenizers that find the words to score."""

import json
import shutil

import pytest
from coco_folder import ENTRIES, entry, write

from adem_vl_hf.data import CocoCaptions, open_dataset
from adem_vl_hf.data.coco import training_caption
from adem_vl_hf.evaluation import metrics
from adem_vl_hf.evaluation.metrics import caption_metrics
from adem_vl_hf.evaluation.score import score


@pytest.mark.parametrize("pictures", ["images", "."])
def test_training_has_a_sample_for_each_caption(tmp_path, pictures):
    dataset = open_dataset(str(write(tmp_path, ENTRIES, pictures)), "train")
    assert isinstance(dataset, CocoCaptions)
    assert [(sample["id"], sample["prompt"] + sample["answer"]) for sample in dataset] == [
        ("2/0", "a picture of two cats asleep"),
        ("2/1", "a picture of cats"),
        ("3/0", "a picture of a bus"),
    ]
    assert dataset[0]["image"].size == (5, 4)


def test_a_test_picture_is_one_sample_with_every_caption(tmp_path):
    (sample,) = CocoCaptions(write(tmp_path, ENTRIES), "test")
    assert (sample["id"], sample["references"]) == ("1", ["A dog (brown).", "One dog"])
    assert CocoCaptions(tmp_path, "val")[0]["id"] == "4"


def test_training_captions():
    assert training_caption(' A "small" dog~ (old): #1') == "a small dog old 1"
    assert training_caption("x " * 40).split() == ["x"] * 30


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"cocoid": 1}], "image 0: every image needs cocoid, filepath"),
        ([entry(1, "test")], 'image 0: a sentence without "raw", or none'),
        ([entry(1, "test") | {"sentences": [{}]}], 'image 0: a sentence without "raw"'),
        ([entry(1, "test", "a") | {"filename": "none.jpg"}], "image 0: .*no such image file"),
        ([entry(1, "test", "a") | {"filepath": ".."}], "image 0: .*leads out of"),
        ([entry(1, "val", "a")], "no image of split 'test'"),
        (None, 'no list "images"'),
    ],
)
def test_bad_files_are_named(tmp_path, entries, words):
    write(tmp_path, ENTRIES)
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    with pytest.raises(ValueError, match=rf"dataset_coco\.json.*{words}"):
        CocoCaptions(tmp_path, "test")


def test_unknown_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match="split 'karpathy' of .*: choose one of train, val, test"):
        CocoCaptions(write(tmp_path, ENTRIES), "karpathy")


def test_words_without_java():
    texts = ["A man's dog, \"Rex\" (old) -- isn't on the T-shirt...", "", "Two dogs. One on St. Mary's steps."]
    assert metrics.treebank(texts) == [
        "a man 's dog rex -lrb- old -rrb- is n't on the t-shirt",
        "",
        "two dogs one on st. mary 's steps",
    ]
    assert metrics.simple(texts) == [
        "a man's dog rex old isn't on the t-shirt",
        "",
        "two dogs one on st mary's steps",
    ]


def rows():
    captions = {"1": "a man's dog on grass", "2": "two birds over some water"}
    return [{"id": i, "kind": "caption", "prediction": c, "references": [c]} for i, c in captions.items()]


def test_the_task_names_what_found_the_words(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    scores = score("coco-caption", rows())
    assert (scores["n"], scores["caption"]["tokenizer"]) == (2, "treebank")
    assert scores["caption"]["cider"] == pytest.approx(10.0)
    with pytest.raises(ValueError, match="runs Java, which is not installed"):
        caption_metrics(["a"], [["a"]], "ptb")
    monkeypatch.setattr(shutil, "which", lambda name: "/java")
    asked = []
    monkeypatch.setattr(metrics, "ptb", lambda texts: asked.extend(texts) or metrics.simple(texts))
    assert score("coco-caption", rows())["caption"]["tokenizer"] == "ptb"
    assert len(asked) == 4
