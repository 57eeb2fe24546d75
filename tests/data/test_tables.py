"""Tables as people save them: columns of several types, ids that come twice, semicolons, and what errors say."""

import json
from itertools import islice

import datasets
import pytest
from PIL import Image

from adem_vl_hf.data import Conversations, open_dataset
from adem_vl_hf.data.sample import images_of


def save(folder, rows, name="rows.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(folder / "0.png")
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="older versions of datasets refuse such a column")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_several_types_has_no_quotes(tmp_path, streaming):
    rows = [
        {"id": 1, "image": "0.png", "question": "c?", "answer": "red", "choices": ["red", 2]},
        {"id": "b", "image": ["0.png", "0.png"], "question": "n?", "answer": 2, "choices": [2, 3]},
        {"id": "c", "image": "0.png", "question": "w?", "answer": ["a", "a", "b"], "choices": None},
    ]
    read = open_dataset(save(tmp_path, rows), streaming=streaming, shuffle_buffer=1)
    samples = list(islice(read, 3))
    assert [sample["answer"] for sample in samples] == [" red", " 2", " a"]
    assert [sample["id"] for sample in samples] == ["1", "b", "c"]
    assert [len(images_of(sample).images) for sample in samples] == [1, 2, 1]


def test_an_id_that_comes_twice_is_unique(tmp_path):
    rows = [{"ID": name, "image": "0.png", "question": "c?", "answer": "red"} for name in (7, 8, 7, None, 7)]
    read = open_dataset(save(tmp_path, rows))
    assert [sample["id"] for sample in read] == ["7", "8", "7@2", "3", "7@4"]
    renamed = [{"image_id": row["ID"], **row} for row in rows]
    read = open_dataset(save(tmp_path, renamed), columns={"id": "image_id"})
    assert [sample["id"] for sample in read] == ["7", "8", "7@2", "3", "7@4"]
    assert [sample["id"] for sample in open_dataset(save(tmp_path, rows), each_turn_alone=True)][2] == "7@2"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"caption": None}, r"rows\.jsonl, row 1 \(from 0\): its caption is empty"),
        ({"id": "x", "caption": None}, r"rows\.jsonl, row 1 \(from 0, id x\): its caption is empty"),
        ({"caption": "a dog", "image": "no.png"}, r"rows\.jsonl, row 1 \(from 0\): .*no\.png: no such image file"),
    ],
)
def test_an_error_names_the_file_and_the_row(tmp_path, row, words):
    path = save(tmp_path, [{"image": "0.png", "caption": "a dog"}, row])
    with pytest.raises(ValueError, match=words):
        open_dataset(path)[1]
    with pytest.raises(ValueError, match=words):
        list(islice(open_dataset(path, streaming=True, shuffle_buffer=1), 2))


@pytest.mark.parametrize("name", ["rows.csv", "metadata.csv"])
@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_cells_may_be_separated_by_semicolons(tmp_path, name, separator, is_folder):
    save(tmp_path, [])
    (tmp_path / "rows.jsonl").unlink()
    lines = [f"file_name{separator}text", f'0.png{separator}"one; or two, 007"', f"0.png{separator}1,5"]
    (tmp_path / name).write_text("\n".join(lines))
    if is_folder and name == "rows.csv":  # a folder of tables, beside that of the images
        (tmp_path / "tables").mkdir()
        (tmp_path / name).rename(tmp_path / "tables" / name)
        read = open_dataset(str(tmp_path / "tables"), image_folder=str(tmp_path))
    else:
        read = open_dataset(str(tmp_path if is_folder else tmp_path / name))
    assert [sample["answer"] for sample in read] == [" one; or two, 007", " 1,5"]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_table_in_another_encoding_says_so(tmp_path, encoding):
    (tmp_path / "rows.csv").write_bytes("question,answer\nwho?,Mädchen\n".encode(encoding))
    with pytest.raises(ValueError, match=r"rows\.csv: not UTF-8 text .*; save it as UTF-8"):
        open_dataset(str(tmp_path / "rows.csv"))
    with pytest.raises(ValueError, match=r"rows\.csv: not UTF-8 text .*; save it as UTF-8"):
        next(iter(open_dataset(str(tmp_path / "rows.csv"), streaming=True)))


@pytest.mark.parametrize("name", ["rows.JSONL", "rows.ndjson", "ROWS.CSV", "talk.JSON"])
def test_capitals_in_an_ending_do_not_matter(tmp_path, name):
    path = save(tmp_path, [{"image": "0.png", "question": "c?", "answer": "red"}], name)
    if name == "ROWS.CSV":
        (tmp_path / name).write_text("image,question,answer\n0.png,c?,red\n")
    if name == "talk.JSON":
        said = [{"role": "user", "content": "c?"}, {"role": "assistant", "content": "red"}]
        (tmp_path / name).write_text(json.dumps([{"image": "0.png", "messages": said}]))
    (sample,) = open_dataset(path)
    assert (sample["answer"].strip(), len(images_of(sample).images)) == ("red", 1)


def test_a_folder_of_images_without_texts_says_which_table_to_give(tmp_path):
    save(tmp_path / "Images", [])
    (tmp_path / "Images" / "rows.jsonl").unlink()
    for streaming in (False, True):
        with pytest.raises(ValueError, match="images without a text .*'Images', is no class.*; write a file metadata"):
            open_dataset(str(tmp_path), streaming=streaming)
    Image.new("RGB", (4, 3)).save(tmp_path / "Images" / "1.png")
    (tmp_path / "captions.csv").write_text("image,caption\n0.png,a dog\n1.png,a cat\n")
    with pytest.raises(
        ValueError, match=r"not the table captions\.csv.*--data .*captions\.csv --image-folder .*Images"
    ):
        open_dataset(str(tmp_path))
    read = open_dataset(str(tmp_path / "captions.csv"), image_folder=str(tmp_path / "Images"))
    assert [sample["answer"] for sample in read] == [" a dog", " a cat"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"info": {}, "images": [{"id": 1}], "annotations": [{"caption": "a"}]}, "COCO's .* dataset_coco.json"),
        (
            {"info": {}, "questions": [{"question": "?"}]},
            "VQA's questions without .* columns image, question and answer",
        ),
        ({"info": {}, "annotations": [{"answers": ["a"]}]}, "VQA's answers without .* columns image, question and"),
    ],
)
def test_the_files_of_benchmarks_say_what_is_read(tmp_path, content, words):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"a\.json: {words}"):
        open_dataset(str(tmp_path / "a.json"))


def test_the_configurations_of_a_card_are_listed(tmp_path):
    datasets.Dataset.from_list([{"question": "?", "answer": "a"}]).to_parquet(tmp_path / "a.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: a.parquet\n" for name in ("one", "two")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(ValueError, match="it has the configurations one, two; give the files of one"):
        open_dataset(str(tmp_path))


def test_an_image_of_a_conversation_may_be_a_path_in_a_dictionary(tmp_path):
    said = [{"role": "user", "content": "<image>c?"}, {"role": "assistant", "content": "red"}]
    path = save(tmp_path, [{"messages": said, "images": [{"path": "0.png"}]}])
    read = open_dataset(path)
    assert isinstance(read, Conversations)
    assert read[0]["image"].size == (4, 3)
    path = save(tmp_path, [{"messages": said, "images": [{"path": "/etc/passwd"}]}])
    with pytest.raises(ValueError, match="leads out of the image folder"):
        open_dataset(path)
