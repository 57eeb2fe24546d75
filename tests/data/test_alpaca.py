"""Alpaca's text-only instructions, alone and mixed with conversations about pictures."""

import json

import pytest
import tiny
import torch
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.cli.parser import main
from adem_vl_hf.data import Alpaca, Conversations, open_dataset
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.sample import images_of

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": " 5\n"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"instruction": "Greet.", "output": "Hello."},
]


@pytest.fixture
def files(tmp_path):
    """Write ``alpaca_data.json`` and ``llava.json`` with its image, which the second entry names as LLaVA does."""
    (tmp_path / "alpaca_data.json").write_text(json.dumps(ROWS))
    Image.new("RGB", (6, 4), "red").save(tmp_path / "COCO_train2014_000000000009.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "Red."}]
    (tmp_path / "llava.json").write_text(json.dumps([{"image": "000000000009.jpg", "conversations": turns}]))
    return tmp_path


def test_rows_are_samples_without_pictures(files):
    dataset = open_dataset(str(files / "alpaca_data.json"))
    assert isinstance(dataset, Alpaca)
    assert [sample["prompt"] + sample["answer"] for sample in dataset] == [
        "Instruction: Name a colour.\nResponse: Blue.",
        "Instruction: Add the numbers. 2 and 3\nResponse: 5",
        "Instruction: Greet.\nResponse: Hello.",
    ]
    assert [sample["id"] for sample in dataset] == ["alpaca/0", "alpaca/1", "alpaca/3"]
    assert {(sample["image"], sample["kind"]) for sample in dataset} == {(None, "instruction")}
    assert dataset.skipped == 1


def test_json_lines_and_conversations_are_told_apart(files):
    (files / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert len(open_dataset(str(files / "rows.jsonl"))) == 3
    conversations = open_dataset(str(files / "llava.json"))
    assert isinstance(conversations, Conversations)
    assert conversations[0]["image"].size == (6, 4)  # under COCO's own name


def test_a_batch_of_the_mixture_says_which_rows_see(bases, files):
    model = tiny.build(bases)
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    samples = [Conversations(files / "llava.json")[0], Alpaca(files / "alpaca_data.json")[0]]
    batch = AdemVLCollator(processor)(samples)
    assert batch["image_mask"].tolist() == [True, False]
    assert torch.isfinite(model(**batch).loss)


def test_the_mixture_trains_from_the_command_line(bases, files, tmp_path):
    data = [str(files / name) for name in ("llava.json", "alpaca_data.json")]
    argv = ["train", *tiny.base_flags(bases), "--data", *data, "--output-dir", str(tmp_path / "run"),
            "--max-steps", "1", "--batch-size", "4", "--dtype", "float32", "--attn-implementation", "eager",
            "--projector-dim", "8",
            "--visual-token-counts", "4", "--set", "use_cpu=true", "disable_tqdm=true"]  # fmt: skip
    assert main(argv) == 0
    assert json.loads((tmp_path / "run" / "training.json").read_text())["samples"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"instruction": "a", "output": 3}]', 'row 0: "output" is 3'),
        ('[{"instruction": "a"}]', 'row 0: "output" is None'),
        ('[{"instruction": " ", "output": "b"}]', 'row 0: "instruction" is empty'),
        ('[{"instruction": "a", "input": null, "output": "b"}]', 'row 0: "input" is None'),
        ('[{"instruction": "a", "output": ""}]', "no row with an output"),
        ('"a"', "str instead of a list of Alpaca-style rows"),
    ],
)
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "alpaca_data.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"alpaca_data\.json") as caught:
        Alpaca(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("column", ["image", "img", "Picture", "photo", "image_path", "file_name", "images", "videos"])
def test_instructions_with_an_image_in_any_known_column_show_it(tmp_path, column):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    row = {"instruction": "What?", "input": "", "output": "x", column: "a.png"}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    (sample,) = open_dataset(str(tmp_path / "rows.json"))
    assert images_of(sample).images


def test_instructions_with_an_image_in_an_unknown_column_are_refused_until_it_is_named(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "rows.json").write_text(json.dumps([ROWS[0], {**ROWS[0], "img_name": "a.png"}]))
    with pytest.raises(ValueError, match=r"rows\.json, row 1: the column 'img_name' holds an image that would be ign"):
        open_dataset(str(tmp_path / "rows.json"))
    (tmp_path / "rows.json").write_text(json.dumps([{**ROWS[0], "img_name": "a.png"}]))
    (sample,) = open_dataset(str(tmp_path / "rows.json"), columns={"image": "img_name"})
    assert sample["image"].size == (6, 4)
