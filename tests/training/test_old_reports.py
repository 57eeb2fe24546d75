"""Report and sample answers of an earlier run: they go when another one begins, whatever has become of them."""

import json

import pytest
import tiny
from training_runs import picture_folder

from adem_vl_hf import report, sample_answers
from adem_vl_hf.cli.parser import main


@pytest.fixture
def run(bases, tmp_path):
    picture_folder(tmp_path / "pictures")

    def start(*more, steps=1):
        argv = ["train", *tiny.base_flags(bases), "--data", str(tmp_path / "pictures"), "--batch-size", "2",
                "--projector-dim", "8", "--output-dir", str(tmp_path / "run"), "--max-steps", str(steps), *more,
                "--set", "use_cpu=true"]  # fmt: skip
        assert main(argv) == 0
        return tmp_path / "run"

    return start


def shown(folder):
    return [row["image"] for row in json.loads((folder / "samples" / "samples.json").read_text())]


def test_they_are_gone_while_another_run_trains(run, monkeypatch):
    """``Trainer`` pushes the whole folder, and a killed run would be described by the old ones."""
    folder = run()
    assert (folder / "report.html").is_file()
    assert shown(folder)
    there, train_step = [], report.ForgetsReport.on_step_begin

    def noting(self, args, state, control, **kwargs):
        train_step(self, args, state, control, **kwargs)
        there.append((folder / "report.html").exists() or (folder / "samples").exists())

    monkeypatch.setattr(report.ForgetsReport, "on_step_begin", noting)
    assert "<td>" in (folder / "report.html").read_text().split(">training</th>")[1]
    run("--resume", steps=3)
    assert there == [False, False]
    assert shown(folder)
    assert ">training after step 1</th>" in (folder / "report.html").read_text()
    old = (folder / "report.html").stat().st_mtime_ns
    run("--resume", steps=3)  # nothing is left to do
    assert (folder / "report.html").stat().st_mtime_ns == old


@pytest.mark.parametrize("name", ["0.png", "samples.json"])
def test_a_run_goes_on_over_samples_of_which_one_is_gone(run, name):
    folder = run()
    (folder / "samples" / name).unlink()
    run("--resume", steps=2)
    assert all((folder / "samples" / image).is_file() for image in shown(folder))


def test_a_card_does_not_show_the_answers_of_the_run_before(run):
    folder = run()
    rows = [row | {"answer": "SECRETS"} for row in json.loads((folder / "samples" / "samples.json").read_text())]
    (folder / "samples" / "samples.json").write_text(json.dumps(rows))
    run("--overwrite")
    assert "SECRETS" not in (folder / "README.md").read_text()


def test_a_run_that_died_before_its_record_is_recorded_by_the_next(run):
    folder = run(steps=2)
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(record | {"steps": 1}))
    (folder / "report.html").unlink()
    run("--resume", steps=2)
    assert json.loads((folder / "training.json").read_text())["steps"] == 2
    assert (folder / "report.html").is_file()


def test_other_files_in_the_folder_of_samples_stay(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("0.png", "samples.json", ".samples.json.0f", "mine.jpg"):
        (folder / name).write_text("")
    sample_answers.remove_samples(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["mine.jpg"]
