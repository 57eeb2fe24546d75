"""Data sets in every form that the library ``datasets`` reads, with the columns that people give them."""

import csv
import io
import json
import tarfile

import datasets
import pytest
import tiny
from PIL import Image

from adem_vl_hf.cli import main
from adem_vl_hf.data import open_dataset
from adem_vl_hf.data.columns import sample_of

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
    with pytest.raises(ValueError, match="no such path, and not found on the Hub"):
        open_dataset("nobody/nothing-of-the-kind")


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
    ],
)
def test_columns_are_recognised(row, prompt, answer, references):
    sample = sample_of({"image": None, **row}, 7)
    assert (sample["prompt"], sample["answer"], sample["references"]) == (prompt, answer, references)
    assert (sample["id"], sample["image"]) == ("7", None)


def test_unknown_columns_are_listed_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['image', 'labels'\].*caption.*question.*columns="):
        sample_of({"image": None, "labels": 3}, 0)
    with pytest.raises(ValueError, match="no column 'txet' but"):
        sample_of({"image": None, "description": "a cat"}, 0, {"text": "txet"})
    with pytest.raises(ValueError, match="its answer is 3; it must be a text"):
        sample_of({"image": None, "question": "how many?", "answer": 3}, 0)
