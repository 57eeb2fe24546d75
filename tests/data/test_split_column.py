"""Tables with a column that says which split a row belongs to."""

import json
from itertools import islice

import datasets
import pytest
from PIL import Image

from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.data.dataset_names import NoSuchSplit
from adem_vl_hf.data.split_column import rows_of_split_column, split_column

SPLITS = ["train", "restval", "val", "test", None]
WANTED = {"train": [0, 1, 4], "val": [2], "validation": [2], "test": [3]}


def table(splits, name="split"):
    return datasets.Dataset.from_dict({name: splits, "text": list(map(str, range(len(splits))))})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", WANTED)
def test_the_rows_of_the_split_are_taken(split, streaming):
    rows = table(SPLITS, "Split")
    rows = rows_of_split_column(rows.to_iterable_dataset() if streaming else rows, split, "rows.csv")
    assert [int(row["text"]) for row in rows] == WANTED[split]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("values", "trained", "tested"),
    [
        (["trainval", "test", "train2014", "val2017"], [0, 2], [1]),
        (["easy", "test", "hard"], [0, 2], [1]),
        ([None, "train", "test"], [0, 1], [2]),
        ([["x"], ["y"]], [0, 1], [0, 1]),
        ([{"n": 1}, {"n": 2}], [0, 1], [0, 1]),
    ],
)
def test_other_values_of_the_column(streaming, values, trained, tested):
    for split, expected in (("train", trained), ("test", tested)):
        rows = table(values)
        rows = rows_of_split_column(rows.to_iterable_dataset() if streaming else rows, split, "rows.csv")
        assert [int(row["text"]) for row in rows] == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_the_column_may_hold_labels(streaming):
    features = datasets.Features(
        {"split": datasets.ClassLabel(names=["test", "train"]), "text": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_dict({"split": [1, 0, 1], "text": ["0", "1", "2"]}, features)
    rows = rows_of_split_column(rows.to_iterable_dataset() if streaming else rows, "train", "rows.csv")
    assert [row["text"] for row in rows] == ["0", "2"]


def test_a_split_that_the_column_lacks_is_named():
    for splits, split in ((SPLITS, "mine"), (["train", "train"], "test"), (["test", "test"], "val")):
        with pytest.raises(NoSuchSplit, match=f"^rows.csv: no split '{split}'; its column of splits has t"):
            rows_of_split_column(table(splits), split, "rows.csv")


def test_a_column_of_one_split_or_of_something_else_changes_nothing():
    for splits, split, is_own in (
        (["test", "test"], "train", False),  # the whole file is trained, as any file of one split
        (["train", "train"], "test", True),  # of a file of test rows, which were taken from somebody's training rows
        (["banana", "single"], "test", False),
        ([None, None], "test", False),
    ):
        assert len(rows_of_split_column(table(splits), split, "rows.csv", is_own)) == 2
    assert split_column(table(["train", "test"], "part")) is None


PICTURE = Image.new("RGB", (8, 8), "red")
ANSWERS = {split: [f" {place}" for place in places] for split, places in WANTED.items()}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("file", ["rows.csv", "metadata.csv", "metadata.jsonl"])
def test_files_are_read_by_their_column(tmp_path, file, streaming):
    PICTURE.save(tmp_path / "red.png")
    rows = [{"file_name": "red.png", "split": split, "text": str(place)} for place, split in enumerate(SPLITS)]
    if file == "metadata.jsonl":
        (tmp_path / file).write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(value or "" for value in row.values()) for row in rows]
        (tmp_path / file).write_text("\n".join(["file_name,split,text", *lines]))
    name = str(tmp_path / file if file == "rows.csv" else tmp_path)
    for split, answers in ANSWERS.items():
        read = open_dataset(name, split, streaming=streaming)
        assert sorted(sample["answer"] for sample in islice(read, len(answers))) == answers
        assert streaming or len(read) == len(answers)
    with pytest.raises(ValueError, match="no split 'mine'" if not streaming or file != "rows.csv" else "no rows"):
        next(iter(open_dataset(name, "mine", streaming=streaming)))


@pytest.mark.parametrize("key", ["conversations", "instruction"])
def test_conversations_and_instructions_are_read_by_their_splits(tmp_path, key):
    def entry(place, split):
        said = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": str(place)}]
        row = {"instruction": "What is it?", "output": str(place)} if key == "instruction" else {key: said}
        return row if split is None else row | {"split": split}

    file = tmp_path / "rows.json"
    file.write_text(json.dumps([entry(place, split) for place, split in enumerate(SPLITS)]))
    for split, places in WANTED.items():
        assert [sample["answer"].strip() for sample in open_dataset(str(file), split)] == list(map(str, places))
    with pytest.raises(NoSuchSplit, match="no split 'mine'; its column of splits has train"):
        open_dataset(str(file), "mine")
    file.write_text(json.dumps([entry(place, None) for place in range(3)]))
    assert len(open_dataset(str(file), "test")) == 3  # as it was: such a file is of every split
