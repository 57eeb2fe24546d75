"""Data from anywhere reaches no file outside its folder; a text that nothing can encode is refused where it is read."""

import itertools
import json

import pytest
import tiny

from adem_vl_hf.data import MME, Alpaca, CocoCaptions, Conversations, ImageFolder
from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.data.media import ImageError, resolve_image
from adem_vl_hf.data.sample import images_of, opened
from adem_vl_hf.evaluation.predictions import PredictionFile, read_predictions
from adem_vl_hf.json_files import parse_json


@pytest.fixture
def outside(tmp_path):
    """A folder with a secret image, beside the data."""
    (tmp_path / "outside").mkdir()
    tiny.picture().save(tmp_path / "outside" / "secret.png")
    return tmp_path / "outside"


@pytest.fixture
def folder(tmp_path, outside):
    """A data folder with links out of it, to a file and to a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "val2014").symlink_to(outside)
    return folder


@pytest.mark.parametrize("name", ["link.png", "val2014/secret.png"])
def test_links_out_of_an_image_folder_are_not_followed(folder, name):
    with pytest.raises(ImageError, match="a link out of the image folder"):
        resolve_image(folder, name)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 1: .*a link out of"):
        ImageFolder(folder)
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A dog."}]
    (folder / "chats.json").write_text(json.dumps([{"image": name, "conversations": turns}]))
    with pytest.raises(ValueError, match=r"chats\.json, entry 0 .*a link out of"):
        Conversations(folder / "chats.json")


def test_links_out_of_benchmarks_are_not_followed(folder):
    entry = {"cocoid": 1, "filepath": "val2014", "filename": "secret.png", "split": "test", "sentences": [{"raw": "x"}]}
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [entry]}))
    with pytest.raises(ValueError, match=r"dataset_coco\.json, image 0: .*a link out of"):
        CocoCaptions(folder, "test")
    (folder / "existence").mkdir()
    (folder / "existence" / "a.png").symlink_to(folder.parent / "outside" / "secret.png")
    (folder / "existence" / "a.txt").write_text("Is it?\tYes\nIs it not?\tNo\n")
    with pytest.raises(ValueError, match="a link out of"):
        MME(folder)


def test_links_inside_a_folder_and_those_of_the_hubs_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    tiny.picture().save(blobs / "0123", "PNG")
    (snapshot / "a.png").symlink_to("../../blobs/0123")
    (snapshot / "b.png").symlink_to("a.png")
    for name in ("a.png", "b.png"):
        assert resolve_image(snapshot, name) == snapshot / name


@pytest.mark.parametrize("scienceqa", [False, True])
def test_a_parquet_row_that_names_a_file_does_not_open_it(tmp_path, outside, scienceqa):
    datasets = pytest.importorskip("datasets")
    image = {"bytes": None, "path": str(outside / "secret.png")}
    rows = [{"image": image, "text": "x"}]
    if scienceqa:
        rows = [{"image": image, "question": "?", "choices": ["a", "b"], "answer": 0, "hint": ""}]
    features = datasets.Features(
        {key: datasets.Image() if key == "image" else datasets.Value("string") for key in rows[0]}
    )
    if scienceqa:
        features["choices"], features["answer"] = datasets.List(datasets.Value("string")), datasets.Value("int64")
    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "train.parquet"))
    import pyarrow.parquet

    stored = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    if stored[0]["image"]["bytes"] is not None:  # the library embeds what it can reach
        import pyarrow

        table = pyarrow.parquet.read_table(folder / "train.parquet")
        column = pyarrow.array([image], type=table.schema.field("image").type)
        table = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column)
        pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(ValueError, match="row does not hold its image|a row names this file"):
        open_dataset(str(folder if scienceqa else folder / "train.parquet"))[0]


SEEN = {"type": "image", "text": None}
NESTED = {
    "a list": {"images": ["IMAGE"], "text": "x"},
    "lists in a list": {"images": [["IMAGE"]], "text": "x"},
    "parts of a chat": {
        "messages": [
            {"role": "user", "content": [{**SEEN, "image": "IMAGE"}, {"type": "text", "text": "?", "image": None}]},
            {"role": "assistant", "content": [{"type": "text", "text": "x", "image": None}]},
        ]
    },
    "a column that nobody reads": {"image": None, "text": "x", "extra": {"pic": "IMAGE"}},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("target", ["file", "url"])
@pytest.mark.parametrize("nested", NESTED)
def test_an_image_deep_in_a_row_is_not_opened(tmp_path, outside, monkeypatch, nested, target, streaming):
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = str(outside / "secret.png") if target == "file" else "http://127.0.0.1:9/secret.png"
    row = json.loads(json.dumps(NESTED[nested]).replace('"IMAGE"', json.dumps({"bytes": None, "path": source})))
    features = datasets.Features(feature_of(datasets, NESTED[nested]))
    (tmp_path / "data").mkdir()
    table = pyarrow.Table.from_pylist([row] * 2, schema=features.arrow_schema)
    parquet.write_table(table, tmp_path / "data/train.parquet")
    opened_by_library = []
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *args, **kwargs: opened_by_library.append(args))
    if nested == "a column that nobody reads":
        assert first_shown(tmp_path / "data", streaming).images == ()
    else:
        with pytest.raises(ValueError, match="row names this file|a URL; download|list object: not an image"):
            first_shown(tmp_path / "data", streaming)
    assert opened_by_library == []


def first_shown(data, streaming):
    """What the first sample shows, opened."""
    sample = next(iter(open_dataset(str(data), streaming=streaming)))
    return opened(images_of(sample), sample["id"])


def feature_of(datasets, value):
    """The feature of a value, in which "IMAGE" is an image."""
    if isinstance(value, dict):
        return {name: feature_of(datasets, one) for name, one in value.items()}
    if isinstance(value, list):
        return datasets.List(feature_of(datasets, value[0]))
    return datasets.Image() if value == "IMAGE" else datasets.Value("string")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "shown",
    [
        {"image": {"bytes": "SECRET"}},
        {"image": {"bytes": "SECRET", "path": None}},
        {"images": [{"bytes": "SECRET"}]},
        {"image": {"path": "SECRET"}},
        {"video": {"SECRET": 1}},
        {"video": {"path": "SECRET"}},
        {"video": [{"bytes": "SECRET"}]},
        {"images": 0},
    ],
    ids=str,
)
def test_a_row_of_json_reaches_no_file_outside(tmp_path, outside, shown, streaming):
    row = json.dumps({**shown, "text": "x"}).replace("SECRET", str(outside / "secret.png"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 0|sample '0':"):
        first_shown(tmp_path / "data/rows.jsonl", streaming)


def test_a_dictionary_may_name_an_image_of_the_data(tmp_path):
    tiny.picture().save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text('{"image": {"path": "a.png"}, "text": "x"}')
    assert first_shown(tmp_path / "rows.jsonl", False).images[0].size == tiny.picture().size


def test_a_saved_data_set_that_names_a_table_outside_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    for name in ("secret", "own"):
        datasets.Dataset.from_list([{"question": "?", "answer": name}]).save_to_disk(tmp_path / name)
    state = tmp_path / "own" / "state.json"
    file = json.loads(state.read_text())["_data_files"][0]["filename"]
    state.write_text(state.read_text().replace(file, f"../secret/{file}"))
    with pytest.raises(ValueError, match=r'state.json: "../secret/.*" is not the name of a file in its folder'):
        open_dataset(str(tmp_path / "own"))


HALF = "a dog \\ud83d"


def test_half_a_character_is_refused_by_file_and_line(tmp_path):
    tiny.picture().save(tmp_path / "a.png")
    line = '{"file_name": "a.png", "text": "TEXT"}\n'
    (tmp_path / "metadata.jsonl").write_text(line.replace("TEXT", "fine \\ud83d\\ude00") + line.replace("TEXT", HALF))
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2: \\ud83d is half of a surrogate pair"):
        ImageFolder(tmp_path)
    path = tmp_path / "alpaca.json"
    path.write_text('[\n{"instruction": "x", "output": "fine"},\n{"instruction": "x", "output": "' + HALF + '"}\n]')
    with pytest.raises(ValueError, match=r"alpaca\.json, line 3: .*half of a surrogate pair"):
        Alpaca(path)
    assert parse_json(r'"a path\\ud83d"', "x", "") == r"a path\ud83d"  # an escaped backslash


def test_a_prediction_with_half_a_character_is_written_and_read_back(tmp_path):
    row = {"id": "1", "kind": "caption", "prediction": "a dog \ud83d", "references": ["\udc00"]}
    with PredictionFile(tmp_path / "rows.jsonl") as file:
        file.append(row)
    assert read_predictions(tmp_path / "rows.jsonl") == [row]


def test_a_processor_names_the_row_with_half_a_character(bases):
    processor = tiny_processor(bases)
    with pytest.raises(ValueError, match=r"sample 1: its text has half of a surrogate pair"):
        processor(text=["fine", "a dog \ud83d"])


def tiny_processor(bases):
    import architectures

    return architectures.ADEM_VL.processor(bases, tiny.build(bases))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"null", "line 2: null instead of an object"),
        (b'{"text": ' + b"[" * 100_000, "line 2: more than 200 lists and objects inside one another"),
        (b'{"text": "a dog", "more": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, "line 2: more than 200 lists"),
    ],
)
def test_lines_with_which_pyarrow_crashes_are_refused(tmp_path, line, message, streaming):
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a dog [[["}\n' + line + b'\n{"text": "a cat"}\n')
    for name in (path, tmp_path):
        with pytest.raises(ValueError, match=rf"rows\.jsonl, {message}"):
            open_dataset(str(name), streaming=streaming)


def test_brackets_in_a_text_are_no_nesting(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "' + "[{" * 500 + '\\" ]", "answer": "no", "choices": ["no", "null"]}\n\n')
    assert open_dataset(str(path))[0]["prompt"].count("[{") == 500


def test_a_stream_that_ends_in_damage_is_named(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "rows.csv"
    path.write_bytes(b"question,answer\nyes?,no\n" + b"yes?,caf\xe9\n")
    with pytest.raises(ValueError, match=r"rows\.csv.*decode"):
        list(itertools.islice(open_dataset(str(path), streaming=True), 4))


@pytest.mark.parametrize("image", ["é" * 300, "\0", 0, [], False, [["a.png"]]])
def test_an_entry_whose_image_is_no_name_of_a_file_is_named(tmp_path, image):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"id": "7", "image": image, "conversations": turns}]))
    with pytest.raises(ValueError, match=r"chats\.json, entry 0 \(id 7\)"):
        Conversations(path)
