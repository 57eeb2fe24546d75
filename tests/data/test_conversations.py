"""Conversations: one sample each or one for every reply without history, and every bad entry is named."""

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
    dataset = Conversations(write(image_folder, ENTRIES), image_folder, each_turn_alone=True)
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


def test_a_conversation_is_one_sample(image_folder):
    entries = [
        {
            **ENTRIES[0],
            "conversations": [*turns("<image>\nWhat colour?", " Red. ", "Why?", "It is\npaint."), turns("?")[0]],
        }
    ]
    dataset = Conversations(write(image_folder, [*entries, *ENTRIES[1:]]), image_folder)
    samples = [dataset[i] for i in range(len(dataset))]
    assert [sample["id"] for sample in samples] == ["7", "8", "7@2", "3"]
    assert [dataset.number_of_turns(i) for i in range(4)] == [2, 1, 1, 1]
    assert [(turn["role"], turn["content"]) for turn in samples[0]["messages"]] == [
        ("user", "<image>\nWhat colour?"), ("assistant", "Red."), ("user", "Why?"), ("assistant", "It is\npaint."),
    ]  # fmt: skip
    assert samples[2]["messages"][0]["content"] == "<image>Describe it."
    assert (samples[0]["prompt"], samples[0]["answer"], samples[0]["kind"]) == ("Why?", "It is\npaint.", "chat")
    assert [sample["image"] and sample["image"].size for sample in samples] == [(5, 3), None, (5, 3), None]


def test_an_entry_may_have_several_images(image_folder):
    entry = {"id": "x", "image": ["train/a.png"] * 2, "conversations": turns("<image> or <image>?", "Both.")}
    (sample,) = Conversations(write(image_folder, [entry]), image_folder)
    assert len(sample["images"]) == 2
    with pytest.raises(ValueError, match=r"entry 0 \(id x\): 2 <image> marks for 3 images"):
        Conversations(write(image_folder, [entry | {"image": ["train/a.png"] * 3}]), image_folder)


def test_a_turn_alone_needs_an_instruction(image_folder):
    entry = {"id": "x", "image": "train/a.png", "conversations": turns("<image>", "b")}
    assert len(Conversations(write(image_folder, [entry]), image_folder)) == 1
    with pytest.raises(ValueError, match=r"entry 0 \(id x\), turn 0: empty"):
        Conversations(write(image_folder, [entry]), image_folder, each_turn_alone=True)


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json"])
def test_json_lines_are_read_too(image_folder, name):
    path = write(image_folder, "\n".join(map(json.dumps, ENTRIES)), name)
    expected = Conversations(write(image_folder, ENTRIES, "list.json"), image_folder, True)
    assert [sample["id"] for sample in Conversations(path, image_folder, True)] == [sample["id"] for sample in expected]


def test_the_image_folder_is_the_files_own_by_default(image_folder):
    (image_folder / "chat.json").write_text(json.dumps(ENTRIES))
    assert Conversations(image_folder / "chat.json", each_turn_alone=True)[0]["image"].size == (5, 3)


def test_images_are_opened_late(image_folder):
    dataset = Conversations(write(image_folder, ENTRIES), image_folder, each_turn_alone=True)
    (image_folder / "train" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.png: empty"):
        dataset[0]
    assert dataset[2]["answer"] == " Hello."


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("text", "str instead of an object"),
        ({"id": "x"}, " has no text to train on but the columns ['id']"),
        ({"id": "x", "conversations": []}, "(its chat [] is no list of messages"),
        ({"id": "x", "conversations": turns("a", "b")[::-1]}, "no answer of the assistant follows"),
        ({"id": "x", "conversations": [*turns("a"), *turns("b")]}, "no answer of the assistant follows"),
        ({"id": "x", "conversations": [{"from": "system", "value": "a"}, *turns("b")]}, "no answer of the assistant"),
        ({"id": "x", "conversations": ["a", "b"]}, "(its chat ['a', 'b'] is no list of messages"),
        (
            {"id": "x", "conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]},
            "turn 0: its content is missing",
        ),
        (
            {"id": "x", "conversations": [*turns("a", "b"), {"from": "tool", "value": "c"}]},
            "turn 2: its role is 'tool'",
        ),
        ({"id": "x", "conversations": turns("a", " \n")}, "turn 1: the answer is empty"),
        ({"id": "x", "conversations": turns("<image>\nWhat?", "b")}, ": 1 <image> marks for 0 images"),
        ({"id": "x", "image": "train/b.png", "conversations": turns("a", "b")}, "b.png: no such image file"),
        ({"id": "x", "image": "../a.png", "conversations": turns("a", "b")}, "leads out of the image folder"),
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
