"""``adem-vl train``: metrics of answers, the best checkpoint, early stopping, weights, recipes, and the report."""

import base64
import json
import re
import shutil

import pytest
import tiny
from training_runs import picture_folder

from adem_vl_hf import report
from adem_vl_hf.cli.parser import main
from adem_vl_hf.report import _series, command_line, draw_curves


@pytest.fixture
def run(bases, tmp_path):
    picture_folder(tmp_path / "pictures")

    def start(*more, output="run", steps="3"):
        argv = [
            *("train", *tiny.base_flags(bases), "--data", str(tmp_path / "pictures"), "--batch-size", "2"),
            *("--max-steps", steps, "--projector-dim", "8", "--output-dir", str(tmp_path / output), *more),
        ]
        if "--set" not in more:
            argv += ["--set", "use_cpu=true"]
        return main(argv), tmp_path / output

    return start


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_best_checkpoint_by_a_metric_of_answers_and_early_stopping(run, tmp_path, capsys):
    held_out = ["--eval-data", str(tmp_path / "pictures"), "--eval-steps", "1", "--eval-task", "caption"]
    code, folder = run(*held_out, "--best", "caption_exact_match", "--patience", "1", steps="9",
                       output="best")  # fmt: skip
    assert code == 0
    values = [entry["eval_caption_exact_match"] for entry in logged(folder) if "eval_caption_exact_match" in entry]
    assert values[0] == 0
    # untrained, it answers nothing right, so that the second evaluation is not better than the first
    assert len(values) == 2
    said = "stopped at step 2 of 9: caption_exact_match is no better than at step 1, which is kept"
    assert said in capsys.readouterr().err
    assert run(*held_out, "--best", "caption_exactness", output="other")[0] == 2
    assert "has loss, caption_" in capsys.readouterr().err


def test_the_best_checkpoint_by_loss(run, tmp_path):
    code, folder = run("--eval-data", str(tmp_path / "pictures"), "--eval-steps", "1", "--best", "loss",
                       "--learning-rate", "1e-2")  # fmt: skip
    assert code == 0
    losses = {entry["step"]: entry["eval_loss"] for entry in logged(folder) if "eval_loss" in entry}
    state = json.loads((max(folder.glob("checkpoint-*")) / "trainer_state.json").read_text())
    best = min(losses, key=losses.get)
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patience", "2"], "--patience needs --best"),
        (["--best", "loss"], "--best needs --eval-data"),
        (["--eval-data", ".", "--best", "cider"], "--best cider needs --eval-task"),
        (["--train-size", "2"], "--train-size is for openmoji"),
        (["--shuffle-buffer", "5"], "--shuffle-buffer is for --streaming"),
        (["--weights", "1", "2"], "give a number above 0 for each of --data"),
        (["--set", "report_to=wandb"], "use --report-to"),
        (
            ["--report-to", "tensorbord"],
            "--report-to tensorbord: Transformers reports to no such service; did you mean tensorboard?",
        ),
        (
            ["--report-to", "none", "paper"],
            "--report-to paper: Transformers reports to no such service; there are none, all, ",
        ),
    ],
)
def test_flags_that_need_others_say_so(run, capsys, flags, message):
    assert run(*flags)[0] == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["openmoji --use-captions", "easy-vqa --prompt-format QCM-A", "openmoji --columns image=a"]
)
def test_flags_that_data_opened_by_name_would_not_notice_are_refused(tmp_path, capsys, words):
    assert main(["train", "--data", *words.split(), "--output-dir", str(tmp_path / "run")]) == 2
    name, flag, *_ = words.split()
    assert f"{flag} has no effect on {name}; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--eval-task", "caption"]], ids=["loss", "answers"])
@pytest.mark.parametrize("form", ["metadata", "table", "classes"])
def test_a_broken_image_in_the_held_out_data_is_found_before_the_training(run, tmp_path, capsys, form, more):
    broken = sorted((tmp_path / "pictures").glob("*.png"))[-1]
    held_out = tmp_path / "held out"
    for path in (tmp_path / "pictures").iterdir():
        if form == "metadata" or path.suffix == ".png":
            place = held_out / path.stem if form == "classes" else held_out
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_bytes(path.read_bytes()[: 60 if path == broken else None])
    data = held_out
    if form == "table":
        data = held_out / "rows.csv"
        names = sorted(path.name for path in held_out.iterdir())
        data.write_text("\n".join(["image,text", *(f"{name},a thing" for name in names)]))
    code, folder = run("--eval-data", str(data), *more)
    assert code != 0
    assert broken.name in capsys.readouterr().err
    assert not folder.exists()


def test_held_out_data_are_not_those_that_are_trained_on(run, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\nwhich?,this one\n")
    assert run("--data", str(rows), "--eval-data", str(rows))[0] == 2
    said = capsys.readouterr().err
    assert "rows.csv is in --data, too" in said
    assert "no split 'test'; it has train); name data that are not trained on" in said


@pytest.mark.parametrize("form", ["metadata", "conversations", "alpaca"])
def test_it_says_that_held_out_data_without_splits_are_trained_on(run, tmp_path, capsys, form, monkeypatch):
    """Named a second time, in another spelling of the path, they would be the same rows."""
    data = tmp_path / "pictures" if form == "metadata" else tmp_path / "rows.json"
    if form == "conversations":
        turns = [{"from": "human", "value": "which?"}, {"from": "gpt", "value": "this one"}]
        data.write_text(json.dumps([{"id": "0", "conversations": turns}]))
    if form == "alpaca":
        data.write_text(json.dumps([{"instruction": "which?", "input": "", "output": "this one"}]))
    monkeypatch.chdir(tmp_path)
    said = f"--eval-data ./{data.name} is in --data, too, and has no splits, so that it is trained on"
    assert run("--data", str(data), "--eval-data", f"./{data.name}")[0] == 0
    assert said in capsys.readouterr().err
    copy = shutil.copytree if data.is_dir() else shutil.copy
    other = copy(data, tmp_path / f"other{data.suffix}")
    assert run("--data", str(data), "--eval-data", str(other), output="two")[0] == 0
    assert "is in --data, too" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipes_differ_in_their_rates(run):
    fitted, paper = (json.loads((run(*flags, output=name)[1] / "training.json").read_text())["learning_rate"]
                     for name, flags in (("fitted", []), ("paper", ["--recipe", "paper"])))  # fmt: skip
    assert paper == pytest.approx(9e-3 * 2 / 256)
    assert fitted == pytest.approx(1.125e-3 * (4096 / tiny.TEXT_WIDTH) ** (2 / 3))


def test_the_report_shows_the_run(run, tmp_path):
    _, folder = run("--eval-data", str(tmp_path / "pictures"), "--eval-steps", "1", "--set", "use_cpu=true",
                    "logging_steps=1")  # fmt: skip
    page = (folder / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2  # the losses and the learning rate
    assert page.count('class="card') == 3  # one for each image
    assert str(tmp_path) not in page.replace(re.search(r"<pre.*?</pre>", page, re.S)[0], "")
    curve = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page)[1]).decode()
    assert "evaluation" in curve
    # --eval-data is what is trained on
    assert "Sample answers of data that were trained on." in page
    assert all(f"<dt>{name}</dt>" in page for name in ("batch size", "learning rate", "last training loss"))


@pytest.mark.parametrize(("size", "places"), [(3, [0, 1, 2]), (23, [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21])])
def test_sample_answers_are_from_all_over_the_data(monkeypatch, size, places):
    asked = []
    monkeypatch.setattr(report, "generate_answers", lambda *given, **kwargs: asked.extend(given[3]) or [""])
    rows = [{"id": place, "image": None, "prompt": str(place), "answer": "a", "references": ["a"], "kind": "x"}
            for place in range(size)]  # fmt: skip
    report._gallery(None, None, rows)
    assert asked == list(map(str, places))


def test_what_cannot_be_drawn_is_said(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "eval_loss": 1.0, "eval_cider": 1e-16}\n{"step": 2, "eval_loss": NaN}\n')
    plots = draw_curves(log)
    assert sorted(plots) == ["cider", "loss (1 of 2 values not finite and not drawn)"]
    svg = base64.b64decode(plots["cider"].partition(",")[2]).decode()
    assert "evaluation" in svg
    assert "1e" not in "".join(re.findall(r"<text[^>]*>([^<]*)", svg))  # as a scale of rounding errors


def test_curves_of_an_empty_log(tmp_path):
    assert draw_curves(tmp_path / "log.jsonl") == {}


def test_of_a_step_that_was_taken_again_the_last_loss_is_drawn(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in
                           ((10, 3.0), (20, 2.0), (30, 1.5), (20, 2.1), (30, 1.6))) + '{"loss": 9.0}\n')  # fmt: skip
    assert _series(log) == {"loss": {"training": [(10, 3.0), (20, 2.1), (30, 1.6)]}}


def test_a_command_is_written_without_secrets():
    words = ["adem-vl", "train", "--set", "hub_token=hf_abc", "seed=1", "--data", "my set", "runs/keyboard"]
    assert command_line(words) == "adem-vl train --set hub_token=... seed=1 --data 'my set' runs/keyboard"
    words = ["HUB_TOKEN=a", "run_name=https://you:pass@host/x", "--message", "hf_abcdefgh1234", "half_baked"]
    assert command_line(words) == "HUB_TOKEN=... run_name=https://...@host/x --message ... half_baked"


def test_a_run_whose_rate_is_too_low_says_so(run, caplog):
    run("--learning-rate", "1e-7", output="low")
    assert "this run will learn hardly anything: 3 steps with a peak learning rate of 1.0e-07" in caplog.text


@pytest.mark.slow
def test_a_run_whose_loss_does_not_fall_says_so(run, caplog):
    run("--learning-rate", "1e-9", "--set", "use_cpu=true", "logging_steps=1", steps="45", output="flat")
    assert "the loss has not fallen in 40 steps" in caplog.text
    caplog.clear()
    run("--learning-rate", "3e-2", "--set", "use_cpu=true", "logging_steps=1", steps="45", output="well")
    assert caplog.text == ""
