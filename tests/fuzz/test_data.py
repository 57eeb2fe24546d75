"""Damaged data files of every format: each is read, or refused by its name."""

import argparse
import io
import json

import pytest
import tiny
import torch

pytest.importorskip("hypothesis")
from fuzzing import damaged_bytes, damaged_json, fuzz, write
from hypothesis import strategies as st

from adem_vl_hf.data import MME, Alpaca, CocoCaptions, Conversations, ImageFolder, ScienceQA
from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.evaluation.predictions import read_predictions
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.hub.convert_official import _read, _recorded_fields

pytestmark = pytest.mark.slow

IMAGE = "a.png"
ROWS = [
    {"file_name": IMAGE, "text": "two dogs", "kind": "caption", "captions": ["dogs"]},
    {"file_name": IMAGE, "prompt": "How many?", "answer": "two", "choices": ["one", "two"], "references": ["2"]},
]
ENTRIES = [
    {"id": "1", "image": IMAGE, "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."},
    ]},
    {"id": "2", "images": [IMAGE, IMAGE], "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "And?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Two dogs \ud83d\ude00."}]},
    ]},
]  # fmt: skip
INSTRUCTIONS = [{"instruction": "Say it.", "input": "Twice.", "output": "It, it."}]
COCO = {"images": [
    {"cocoid": 7, "filepath": "val2014", "filename": IMAGE, "split": split, "sentences": [{"raw": "A dog."}]}
    for split in ("train", "val", "test")
]}  # fmt: skip
PROBLEM = {
    "question": "Which?", "choices": ["a dog", "a cat"], "answer": 0, "hint": "", "image": "image.png",
    "split": "train", "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "",
    "category": "", "skill": "", "lecture": "", "solution": "It barks.",
}  # fmt: skip
PREDICTIONS = [{"id": "3", "kind": "choice", "prediction": "A", "references": ["a dog"], "choices": ["a dog", "a cat"]}]


@pytest.fixture
def folder(tmp_path):
    for name in (IMAGE, f"images/val2014/{IMAGE}", "images/train/3/image.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.picture().save(tmp_path / name)
    return tmp_path


def damaged(value, lines=False):
    """A damaged JSON file, or one of lines."""

    def written(one):
        return b"\n".join(json.dumps(row).encode() for row in one) if lines else json.dumps(one).encode()

    whole = damaged_json(value).map(lambda one: (written(one[0] if one[0] else [one[0]]), str(one[1])))
    return st.one_of(
        *[whole] * 6,
        *[damaged_bytes([written(value)]).map(lambda data: (data, "bytes"))] * 3,
        st.sampled_from([(b"[" * 100_000, "nested"), (written(value).replace(b"dog", b"\\ud83d"), "half a character")]),
    )


def check_file(name, number, path, value, read, lines=False, culprits=()):
    def check(outcomes, drawn):
        data, about = drawn
        write(path, data)
        outcomes.run(read, [path, path.name, *culprits], about)

    fuzz(name, number, damaged(value, lines), check)


def use(dataset):
    return [dataset[index] for index in range(min(len(dataset), 3))]


def test_image_folder(folder):
    path = folder / "metadata.jsonl"
    check_file("metadata.jsonl", 300, path, ROWS, lambda: use(ImageFolder(folder)), lines=True)


@pytest.mark.parametrize("alone", [False, True])
def test_conversations(folder, alone):
    path = folder / "chats.json"
    check_file("conversations", 150, path, ENTRIES, lambda: use(Conversations(path, each_turn_alone=alone)))


def test_instructions(folder):
    path = folder / "alpaca.json"
    check_file("instructions", 200, path, INSTRUCTIONS, lambda: use(Alpaca(path)))


def test_coco(folder):
    path = folder / "dataset_coco.json"

    def read():
        for split in ("train", "val"):
            use(CocoCaptions(folder, split))

    check_file("dataset_coco.json", 300, path, COCO, read)


def test_scienceqa(folder):
    splits, problems, captions = {"train": ["3"]}, {"3": PROBLEM}, {"captions": {"3": "A dog."}}
    contents = {"pid_splits.json": splits, "problems.json": problems, "captions.json": captions}
    one = st.sampled_from(sorted(contents)).flatmap(
        lambda name: damaged(contents[name]).map(lambda drawn: (name, *drawn))
    )
    rows = write(folder / "rows.jsonl", json.dumps(PREDICTIONS[0]).encode())

    def check(outcomes, drawn):
        name, data, about = drawn
        for other, content in contents.items():
            write(folder / other, data if other == name else json.dumps(content).encode())
        read = lambda: use(ScienceQA(folder, use_captions=True))  # noqa: E731
        outcomes.run(read, [*(folder / other for other in contents), "images/"], f"{name} {about}")
        outcomes.run(
            lambda: score("scienceqa", rows, folder / "problems.json"),
            [folder / "problems.json", "problems.json"],
            about,
        )

    fuzz("ScienceQA", 300, one, check)


def test_mme(folder):
    tiny.picture().save(folder / "images" / "x.jpg")
    (folder / "existence").mkdir()
    tiny.picture().save(folder / "existence" / "x.jpg")
    path = folder / "existence" / "x.txt"
    text = b"Is there a dog?\tYes\nIs there a cat?\tNo\n"

    def check(outcomes, data):
        write(path, data)
        outcomes.run(lambda: use(MME(folder)), [path], "questions")
        write(folder / "results" / "existence.txt", b"x.jpg\t" + data.replace(b"\n", b"\tyes\nx.jpg\t"))
        outcomes.run(lambda: score("mme", folder / "results"), [folder / "results"], "results")

    fuzz("MME", 150, damaged_bytes([text]), check)


def test_predictions(folder):
    path = folder / "rows.jsonl"

    def read():
        read_predictions(path)
        score("scienceqa", path)

    check_file("predictions", 300, path, PREDICTIONS, read, lines=True, culprits=["prediction '", 'prediction "'])


def test_parquet(folder):
    datasets = pytest.importorskip("datasets")
    datasets.disable_caching()
    datasets.disable_progress_bars()
    path = folder / "train.parquet"
    rows = datasets.Dataset.from_list([{"image": IMAGE, "text": "two dogs"}] * 3)
    buffer = io.BytesIO()
    rows.to_parquet(buffer)

    def check(outcomes, data):
        write(path, data)
        outcomes.run(lambda: use(open_dataset(str(path))), [path, "sample 0"], "parquet")

    fuzz("parquet", 40, damaged_bytes([buffer.getvalue()]), check)


def test_official_files(folder):
    path = folder / "checkpoint-1.pth"
    args = argparse.Namespace(alpha=0.1, beta=0.01, hidden_proj=8, adapter_dim=4, drop_ratio=0.1, down_sample_num=[16])
    content = {"model": {"module.adapter_emb1": torch.zeros(4, 8)}, "args": args, "epoch": 1}
    sources = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        sources.append(buffer.getvalue())
    for other in ("hello", [1], {"model": {1: torch.zeros(1)}}, {"model": None}, {"model": {}, "args": "x"}):
        buffer = io.BytesIO()
        torch.save(other, buffer)
        sources.append(buffer.getvalue())

    def check(outcomes, data):
        write(path, data)
        outcomes.run(lambda: _recorded_fields(_read(path)[2], path, ()), [path], "pth")

    fuzz(".pth of the authors", 300, st.one_of(damaged_bytes(sources), st.sampled_from(sources)), check)
