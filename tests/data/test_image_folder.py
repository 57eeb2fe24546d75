"""ImageFolder: the samples of its lines, and the errors that name every bad line."""

import json
from itertools import islice

import pytest
from PIL import Image

from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.data.image_folder import ImageFolder
from adem_vl_hf.data.media import open_image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (5, 3), "red").save(tmp_path / "a.png")
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "sub" / "b.png")
    return tmp_path


def write(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def test_captions(folder):
    dataset = ImageFolder(
        write(folder, {"file_name": "a.png", "text": " a red flag "}, {"file_name": "sub/b.png", "text": "nothing"})
    )
    assert len(dataset) == 2
    first = dataset[0]
    assert first.pop("image").size == (5, 3)
    assert first == {
        "id": "a.png",
        "prompt": "a picture of",
        "answer": " a red flag",
        "references": ["a red flag"],
        "kind": "caption",
    }
    assert dataset[1]["image"].mode == "RGB"
    assert dataset[1]["image"].getpixel((0, 0)) == (255, 255, 255)
    assert [sample["id"] for sample in dataset] == ["a.png", "sub/b.png"]  # IndexError ends the loop


def test_questions_with_every_key(folder):
    line = {
        "file_name": "a.png",
        "prompt": "Which? Answer:",
        "answer": "red",
        "kind": "choice",
        "choices": ["blue", "red"],
    }
    line |= {"references": ["crimson", "red"], "captions": ["a red flag"], "width": 5}
    sample = ImageFolder(write(folder, line))[0]
    assert sample["prompt"] + sample["answer"] == "Which? Answer: red"
    assert sample["kind"] == "choice"
    assert sample["choices"] == ["blue", "red"]
    assert sample["references"] == ["red", "crimson", "a red flag"]


def test_capitals_in_the_keys_do_not_matter(folder):
    lines = [{"File_Name": "a.png", "Prompt": "Colour:\n", "Answer": "red", "KIND": "colour"},
             {"file_name": "a.png", "Question": "Which?", "Answer": "red"}]  # fmt: skip
    one, other = ImageFolder(write(folder, *lines))
    assert (one["prompt"], one["answer"], one["kind"]) == ("Colour:\n", "red", "colour")
    assert (other["prompt"], other["answer"]) == ("Which?", " red")
    line = {"file_name": "a.png", "Frage": "Which?", "frage": "no", "Antwort": "red"}
    (named,) = ImageFolder(write(folder, line), columns={"question": "Frage", "answer": "Antwort"})
    assert (named["prompt"], named["answer"]) == ("Which?", " red")


def test_prompt_of_the_folder_and_of_the_line(folder):
    lines = [{"file_name": "a.png", "text": "red"}, {"file_name": "a.png", "text": "red", "prompt": "Colour:\n"}]
    samples = list(ImageFolder(write(folder, *lines), prompt="It is"))
    assert [sample["prompt"] + sample["answer"] for sample in samples] == ["It is red", "Colour:\nred"]
    assert [sample["id"] for sample in samples] == ["a.png", "a.png:2"]


def test_a_prompt_of_the_folder_says_what_is_asked(folder):
    line = {"file_name": "a.png", "caption": "a flag", "answer": "red", "captions": ["crimson"]}
    (sample,) = ImageFolder(write(folder, line), prompt="Which colour?")
    assert (sample["answer"], sample["references"]) == (" red", ["red", "crimson"])
    del line["caption"]
    assert ImageFolder(write(folder, line))[0]["references"] == ["red", "crimson"]
    line["text"] = line.pop("answer")
    (named,) = ImageFolder(write(folder, line | {"label": "flag"}), columns={"text": "text"})
    assert named["answer"] == " red"


def test_splits(folder):
    for split in ["train", "test"]:
        (folder / split).mkdir()
        Image.new("RGB", (1, 1)).save(folder / split / "c.png")
        write(folder / split, {"file_name": "c.png", "text": split})
    assert ImageFolder(folder, split="test")[0]["answer"] == " test"
    with pytest.raises(FileNotFoundError, match=r"metadata.jsonl.*split=, one of \['test', 'train'\]"):
        ImageFolder(folder)
    with pytest.raises(FileNotFoundError, match=r"val.metadata.jsonl"):
        ImageFolder(folder, split="val")


def test_byte_order_mark_blank_lines_and_unicode_line_separators(folder):
    line = json.dumps({"file_name": "a.png", "text": "one\u2028line"}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_text(f"\ufeff\r\n{line}\r\n\r\n", encoding="utf-8")
    assert [sample["answer"] for sample in ImageFolder(folder)] == [" one\u2028line"]


def test_samples_are_independent_and_pictures_are_opened_late(folder):
    dataset = ImageFolder(write(folder, {"file_name": "a.png", "text": "red"}))
    first = dataset[0]
    first["prompt"] = "changed"
    first["references"].append("changed")
    assert dataset[0]["prompt"] == "a picture of"
    assert dataset[0]["references"] == ["red"]
    (folder / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a.png: no such image file"):
        dataset[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"file_name": "a.png", "text": "x"', "not valid JSON"),
        ("[1, 2]", "list instead of an object"),
        ({"text": "x"}, 'no "file_name"'),
        ({"file_name": 3, "text": "x"}, '"file_name" is 3'),
        ({"file_name": "c.png", "text": "x"}, "no such image file"),
        ({"file_name": "../a.png", "text": "x"}, "leads out of the image folder"),
        ({"file_name": "/etc/passwd", "text": "x"}, "leads out of the image folder"),
        ({"file_name": "a.png"}, 'neither "text" nor "answer"'),
        ({"file_name": "a.png", "text": None}, 'neither "text" nor "answer"'),
        ({"file_name": "a.png", "text": "x", "answer": "y"}, 'both "text" and "answer"'),
        ({"file_name": "a.png", "text": "x", "response": "y"}, 'both "text" and "response"; give one'),
        ({"file_name": "a.png", "text": "x", "label": 3}, 'both "text" and "label"; give one'),
        ({"file_name": "a.png", "caption": "x", "answer": "y"}, 'both "caption" and "answer"; give one'),
        ({"file_name": "a.png", "caption": "x", "output": "y"}, 'both "caption" and "output"; give one'),
        ({"file_name": "a.png", "text": " \n"}, '"text" is empty'),
        ({"file_name": "a.png", "answer": 7}, '"answer" is 7; it must be a text'),
        ({"file_name": "a.png", "text": "x", "prompt": ["p"]}, '"prompt" is'),
        ({"file_name": "a.png", "text": "x", "captions": "y"}, "\"captions\" is 'y'; it must be a list"),
        ({"file_name": "a.png", "text": "x", "references": [""]}, '"references" is'),
        ({"file_name": "a.png", "text": "x", "video": "a.gif"}, "it shows more than the image of its file_name"),
        ({"file_name": "a.png", "text": "x", "choices": ["y", "z"]}, 'the answer "x" is not among "choices"'),
        (
            {"file_name": "a.png", "question": "?", "answer": "ox", "choices": ["y"]},
            "'ox', which is none of its choices",
        ),
        (
            {"file_name": "a.png", "question": "?", "answer": "C", "A": "x", "B": "y"},
            "its choices are A, B; correct it",
        ),
        ({"file_name": "a.png", "question": "", "answer": "x"}, 'its "question" is empty'),
        ({"file_name": "a.png", "question": "?", "answer": " "}, "its answer is empty, so it would train nothing"),
    ],
)
def test_bad_lines_are_named(folder, line, words):
    write(folder, {"file_name": "a.png", "text": "good"}, line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2: ") as caught:
        ImageFolder(folder)
    assert words in str(caught.value)


def test_a_file_without_lines_or_in_another_encoding(folder):
    with pytest.raises(ValueError, match=r"metadata\.jsonl: no lines"):
        ImageFolder(write(folder))
    (folder / "metadata.jsonl").write_bytes('{"file_name": "a.png", "text": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata\.jsonl: not UTF-8"):
        ImageFolder(folder)


def test_capitals_do_not_matter_among_choices(folder):
    line = {"file_name": "a.png", "prompt": "which?", "text": "Dog", "choices": ["cat", "dog"]}
    sample = ImageFolder(write(folder, line))[0]
    assert (sample["answer"], sample["references"], sample["choices"]) == (" dog", ["dog"], ["cat", "dog"])
    line = {"file_name": "a.png", "question": "which?", "answer": "B", "A": "cat", "B": "dog"}
    assert ImageFolder(write(folder, line))[0]["answer"] == " dog"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("place", [".", "test"])
def test_a_cell_of_metadata_csv_is_the_text_that_was_written(tmp_path, place, streaming):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    lines = ["file_name,question,answer"]
    for number, cell in enumerate(["007", "3.10", "True", "None"]):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,which?,{cell}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    read = open_dataset(str(tmp_path), "train" if place == "." else place, streaming=streaming)
    samples = list(islice(read, 4))  # a stream goes on for ever
    assert sorted(sample["answer"] for sample in samples) == [" 007", " 3.10", " None", " True"]
    assert all(open_image(sample["image"]).size == (8, 8) for sample in samples)
    if place == ".":
        with pytest.raises(ValueError, match="no split 'test'"):
            open_dataset(str(tmp_path), "test", streaming=streaming)


def test_a_relative_folder_is_that_of_the_working_folder_now(tmp_path, monkeypatch):
    """As in a notebook that goes from one project to the next."""
    for place, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / place / "pics").mkdir(parents=True)
        Image.new("RGB", (2, 2), colour).save(tmp_path / place / "pics" / "a.png")
        write(tmp_path / place / "pics", {"file_name": "a.png", "text": colour})
        monkeypatch.chdir(tmp_path / place)
        assert ImageFolder("pics")[0]["references"] == [colour]
