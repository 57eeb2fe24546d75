"""Data sets in every form that the library ``datasets`` reads, with the columns that people give them."""

import csv
import io
import json
import os
import tarfile
from itertools import islice

import datasets
import numpy as np
import pytest
import tiny
from PIL import Image

from adem_vl_hf.cli import main
from adem_vl_hf.data import ImageFolder, open_dataset
from adem_vl_hf.data.columns import sample_of
from adem_vl_hf.data.media import open_image
from adem_vl_hf.data.sample import images_of

COLOURS = {"red circle": "red", "blue square": "blue", "green line": "green"}


def pictures(folder):
    """Save an image per text; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for text, colour in COLOURS.items():
        names[text] = f"{colour}.png"
        Image.new("RGB", (16, 16), colour).save(folder / names[text])
    return names


def rows():
    return {"image": [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()], "text": list(COLOURS)}


def parquet_file(folder):
    datasets.Dataset.from_dict(rows(), features=features()).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def features():
    return datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})


def parquet_folder(folder):
    parquet_file(folder)
    return folder


def saved_to_disk(folder):
    whole = datasets.Dataset.from_dict(rows(), features=features())
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(folder / "saved")
    return folder / "saved"


def metadata_csv(folder):
    names = pictures(folder / "pics")
    with (folder / "pics" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *((name, text) for text, name in names.items())])
    return folder / "pics"


def class_folders(folder):
    for text, colour in COLOURS.items():
        place = folder / "classes" / "train" / text.replace(" ", "_")
        place.mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(place / "0.png")
    return folder / "classes"


def csv_file(folder):
    names = pictures(folder)
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((name, text) for text, name in names.items())])
    return folder / "rows.csv"


def jsonl_file(folder):
    lines = [json.dumps({"image": name, "caption": text}) for text, name in pictures(folder).items()]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def webdataset(folder):
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number, (text, colour) in enumerate(COLOURS.items()):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
            for name, content in ((f"{number}.png", buffer.getvalue()), (f"{number}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder / "shard.tar"


FORMS = [
    parquet_file, parquet_folder, saved_to_disk, metadata_csv, class_folders, csv_file, jsonl_file, webdataset,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_same_samples(tmp_path, form):
    found = open_dataset(str(form(tmp_path)))
    samples = [found[index] for index in range(len(found))]
    assert {sample["references"][0] for sample in samples} == set(COLOURS)
    assert all(sample["answer"] == f" {sample['references'][0]}" for sample in samples)
    assert all(sample["prompt"] == "a picture of" for sample in samples)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_command_line_trains_on_every_form(bases, tmp_path, form):
    train(bases, form(tmp_path), tmp_path / "run")


@pytest.mark.slow
def test_the_command_line_trains_with_named_columns(bases, tmp_path):
    given = rows()
    given = {"photo_file": given["image"], "description": given["text"]}
    datasets.Dataset.from_dict(given).cast_column("photo_file", datasets.Image()).to_parquet(tmp_path / "a.parquet")
    train(bases, tmp_path / "a.parquet", tmp_path / "run", "--columns", "image=photo_file", "text=description")


def train(bases, data, output, *more):
    main(
        ["train", *tiny.base_flags(bases), "--data", str(data), "--output-dir", str(output), "--max-steps", "2",
         "--batch-size", "2", "--projector-dim", "8", *more, "--set", "use_cpu=true", "disable_tqdm=true"]
    )  # fmt: skip
    assert (output / "model.safetensors").is_file()


def test_a_split_is_named_where_it_is_missing(tmp_path):
    folder = str(saved_to_disk(tmp_path))
    assert len(open_dataset(folder, "test")) == 3
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        open_dataset(folder, "val")


def test_what_cannot_be_read_says_so(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="a.parquet: the library datasets cannot read it"):
        open_dataset(str(tmp_path / "a.parquet"))
    (tmp_path / "b.jsonl").write_text('{"text": "a cat"}\n{"text": "a d')
    with pytest.raises(ValueError, match="b.jsonl: the library datasets cannot read it .*JSON parse error"):
        open_dataset(str(tmp_path / "b.jsonl"))
    datasets.Dataset.from_dict({"text": []}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="c.parquet.* has no rows"):
        open_dataset(str(tmp_path / "c.parquet"))
    with pytest.raises(ValueError, match="no such path, and not found on the Hub"):
        open_dataset("nobody/nothing-of-the-kind")


RED = Image.new("RGB", (16, 16), "red")
OPTIONS = "which?\nOptions: (A) cat (B) dog\nAnswer:"
NUMBERS = "which?\nOptions: (A) 2 (B) 3 (C) 4\nAnswer:"
LABELLED = {"text": ["cat", "dog"], "label": ["1", "2"]}
HOUND = ["dog", "hound"]
VQA = [{"answer": "two", "answer_id": 1}, {"answer": "2"}, {"answer": "two"}]


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "references"),
    [
        ({"caption": "a cat"}, "a picture of", " a cat", ["a cat"]),
        ({"caption": "a cat", "kind": "animal"}, "a picture of", " a cat", ["a cat"]),
        ({"captions": ["a cat", "one cat"]}, "a picture of", " a cat", ["a cat", "one cat"]),
        ({"question": "how many?", "answers": VQA}, "how many?", " two", ["two", "2"]),
        ({"question": "how many?", "answer": "two"}, "how many?", " two", ["two"]),
        ({"prompt": "Question: how many?\n", "completion": "two"}, "Question: how many?\n", "two", ["two"]),
        ({"prompt": "a photo of", "answer": "a cat"}, "a photo of", " a cat", ["a cat"]),
        ({"prompt": "a photo of", "answer": " a cat"}, "a photo of", " a cat", ["a cat"]),
        ({"Caption": "a cat"}, "a picture of", " a cat", ["a cat"]),
        ({"captions": ["", None, "a cat"]}, "a picture of", " a cat", ["a cat"]),
        ({"captions": np.array(["a cat", "one cat"], dtype=object)}, "a picture of", " a cat", ["a cat", "one cat"]),
        ({"sentences": [{"raw": "a cat", "tokens": ["a"]}]}, "a picture of", " a cat", ["a cat"]),
        ({"label": "cat"}, "a picture of", " cat", ["cat"]),
        ({"question": "how many?", "answer": 2}, "how many?", " 2", ["2"]),
        ({"question": "how many?", "text": "two"}, "how many?", " two", ["two"]),
        ({"query": "how many?", "caption": "two", "answer": "2"}, "how many?", " 2", ["2"]),
        ({"question": "how many?", "label": ["14"]}, "how many?", " 14", ["14"]),
        ({"question": "how many?", "answers": {"answer": ["two", "two", "2"]}}, "how many?", " two", ["two", "2"]),
        ({"question": "which?", "choices": ["cat", "dog"], "answer": 1}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": ["cat", "dog"], "answer": "(B)"}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": ["cat", "dog"], "answer": "b"}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": "['cat', 'dog']", "answer": 1}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": {"A": "cat", "B": "dog"}, "answer": "B"}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": LABELLED, "answer": "2"}, OPTIONS, " dog", ["dog"]),
        ({"question": "which?", "options": [], "answer": "dog"}, "which?", " dog", ["dog"]),
        ({"question": "which?", "options": [2, 3, 4], "answer": "A"}, NUMBERS, " 2", ["2"]),
        ({"question": "which?", "options": list(range(50, 90)), "answer": 80}, "which?", " 80", ["80"]),
        ({"question": "which?", "answer": "dog", "kind": "animal", "references": ["hound"]}, "which?", " dog", HOUND),
        ({"prompt": "which?", "answer": "dog", "kind": "animal"}, "which?", " dog", ["dog"]),
        ({"question": "which?", "answer": "dog", "references": []}, "which?", " dog", ["dog"]),
        ({"question": "which?", "answer": "dog", "references": [{"doi": "10/x"}]}, "which?", " dog", ["dog"]),
        ({"query": "how many?", "response": "two"}, "how many?", " two", ["two"]),
        ({"instruction": "Translate.", "input": "cat", "output": "Katze"}, "Translate.\ncat", " Katze", ["Katze"]),
        ({"instruction": "Which?", "inputs": "", "outputs": "cat"}, "Which?", " cat", ["cat"]),
    ],
)
def test_columns_are_recognised(row, prompt, answer, references):
    sample = sample_of({"image": None, **row}, 7)
    assert (sample["prompt"], sample["answer"], sample["references"]) == (prompt, answer, references)
    assert (sample["id"], sample["image"]) == ("7", None)


def test_a_kind_and_references_do_not_make_a_sample_of_a_row(tmp_path):
    """Only all fields of a sample and no column of another name do: else its image and the space would be lost."""
    row = {"picture": RED, "prompt": "which colour?", "answer": "red", "kind": "colour"}
    for given in (row, row | {"references": ["crimson"]}):
        sample = sample_of(given, 0)
        assert (sample["image"], sample["answer"], sample["kind"]) == (RED, " red", "colour")
    assert sample["references"] == ["red", "crimson"]
    assert sample_of({**row, "picture": None, "photo_file": RED}, 0, {"image": "photo_file"})["image"] is RED
    of_question = {"image": RED, "question": "which?", "answer": "red", "kind": "colour", "references": ["crimson"]}
    assert sample_of(of_question, 0)["kind"] == "colour"
    sample = {"id": "a", "image": RED, "prompt": "which?", "answer": "red", "references": ["red"], "kind": "colour"}
    assert sample_of(sample | {"choices": ["red", "blue"]}, 0) == sample | {"choices": ["red", "blue"]}
    RED.save(tmp_path / "red.png")
    (tmp_path / "rows.csv").write_text("picture,prompt,answer,kind\nred.png,which colour?,red,colour\n")
    read = open_dataset(str(tmp_path / "rows.csv"))[0]
    assert (read["image"], read["answer"]) == (tmp_path / "red.png", " red")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cells", [["NA", "None"], ["007", "3.10"], ["False", "True"]])
def test_a_cell_is_the_text_that_was_written(tmp_path, suffix, streaming, cells):
    pictures(tmp_path / "pics")
    table = tmp_path / "tables" / f"rows{suffix}"
    table.parent.mkdir()
    lines = ("image,question,answer", f"red.png,which?,{cells[0]}", f"blue.png,what?,{cells[1]}")
    table.write_text("\n".join(lines).replace(",", "," if suffix == ".csv" else "\t"))
    (table.parent / "README.md").write_text("# Words and numbers")  # as in a repository
    (table.parent / ".gitattributes").write_text("")
    for name in (table, table.parent):
        read = open_dataset(str(name), streaming=streaming, image_folder=str(tmp_path / "pics"))
        answers = [sample["answer"] for sample in islice(read, 2)]  # a stream goes on for ever
        assert sorted(answers) == [f" {cell}" for cell in cells]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("text", ["question,answer\nred, or blue?,red\nbig, or small?,big", "text\na,b,c\nd,e,f"])
def test_rows_with_a_comma_too_many_are_an_error(tmp_path, text, streaming):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match="rows.csv: its rows have more cells than its first line has"):
        open_dataset(str(tmp_path / "rows.csv"), streaming=streaming)


def test_a_path_with_brackets_is_no_pattern_and_a_pipe_is_no_file(tmp_path):
    (tmp_path / "rows [1].csv").write_text("question,answer\n?,a")
    assert open_dataset(str(tmp_path / "rows [1].csv"))[0]["answer"] == " a"
    pictures(tmp_path / "photos [2024]" / "cats")
    with pytest.raises(ValueError, match=r"photos \[2024\]: .* takes the characters \[ \] \* \? for a pattern"):
        open_dataset(str(tmp_path / "photos [2024]"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder"):
        open_dataset(str(tmp_path / "pipe"))


def test_a_word_may_follow_thousands_of_numbers(tmp_path):
    numbers = [f"how many?,{number}" for number in range(10_001)]  # more than the library reads at once
    (tmp_path / "rows.csv").write_text("\n".join(["question,answer", *numbers, "how many?,none"]))
    assert open_dataset(str(tmp_path))[-1]["answer"] == " none"


def test_unknown_columns_are_listed_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['image', 'labels'\].*caption.*question.*columns="):
        sample_of({"image": None, "labels": 3}, 0)
    with pytest.raises(ValueError, match="no column 'txet' but"):
        sample_of({"image": None, "description": "a cat"}, 0, {"text": "txet"})
    with pytest.raises(ValueError, match="sample 0 has the column 'data' alone, a list of rows: save that list"):
        sample_of({"data": [{"image": None, "text": "a cat"}]}, 0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "how many?", "answer": True}, "its answer is True; it must be a text"),
        ({"question": "how many?", "answer": float("nan")}, "its answer is nan; it must be a text"),
        ({"question": "which?", "answer": 2, "choices": ["a", "b"]}, "its answer is 2, and its choices are numbered"),
        ({"question": "which?", "answer": "C", "choices": ["a", "b"]}, r"its answer is C, .* 0 to 1 \(A to B\)"),
        ({"question": "which?", "answer": "C", "choices": "a or b"}, "its choices are 'a or b'; they must be a list"),
        (
            {"question": "which?", "answer": "C", "choices": "{[1], [2]}"},
            r"its choices are '\{\[1\], \[2\]\}'",
        ),
        ({"label": 3}, "its text is 3; if that is a class, write its name"),
        (
            {"image": [RED], "images": [RED], "text": "two"},
            "several images in two columns; put all of them into images",
        ),
        ({"text": None}, r"its text is empty \(None\)"),
    ],
)
def test_what_is_no_text_says_why(row, words):
    with pytest.raises(ValueError, match=words):
        sample_of({"image": None, **row}, 0)


@pytest.mark.parametrize(
    ("column", "value"),
    [("photograph", RED), ("url", "https://x.org/a.jpg"), ("image_1", {"bytes": b"", "path": "a.png"}),
     ("path", "a.png"), ("shots", [RED]), ("pixels", np.zeros((3, 4, 4), np.uint8))],
)  # fmt: skip
def test_an_image_in_an_unknown_column_is_not_left_out_in_silence(column, value):
    with pytest.raises(ValueError, match=f"the column '{column}' holds an image.*--columns image={column}"):
        sample_of({column: value, "text": "a cat"}, 0)
    assert images_of(sample_of({column: value, "text": "a cat"}, 0, {"image": column})).images
    assert sample_of({column: value, "text": "a cat", "image": None}, 0)["image"] is None


@pytest.mark.parametrize("column", ["image_path", "file_name", "image_bytes", "Image"])
def test_an_image_has_many_names(column):
    assert sample_of({column: "a.png", "text": "a cat"}, 0)["image"] == "a.png"


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_formats_of_arrays_are_the_same_rows(form):
    said = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "red"}]
    rows = datasets.Dataset.from_dict({"images": [[RED]], "messages": [said], "captions": [["red", "a red one"]]})
    plain, found = sample_of(rows[0], 0), sample_of(rows.with_format(form)[0], 0)
    assert found["messages"] == plain["messages"]
    assert open_image(images_of(found).images[0]).tobytes() == RED.tobytes()
    captions = rows.remove_columns("messages").with_format(form)[0]
    assert sample_of(captions, 0)["references"] == ["red", "a red one"]


def test_a_history_and_a_system_prompt_make_a_chat():
    row = {"instruction": "And a cat?", "input": "", "output": "meow", "system": "Be brief.", "history": [["Hi", "Ho"]]}
    assert [turn["content"] for turn in sample_of(row, 0)["messages"]] == [
        "Be brief.",
        "Hi",
        "Ho",
        "And a cat?",
        "meow",
    ]


def test_instructions_with_images_are_seen(tmp_path):
    pictures(tmp_path)
    rows = [
        {"instruction": "<image>Which?", "input": "", "output": "red", "images": ["red.png"]},
        {"instruction": "Which?", "input": "cat", "output": "none", "images": []},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    first, second = open_dataset(str(tmp_path / "rows.json"))
    assert images_of(first).images == (tmp_path / "red.png",)
    assert (first["prompt"], second["prompt"]) == ("<image>Which?", "Which?\ncat")


def test_names_of_images_in_a_table(tmp_path):
    pictures(tmp_path / "images")
    for name, words in (("https://x.org/a.png", "a URL; download it first"), ("/etc/a.png", "leads out of")):
        (tmp_path / "rows.jsonl").write_text(json.dumps({"image_path": name, "caption": "red"}))
        with pytest.raises(ValueError, match=words):
            open_dataset(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image_path": str(tmp_path / "images/red.png"), "caption": "red"}))
    assert open_dataset(str(tmp_path / "rows.jsonl"))[0]["image"] == tmp_path / "images/red.png"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image_path": "red.png", "caption": "red"}))
    for streaming in (False, True):
        found = open_dataset(str(tmp_path / "rows.jsonl"), image_folder=str(tmp_path / "images"), streaming=streaming)
        assert next(iter(found))["image"] == tmp_path / "images/red.png"


@pytest.mark.parametrize(
    ("line", "prompt", "answer"),
    [
        ({"question": "which?", "answer": "red"}, "which?", " red"),
        ({"caption": "red"}, "a picture of", " red"),
        ({"captions": ["red", "a red one"]}, "a picture of", " red"),
        ({"prompt": "It is", "completion": "red"}, "It is", " red"),
        ({"messages": [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "red"}]},
         "<image>which?", "red"),
    ],
)  # fmt: skip
def test_lines_of_metadata_have_the_columns_of_any_row(tmp_path, line, prompt, answer):
    pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "red.png", **line}))
    (sample,) = ImageFolder(tmp_path)
    assert (sample["prompt"], sample["answer"], sample["image"].size) == (prompt, answer, (16, 16))


def test_columns_of_metadata_are_named(tmp_path):
    pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "red.png", "wort": "rot"}))
    assert open_dataset(str(tmp_path), columns={"text": "wort"})[0]["answer"] == " rot"
