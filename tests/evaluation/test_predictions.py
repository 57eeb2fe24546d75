"""Prediction files: written row by row, read again, and continued after a kill."""

import json
import os
from pathlib import Path

import pytest

from adem_vl_hf.evaluation.predictions import Prediction, PredictionFile, read_predictions, take_in_parts


def row(name: str, text: str = "a dog") -> Prediction:
    return Prediction(id=name, kind="caption", prediction=text, references=["a dog"])


def test_rows_are_on_disk_as_they_come(tmp_path: Path):
    path = tmp_path / "new" / "p.jsonl"
    with PredictionFile(path) as file:
        file.append(row("1"))
        assert read_predictions(path) == [row("1")]
        file.append(row("2", "línea\u2028separated\nand broken"))
    assert read_predictions(path) == [row("1"), row("2", "línea\u2028separated\nand broken")]
    assert path.read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize("cut", [3, 1])
def test_a_cut_off_last_line_is_dropped_and_written_anew(tmp_path: Path, cut: int):
    path = tmp_path / "p.jsonl"
    with PredictionFile(path) as file:
        file.append(row("1"))
        file.append(row("2", "ü"))
    whole = path.read_bytes()
    tail = whole.index("ü".encode()) + 1 if cut == 1 else len(whole) - cut  # in the middle of a character, or later
    path.write_bytes(whole[:tail])
    assert read_predictions(path) == [row("1")]
    with PredictionFile(path) as file:
        assert list(file.rows) == ["1"]
        file.append(row("2", "ü"))
    assert path.read_bytes() == whole


def test_half_of_the_first_row_is_dropped(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    for cut in (1, 5, 30):
        path.write_bytes(json.dumps(row("1")).encode()[:cut])
        with PredictionFile(path) as file:
            assert not file.rows
        assert path.read_bytes() == b""


@pytest.mark.parametrize("text", ["one line that I need", "\n\none line that I need", "{'id': 1", '{"name": "x', "ü"])
def test_a_text_of_somebody_else_is_refused_and_stays(tmp_path: Path, text: str):
    path = tmp_path / "note.txt"
    path.write_text(text, encoding="utf-8")
    for opened in (PredictionFile, read_predictions):
        with pytest.raises(ValueError, match=r"note\.txt, line [13]: not a prediction; this is another file"):
            opened(path)
    assert path.read_text(encoding="utf-8") == text


def test_parts_are_those_of_processes_alone(tmp_path: Path):
    path, mine = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partly"
    mine.write_text("")
    (tmp_path / "p.jsonl.part1").write_text(json.dumps(row("1")) + "\n")
    take_in_parts(path)
    assert read_predictions(path) == [row("1")]
    assert mine.exists()
    assert not (tmp_path / "p.jsonl.part1").exists()


def test_pipes_and_devices_are_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/full"), Path("/dev/null")):
        for opened in (PredictionFile, take_in_parts):
            with pytest.raises(ValueError, match=f"{path} is a pipe or a device, and predictions are kept in a file"):
                opened(path)


def test_a_last_line_without_its_end_counts(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row("1")))
    with PredictionFile(path) as file:
        file.append(row("2"))
    assert read_predictions(path) == [row("1"), row("2")]


def test_of_equal_ids_the_last_counts(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in (row("1", "first"), row("2"), row("1", "last"))) + "\n")
    assert read_predictions(path) == [row("1", "last"), row("2")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "ki', "not valid JSON"),
        ("[1]", "list instead of an object"),
        ('{"id": 1, "kind": "caption", "prediction": "a", "references": ["a"]}', '"id" is 1'),
        ('{"id": "1", "kind": "caption", "references": ["a"]}', '"prediction" is None'),
        ('{"id": "1", "kind": "caption", "prediction": "a", "references": "a"}', '"references" is'),
        ('{"id": "1", "kind": "caption", "prediction": "a"}', '"references" is None'),
        ('{"id": "1", "kind": "choice", "prediction": "a", "references": ["a"], "choices": [1]}', '"choices" is'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(row('0'))}\n{line}\n{json.dumps(row('2'))}\n")
    with pytest.raises(ValueError, match=rf"p\.jsonl, line 2: .*{message}"):
        read_predictions(path)


def test_a_missing_file_is_an_error_to_read(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "none.jsonl")
