"""Damaged files that the library ``datasets`` reads, at once and as a stream: each is read, or refused by its name."""

import csv
import io
import itertools
import json
import tarfile

import pytest
import tiny

pytest.importorskip("hypothesis")
pytest.importorskip("datasets")
import datasets
from fuzzing import damaged_bytes, damaged_json, fuzz, write
from hypothesis import strategies as st

from adem_vl_hf.data.by_name import open_dataset

pytestmark = pytest.mark.slow
IMAGE = "a.png"
ROWS = [
    {"image": IMAGE, "question": "Which?", "answer": "a dog", "choices": ["a dog", "a cat"], "id": number}
    for number in range(3)
]


@pytest.fixture
def folder(tmp_path):
    datasets.disable_caching()
    datasets.disable_progress_bars()
    tiny.picture().save(tmp_path / IMAGE)
    return tmp_path


def picture():
    file = io.BytesIO()
    tiny.picture().save(file, "PNG")
    return file.getvalue()


def table(separator):
    file, rows = io.StringIO(), [("image", "text"), (IMAGE, "two\ndogs"), (IMAGE, "one 😀")]
    csv.writer(file, delimiter=separator).writerows(rows)
    return file.getvalue().encode()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (("0.png", picture()), ("0.txt", b"a dog"), ("1.png", picture()), ("1.txt", b"x")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def parquet():
    file = io.BytesIO()
    rows = {"image": [{"bytes": picture(), "path": None}] * 3, "text": ["a dog", "two\ndogs", ""]}
    datasets.Dataset.from_dict(rows).to_parquet(file)
    return file.getvalue()


def lines(rows):
    return b"\n".join(json.dumps(row).encode() for row in rows)


SOURCES = {
    "rows.csv": lambda: table(","),
    "rows.tsv": lambda: table("\t"),
    "rows.tar": tar,
    "rows.parquet": parquet,
}
WAYS = {
    "at once": lambda path: [found[index] for found in [open_dataset(str(path))] for index in range(len(found))],
    "streamed": lambda path: list(itertools.islice(open_dataset(str(path), streaming=True, shuffle_buffer=2), 6)),
}


def check_file(name, folder, way, damaged):
    path = folder / name

    def check(outcomes, drawn):
        data, about = drawn
        write(path, data)
        outcomes.run(lambda: WAYS[way](path), [path, "sample "], f"{name} {way} {about}")

    fuzz("files of the library datasets", 10, damaged, check)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SOURCES)
def test_files(folder, name, way):
    check_file(name, folder, way, damaged_bytes([SOURCES[name]()]).map(lambda data: (data, "bytes")))


@pytest.mark.parametrize("way", WAYS)
def test_lines(folder, way):
    changed = damaged_json(ROWS).map(lambda one: (lines(one[0] or []), str(one[1])))
    odd = [b"\xef\xbb\xbf" + lines(ROWS), b"[" * 100_000, lines(ROWS).replace(b"dog", b"\\ud83d"), lines(ROWS) + b"\0"]
    check_file("rows.jsonl", folder, way, changed | changed | st.sampled_from(odd).map(lambda data: (data, "odd")))


def test_saved_to_disk(folder):
    target = folder / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(target)
    files = {path.name: path.read_bytes() for path in target.iterdir()}

    def check(outcomes, drawn):
        name, data = drawn
        for other, original in files.items():
            write(target / other, data if other == name else original)
        outcomes.run(lambda: WAYS["at once"](target), [target, "sample "], name)

    one = st.sampled_from(sorted(files)).flatmap(lambda name: st.tuples(st.just(name), damaged_bytes([files[name]])))
    fuzz("files of the library datasets", 20, one, check)
