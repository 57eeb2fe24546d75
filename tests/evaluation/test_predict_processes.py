"""Two processes (gloo, CPU) share a data set, leave one prediction file, and continue a stopped run."""

import contextlib
import json

import pytest
import tiny
from accelerate import PartialState, debug_launcher
from training_runs import picture_folder, processor_of

from adem_vl_hf.cli.parser import main
from adem_vl_hf.evaluation.predictions import PredictionFile, part_of, read_predictions, take_in_parts


@pytest.fixture(scope="module")
def flags(bases, tmp_path_factory):
    """Return the command that evaluates a checkpoint on four images, except for the prediction file."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny.build(bases)
    model.save_pretrained(folder / "run")
    processor_of(bases, model).save_pretrained(folder / "run")
    picture_folder(folder / "pictures", 4)
    return ["evaluate", "--task", "caption", "--data-dir", str(folder / "pictures"), "--checkpoint",
            str(folder / "run"), "--max-new-tokens", "5", "--batch-size", "1", "--json", "--output"]  # fmt: skip


def command(argv, folder):
    """Run one of the processes, with its output in a file of its own."""
    PartialState._reset_state()  # this process is a copy of another, with its state
    state = PartialState(cpu=True)
    with (folder / f"printed{state.process_index}").open("w") as file, contextlib.redirect_stdout(file):
        assert main(argv) == 0
    assert state.num_processes == 2


def launch(argv, folder):
    """Run the command on two processes and return what they printed."""
    folder.mkdir(exist_ok=True)
    debug_launcher(command, (argv, folder), num_processes=2)
    return [(folder / f"printed{rank}").read_text() for rank in range(2)]


def test_two_processes_leave_the_file_of_one(flags, tmp_path, capsys):
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert main([*flags, str(alone)]) == 0
    scores = json.loads(capsys.readouterr().out)
    rows = read_predictions(alone)
    assert len({row["prediction"] for row in rows}) > 1
    first, second = launch([*flags, str(together)], tmp_path / "printed")
    assert (json.loads(first), second) == (scores, "")
    assert together.read_bytes() == alone.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["alone.jsonl", "together.jsonl"]
    # a stopped run left the file of the first process and the part of the second
    with PredictionFile(together) as file:
        file._file.truncate(0)
        file.append({**rows[0], "prediction": "kept"})
    part_of(together, 1).write_text(json.dumps({**rows[3], "prediction": "kept, too"}) + '\n{"id": "cut')
    launch([*flags, str(together)], tmp_path / "printed")
    said = [row["prediction"] for row in read_predictions(together)]
    assert said == ["kept", rows[1]["prediction"], rows[2]["prediction"], "kept, too"]


def test_one_process_goes_on_from_the_parts_of_several(flags, tmp_path):
    output = tmp_path / "p.jsonl"
    row = {"id": "2.png", "kind": "caption", "prediction": "kept", "references": ["a dog"]}
    part_of(output, 1).write_text(json.dumps(row) + "\n")
    assert main([*flags, str(output)]) == 0
    rows = read_predictions(output)
    assert {row["id"]: row["prediction"] for row in rows}["2.png"] == "kept"
    assert len(rows) == 4
    assert not part_of(output, 1).exists()


def test_a_row_that_the_file_has_stays(tmp_path):
    output = tmp_path / "p.jsonl"
    rows = [{"id": name, "kind": "x", "prediction": name, "references": []} for name in "ab"]
    with PredictionFile(output) as file:
        file.append(rows[0])
    part_of(output, 0).write_text("".join(json.dumps({**row, "prediction": "other"}) + "\n" for row in rows))
    take_in_parts(output)
    assert [row["prediction"] for row in read_predictions(output)] == ["a", "other"]


def test_several_processes_ask_for_a_file(flags, monkeypatch, capsys):
    several = type("Several", (), {"num_processes": 2, "process_index": 0, "is_main_process": True})()
    monkeypatch.setattr("adem_vl_hf.evaluation.predictions.processes", lambda: several)
    assert main(flags[:-1]) == 2
    assert "name it by --output" in capsys.readouterr().err
