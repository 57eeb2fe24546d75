"""``adem-vl train --eval-data``: which split is evaluated on, and that it is not the one that is trained on."""

import json
import shutil
from types import SimpleNamespace

import pytest
from training_runs import picture_folder

from adem_vl_hf.cli.parser import build_parser
from adem_vl_hf.cli.training_data import training_data
from adem_vl_hf.evaluation.predictions import processes


@pytest.fixture
def opened(tmp_path, monkeypatch, capsys):
    """Opens what flags name; gives the ids of the held-out samples, the line about them, and stderr."""
    monkeypatch.chdir(tmp_path)
    processes()  # what it says at its first call is not about data

    def open_them(*flags):
        capsys.readouterr()
        given, bare = (
            build_parser().parse_args(["train", "--output-dir", "run", "--data", *more]) for more in (flags, flags[:1])
        )
        _, held_out, seen = training_data(given, bare)
        ids = [held_out[index]["id"] for index in range(len(held_out))]
        err = "".join(line for line in capsys.readouterr().err.splitlines() if line.startswith("adem-vl"))
        return SimpleNamespace(ids=ids, line=str(seen[-1]), err=err)  # without the bars of the library datasets

    return open_them


def pictures(folder, count):
    folder.parent.mkdir(exist_ok=True)
    picture_folder(folder, count)
    return folder


def classes(folder, *names):
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        pictures(folder / "all", number + 1)
        shutil.copy(folder / "all" / f"{number}.png", folder / name)
        shutil.rmtree(folder / "all")


@pytest.mark.parametrize("flags", ["shapes/train --eval-data shapes", "shapes --eval-data shapes",
                                   "other --eval-data shapes",
                                   "shapes/test/../train --eval-data ./shapes"])  # fmt: skip
def test_the_test_split_is_taken_whatever_name_leads_to_the_training_data(opened, tmp_path, flags):
    pictures(tmp_path / "shapes" / "train", 4)
    pictures(tmp_path / "shapes" / "test", 2)
    pictures(tmp_path / "other", 1)
    found = opened(*flags.split())
    assert len(found.ids) == 2
    assert found.line.endswith("shapes, split test: 2 samples")
    assert found.err == ""


@pytest.mark.parametrize("name", ["val", "validation"])
@pytest.mark.parametrize("form", ["metadata", "classes"])
def test_of_data_without_a_test_split_the_validation_split_is_taken(opened, tmp_path, name, form):
    if form == "metadata":
        pictures(tmp_path / "set" / "train", 3)
        pictures(tmp_path / "set" / name, 2)
    else:
        classes(tmp_path / "set", "train/cat", "train/fox", f"{name}/cat", f"{name}/fox")
    found = opened("set", "--eval-data", "set")
    assert len(found.ids) == 2
    assert found.line.startswith("evaluated on set, split val")


def test_data_without_such_splits_are_taken_as_they_are(opened, tmp_path):
    classes(tmp_path / "set", "cat", "fox")
    pictures(tmp_path / "shapes" / "train", 3)
    assert len(opened("shapes", "--eval-data", "set").ids) == 2
    assert len(opened("set", "--eval-data", "shapes").ids) == 3
    assert opened("set", "--eval-data", "shapes").line == "evaluated on shapes, split train: 3 samples"


@pytest.mark.parametrize("flags", ["shapes --eval-data shapes", "shapes/train --eval-data shapes"])
def test_data_with_nothing_but_what_is_trained_on_are_refused(opened, tmp_path, flags):
    pictures(tmp_path / "shapes" / "train", 3)
    with pytest.raises(ValueError, match="--eval-data shapes is in --data, too .*name data that are not trained on"):
        opened(*flags.split())


def test_a_folder_of_the_training_data_is_known_as_such(opened, tmp_path):
    pictures(tmp_path / "shapes" / "train", 3)
    pictures(tmp_path / "shapes" / "test", 2)
    found = opened("shapes", "--eval-data", "shapes/train")
    assert "--eval-data shapes/train is in --data, too, and has no splits, so that it is trained on" in found.err
    assert opened("shapes", "--eval-data", "shapes/test").err == ""


def test_data_whose_splits_have_other_names_are_refused_with_them(opened, tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"question": ["what?"], "answer": ["this"]})
    DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "set")
    pictures(tmp_path / "other", 1)
    with pytest.raises(ValueError, match="no split 'test'; it has a, b.*: name the files of the one to evaluate on"):
        opened("other", "--eval-data", "set")


def test_a_table_whose_only_split_is_trained_is_not_held_out(opened, tmp_path):
    rows = [{"question": f"q{number}", "answer": "a", "split": "test"} for number in range(4)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"--eval-data x\.jsonl is in --data, too"):
        opened("x.jsonl", "--eval-data", "x.jsonl")


def test_a_held_out_split_that_cannot_be_used_is_named(opened, tmp_path):
    (tmp_path / "set").mkdir()
    for split, answer in (("train", "a"), ("test", None)):
        (tmp_path / "set" / f"{split}.jsonl").write_text(json.dumps({"question": "q", "answer": answer}))
    with pytest.raises(ValueError, match="--eval-data set, split test: .*answer is empty"):
        opened("set", "--eval-data", "set")


def conversations(file, *splits):
    said = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]
    file.write_text(json.dumps([{"conversations": said} | ({"split": split} if split else {}) for split in splits]))


def test_conversations_hold_out_what_their_entries_assign_to_the_test(opened, tmp_path):
    conversations(tmp_path / "rows.json", "train", "test", "train")
    found = opened("rows.json", "--eval-data", "rows.json")
    assert found.ids == ["1"]
    assert found.line.endswith("rows.json, split test: 1 sample")
    assert "is trained on" not in found.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["shapes", "--image-folder", "."], "--image-folder has no effect on shapes, which says where its images are"),
        (["rows.json", "--prompt-format", "QCM-A"], "--prompt-format is of ScienceQA, and rows.json is not ScienceQA"),
        (["captions", "--columns", "text=x"], "--columns has no effect on captions, whose format names its columns"),
    ],
)
def test_flags_that_no_data_heed_are_refused(opened, tmp_path, flags, message):
    pictures(tmp_path / "shapes", 2)
    conversations(tmp_path / "rows.json", None)
    pictures(tmp_path / "captions", 1)
    (tmp_path / "captions" / "metadata.jsonl").unlink()
    (tmp_path / "captions" / "0.txt").write_text("a cat")
    with pytest.raises(ValueError, match=message):
        opened(*flags)


def test_a_flag_that_one_of_the_data_heeds_is_taken(opened, tmp_path):
    pictures(tmp_path / "shapes", 2)
    conversations(tmp_path / "rows.json", None)
    assert len(opened("shapes", "--image-folder", ".", "--eval-data", "rows.json").ids) == 1
