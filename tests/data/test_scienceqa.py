"""ScienceQA: the authors' prompts from the official folder format, and choice samples written in that format."""

import json
from string import ascii_uppercase

import pytest
from PIL import Image
from scienceqa_folder import problem, write

from adem_vl_hf.data.sample import Sample
from adem_vl_hf.data.scienceqa import ScienceQA, write_scienceqa
from adem_vl_hf.evaluation.scienceqa import read_choice

OFFICIAL_FIELDS = {
    *("question", "choices", "answer", "hint", "image", "task", "grade"),
    *("subject", "topic", "category", "skill", "lecture", "solution", "split"),
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "images" / "train" / "12" / "image.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (5, 3), "red").save(path)
    problems = {
        "12": problem("train", hint="Look at the picture.", image="image.png"),
        "13": problem("train", choices=["yes", " no "], answer=0),
        "14": problem("test"),
    }
    splits = {"train": ["13", "12"], "minitrain": ["12"], "test": ["14"]}
    return write(tmp_path, problems, splits, {"12": "a red flag"})


def test_samples_in_the_order_of_the_split(folder):
    dataset = ScienceQA(folder)
    assert len(dataset) == 2
    plain, pictured = dataset
    assert plain == {
        "id": "13",
        "image": None,
        "prompt": "Context: N/A\nQuestion: Which is red?\nOptions: (A) yes (B) no\nResponse:",
        "answer": " The answer is A.",
        "references": ["yes"],
        "kind": "choice",
        "choices": ["yes", "no"],
    }
    assert pictured["image"].size == (5, 3)
    assert pictured["answer"] == " The answer is B."
    assert dataset.problems["13"]["grade"] == "grade2"
    assert ScienceQA(folder, "minitrain")[0]["image"].size == (5, 3)  # lies under images/train
    assert ScienceQA(folder, "test")[0]["id"] == "14"


@pytest.mark.parametrize(
    ("prompt_format", "use_captions", "expected"),
    [
        ("CQM-A", False, "Context: Look at the picture.\nQuestion: Which is red?"),
        ("CQM-A", True, "Context: Look at the picture. a red flag\nQuestion: Which is red?"),
        ("QCM-A", False, "Question: Which is red?\nContext: Look at the picture."),
        ("QCM-A", True, "Question: Which is red?\nContext: Look at the picture. a red flag"),
    ],
)
def test_prompt_formats_and_captions(folder, prompt_format, use_captions, expected):
    sample = ScienceQA(folder, "train", prompt_format, use_captions)[1]
    assert sample["prompt"] == f"{expected}\nOptions: (A) sky (B) blood (C) grass\nResponse:"


@pytest.mark.parametrize(
    ("prompt_format", "expected"),
    [
        ("QCM-A", "The answer is B."),
        ("QCM-AL", "The answer is B. BECAUSE: Colours differ."),
        ("QCM-AE", "The answer is B. BECAUSE: Blood has iron."),
        ("CQM-ALE", "The answer is B. BECAUSE: Colours differ. Blood has iron."),
        ("CQM-AEL", "The answer is B. BECAUSE: Blood has iron. Colours differ."),
        ("CQM-LA", "Colours differ. The answer is B."),
        ("CQM-EA", "Blood has iron. The answer is B."),
        ("QCM-LEA", "Colours differ. Blood has iron. The answer is B."),
        ("QCM-ELA", "Blood has iron. Colours differ. The answer is B."),
    ],
)
def test_answers_with_their_reasons_are_read_back(tmp_path, prompt_format, expected):
    told = problem("train", lecture="Colours\n differ.", solution="Blood has iron.")
    folder = write(tmp_path, {"1": told, "2": problem("train")}, {"train": ["1", "2"]})
    sample, untold = ScienceQA(folder, prompt_format=prompt_format)
    assert sample["answer"] == f" {expected}"
    assert read_choice(sample["answer"], sample["choices"]) == 1
    assert untold["answer"] == " The answer is B."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answer": 3}, '"answer" is 3; give the index of the right one of 3 choices'),
        ({"answer": -1}, '"answer" is -1'),
        ({"answer": "B"}, "\"answer\" is 'B'"),
        ({"answer": True}, '"answer" is True'),
        ({"choices": []}, '"choices" is []'),
        ({"choices": "sky"}, "\"choices\" is 'sky'"),
        ({"choices": [1, 2]}, '"choices" is [1, 2]'),
        ({"choices": [*ascii_uppercase, "AA"]}, '"choices" is'),
        ({"image": "image.png"}, "no such image file"),
        ({"image": "../../../secret.png"}, "leads out of the image folder"),
    ],
)
def test_bad_problems_are_named(folder, fields, words):
    write(folder, {"15": problem("train", **fields)}, {"train": ["15"]})
    with pytest.raises(ValueError, match=r"problems\.json, problem 15: ") as caught:
        ScienceQA(folder)
    assert words in str(caught.value)


def test_bad_folders_are_named(folder):
    with pytest.raises(ValueError, match=r"prompt_format 'QM-A': choose one of CQM-A, CQM-AL, "):
        ScienceQA(folder, prompt_format="QM-A")
    with pytest.raises(ValueError, match=r"pid_splits\.json: no split 'val'; choose one of train, minitrain, test"):
        ScienceQA(folder, "val")
    (folder / "captions.json").unlink()
    assert len(ScienceQA(folder)) == 2
    with pytest.raises(FileNotFoundError, match=r"captions\.json"):
        ScienceQA(folder, use_captions=True)
    write(folder, {"12": [1]}, {"train": ["12"], "test": ["99"]})
    with pytest.raises(ValueError, match=r"problem 12: list instead of"):
        ScienceQA(folder)
    with pytest.raises(ValueError, match=r"no problem '99', which split 'test' names"):
        ScienceQA(folder, "test")
    write(folder, {"12": {"question": "?", "split": "train"}}, {"train": ["12"]})
    with pytest.raises(ValueError, match=r"problem 12: no choices, answer"):
        ScienceQA(folder)
    (folder / "problems.json").write_text("{")
    with pytest.raises(ValueError, match=r"problems\.json: not valid JSON"):
        ScienceQA(folder)
    (folder / "pid_splits.json").write_text("[]")
    with pytest.raises(ValueError, match=r"pid_splits\.json: list instead of"):
        ScienceQA(folder)


def choice(name, right, image=None, **fields):
    sample = Sample(
        id=name,
        image=image,
        prompt="Question: Which of these is in the picture? Options: (A) fox (B) hot dog Answer: ",
        answer=f" {right}",
        references=[right],
        kind="choice",
        choices=["fox", "hot dog"],
    )
    return sample | fields


QUESTION = "Which of these is in the picture?"


def test_written_samples_come_back(tmp_path):
    image = Image.effect_noise((6, 4), 80).convert("RGB")
    folder = tmp_path / "new" / "folder"
    write_scienceqa((s for s in [choice("a-1", "hot dog", image), choice("a-2", "fox")]), folder, "train", QUESTION)
    first, second = ScienceQA(folder)
    assert first["prompt"] == f"Context: N/A\nQuestion: {QUESTION}\nOptions: (A) fox (B) hot dog\nResponse:"
    assert (first["id"], first["answer"]) == ("a-1", " The answer is B.")
    assert (second["id"], second["answer"]) == ("a-2", " The answer is A.")
    for sample, right in [(first, "hot dog"), (second, "fox")]:
        assert (sample["references"], sample["choices"], sample["kind"]) == ([right], ["fox", "hot dog"], "choice")
    assert first["image"].tobytes() == image.tobytes()
    assert second["image"] is None

    problems = json.loads((folder / "problems.json").read_text())
    assert set(problems["a-1"]) == OFFICIAL_FIELDS
    assert (problems["a-1"]["answer"], problems["a-1"]["image"], problems["a-2"]["image"]) == (1, "image.png", None)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"problems.json", "pid_splits.json", "images/train/a-1/image.png"}  # nothing half-written is left


def test_writing_extends_a_folder(folder):
    write_scienceqa([choice("20", "fox")], folder, "val")
    write_scienceqa([choice("21", "hot dog", Image.new("RGB", (2, 2)))], folder, "val")
    assert [sample["id"] for sample in ScienceQA(folder, "val")] == ["20", "21"]
    assert ScienceQA(folder, "val").problems["20"]["question"] == choice("", "fox")["prompt"].strip()
    assert [sample["id"] for sample in ScienceQA(folder, "train")] == ["13", "12"]


def test_an_interrupted_call_leaves_the_folder_as_it_was_and_can_be_repeated(folder):
    def interrupted():
        yield choice("20", "fox", Image.new("RGB", (2, 2)))
        raise KeyboardInterrupt

    before = (folder / "problems.json").read_bytes(), (folder / "pid_splits.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_scienceqa(interrupted(), folder, "train")
    assert ((folder / "problems.json").read_bytes(), (folder / "pid_splits.json").read_bytes()) == before
    write_scienceqa([choice("20", "fox", Image.new("RGB", (2, 2)))], folder, "train")
    assert len(ScienceQA(folder)) == 3


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], "no samples for split 'train'"),
        ([choice("12", "fox")], "sample '12': .* has a problem of that id"),
        ([choice("20", "fox"), choice("20", "fox")], "sample '20': .* has a problem of that id"),
        ([choice("../20", "fox")], r"sample id '\.\./20': names a folder"),
        ([choice("a/b", "fox")], "sample id 'a/b': names a folder"),
        ([choice("20", "fox", kind="caption")], "sample '20': kind 'caption'"),
        ([choice("20", "fox", choices=["fox"])], "sample '20': .* with 1 choices"),
        ([choice("20", "cat")], r"sample '20': its first reference \['cat'\] is not among its choices"),
        ([choice("20", "fox", references=[])], r"sample '20': its first reference \[\] is not"),
    ],
)
def test_samples_that_cannot_be_written(folder, samples, words):
    with pytest.raises(ValueError, match=words):
        write_scienceqa(samples, folder, "train")


def test_a_split_cannot_climb_out(tmp_path):
    with pytest.raises(ValueError, match=r"split '\.\.': names a folder"):
        write_scienceqa([choice("20", "fox")], tmp_path, "..")
