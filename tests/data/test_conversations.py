"""Conversations: every reply becomes one sample without history, and every bad entry is named."""

import json

import pytest
from PIL import Image

from adem_vl_hf.data.instructions import Conversations


def turns(*values):
    return [{"from": "human" if i % 2 == 0 else "gpt", "value": value} for i, value in enumerate(values)]


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    Image.new("RGB", (5, 3), "red").save(folder / "train" / "a.png")
    return folder


def write(image_folder, entries, name="chat.json"):
    path = image_folder.parent / name
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    return path


ENTRIES = [
    {
        "id": "7",
        "image": "train/a.png",
        "conversations": turns("<image>\nWhat colour?", " Red. ", "Why?\n<image>", "It is\npaint."),
    },
    {"id": 8, "conversations": turns("Say {hello}.", "Hello.")},
    {"id": "7", "image": "train/a.png", "conversations": turns("Describe it.", "A red flag.")},
    {"conversations": turns("Who?", "I.")},
]


def test_every_reply_is_a_sample_without_history(image_folder):
    dataset = Conversations(write(image_folder, ENTRIES), image_folder)
    samples = [dataset[i] for i in range(len(dataset))]
    assert [sample["id"] for sample in samples] == ["7/0", "7/1", "8/0", "7@2/0", "3/0"]
    assert [sample["prompt"] + sample["answer"] for sample in samples] == [
        "Instruction: What colour?\nResponse: Red.",
        "Instruction: Why?\nResponse: It is\npaint.",
        "Instruction: Say {hello}.\nResponse: Hello.",
        "Instruction: Describe it.\nResponse: A red flag.",
        "Instruction: Who?\nResponse: I.",
    ]
    assert [sample["image"] and sample["image"].size for sample in samples] == [(5, 3), (5, 3), None, (5, 3), None]
    assert samples[0]["references"] == ["Red."]
    assert {sample["kind"] for sample in samples} == {"instruction"}
    assert samples[1]["prompt"].endswith("\nResponse:")


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json"])
def test_json_lines_are_read_too(image_folder, name):
    path = write(image_folder, "\n".join(map(json.dumps, ENTRIES)), name)
    expected = Conversations(write(image_folder, ENTRIES, "list.json"), image_folder)
    assert [sample["id"] for sample in Conversations(path, image_folder)] == [sample["id"] for sample in expected]


def test_the_image_folder_is_the_files_own_by_default(image_folder):
    (image_folder / "chat.json").write_text(json.dumps(ENTRIES))
    assert Conversations(image_folder / "chat.json")[0]["image"].size == (5, 3)


def test_images_are_opened_late(image_folder):
    dataset = Conversations(write(image_folder, ENTRIES), image_folder)
    (image_folder / "train" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.png: empty"):
        dataset[0]
    assert dataset[2]["answer"] == " Hello."


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("text", "str instead of an object"),
        ({"id": "x"}, 'no "conversations"'),
        ({"id": "x", "conversations": []}, 'no "conversations"'),
        ({"id": "x", "conversations": turns("a", "b", "c")}, "3 turns; every turn of the human needs"),
        ({"id": "x", "conversations": turns("a", "b")[::-1]}, "turn 0: from 'gpt' where \"human\" belongs"),
        ({"id": "x", "conversations": [*turns("a"), *turns("b")]}, "turn 1: from 'human' where \"gpt\" belongs"),
        ({"id": "x", "conversations": [{"from": "system", "value": "a"}, *turns("b")]}, "turn 0: from 'system'"),
        ({"id": "x", "conversations": ["a", "b"]}, "turn 0: from 'a'"),
        ({"id": "x", "conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]}, 'turn 0: no "value"'),
        ({"id": "x", "conversations": turns("a", " \n")}, "turn 1: empty"),
        ({"id": "x", "image": "train/a.png", "conversations": turns("<image>", "b")}, "turn 0: empty"),
        ({"id": "x", "conversations": turns("<image>\nWhat?", "b")}, 'turn 0: <image> in the text but no "image"'),
        ({"id": "x", "image": "train/b.png", "conversations": turns("a", "b")}, "b.png: no such image file"),
        ({"id": "x", "image": "../a.png", "conversations": turns("a", "b")}, "leads out of the image folder"),
        ({"id": "x", "image": ["train/a.png"], "conversations": turns("a", "b")}, '"image" is a list'),
        ({"id": "x", "image": 3, "conversations": turns("a", "b")}, '"image" is 3'),
    ],
)
def test_bad_entries_are_named(image_folder, entry, words):
    path = write(image_folder, [ENTRIES[1], entry])
    with pytest.raises(ValueError, match=r"chat\.json, entry 1") as caught:
        Conversations(path, image_folder)
    assert words in str(caught.value)
    assert entry == "text" or "(id x)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{", "not valid JSON"),
        ("[]", "no conversations"),
        ('"a"', "str instead of a list"),
        (json.dumps(ENTRIES[1]) + "\n{", "line 2: not valid JSON"),
    ],
)
def test_bad_files_are_named(image_folder, text, words):
    with pytest.raises(ValueError, match=r"chat\.json") as caught:
        Conversations(write(image_folder, text), image_folder)
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Conversations(tmp_path / "none.json")
