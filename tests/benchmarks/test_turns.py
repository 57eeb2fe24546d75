"""The benchmark of several questions about one image in one row: all of its runs, with tiny bases."""

import json

import easy_vqa_files
import pytest
import scripts


@pytest.fixture
def turns(tmp_path, monkeypatch):
    script = scripts.load("benchmarks/turns.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    return script


@pytest.mark.slow
def test_every_run_is_trained_once_and_asked(turns, bases, tmp_path, monkeypatch, capsys):
    easy_vqa_files.install(tmp_path / "index", monkeypatch)
    arguments = [
        "--steps", 2, "--batch-size", 2, "--test-size", 2, "--language-model", bases / "llama",
        "--vision-tower", bases / "clip", "--output-dir", tmp_path / "runs",
    ]  # fmt: skip
    scripts.call(turns, monkeypatch, *arguments)
    (path,) = (tmp_path / "results").glob("turns*.json")
    saved = json.loads(path.read_text())
    assert list(saved["runs"]) == [f"{run}, 0" for run in turns.RUNS]
    together, same_steps, same_time = saved["runs"].values()
    assert (together["training"]["samples"], same_steps["training"]["samples"]) == (3, 4)
    assert (together["answers"], same_steps["answers"]) == (5, 4)  # 4 questions about 3 images
    assert together["training"]["steps"] == same_steps["training"]["steps"] == 2
    assert same_time["training"]["steps"] >= 1
    assert together["metrics"]["true"]["n"] == 3
    printed = capsys.readouterr().out
    assert "| together, 0 | 2 | 5 |" in printed
    assert " seconds\n" in printed
    monkeypatch.setattr(turns, "measure", None)  # nothing is measured again
    scripts.call(turns, monkeypatch, *arguments)
    assert json.loads(path.read_text()) == saved


def test_the_steps_that_take_the_same_time(turns):
    done = {turns.TOGETHER: {"seconds_per_step": 3.0}, turns.SAME_STEPS: {"seconds_per_step": 2.0}}
    assert turns.steps_of(turns.SAME_TIME, 100, done) == 150
    assert turns.steps_of(turns.SAME_STEPS, 100, {}) == 100
