"""``adem-vl``: help, exit codes, and one line on stderr for what a user got wrong."""

import errno
import json
import os

import pytest
import tiny
from new_process import run_python
from PIL import Image

from adem_vl_hf.cli import info, train
from adem_vl_hf.cli.parser import build_parser, main

COMMANDS = {
    "train": "adds image input to a language model",
    "caption": "Describe images or videos, or answer a question about them",
    "evaluate": "Measure a trained adapter on a test set",
    "convert": "Turn the authors' released adapter file",
    "info": "Show the frozen models, the settings",
}
# runs each command line in one process: a marker with the exit code behind what each wrote on stderr
RUN_EACH = """
import json, sys
from adem_vl_hf.cli import main
for argv in json.loads(sys.argv[1]):
    code = main(argv)
    print(f"=== {code}", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_a_stranger(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert COMMANDS[command] in " ".join(capsys.readouterr().out.split())
    assert COMMANDS[command].split()[0] in " ".join(build_parser().format_help().split())


def test_bad_input_is_one_line_and_exit_code_2(bases, tmp_path):
    folder, trained = tmp_path / "pictures", tmp_path / "checkpoint"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "red.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "red.png", "text": "red"}')
    tiny.build(bases).save_pretrained(trained)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "film.MP4").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 64)
    flags = ["--language-model", str(bases / "llama"), "--vision-tower", str(bases / "clip")]
    train = ["train", *flags, "--data", str(folder), "--output-dir", str(tmp_path / "out")]
    cases = {
        "--task 'poetry' is not one of caption": ["evaluate", "--task", "poetry"],
        "caption needs --predictions to score, or --data": ["evaluate", "--task", "caption"],
        "nothing to describe: name image files, or videos after --video": ["caption"],
        "--kernel belongs to ADEM-VL; --model is evlm": [*train, "--model", "evlm", "--kernel", "silu"],
        "--media-tokens belongs to EVLM; --model is adem_vl": [*train, "--media-tokens", "4"],
        "moe_top_k=9 is more than the 8 experts": [
            *train,
            "--model",
            "evlm",
            "--moe-replicas",
            "2",
            "--moe-top-k",
            "9",
        ],
        "clip.gif": ["caption", "--video", "clip.gif", "--checkpoint", str(trained)],
        "nowhere.png": ["caption", "nowhere.png", "--checkpoint", str(trained)],
        "film.MP4: a video, where an image is read; give it as a video": [
            "caption",
            str(tmp_path / "film.MP4"),
            "--checkpoint",
            str(trained),
        ],
        "metadata.jsonl": ["caption", str(folder / "metadata.jsonl"), "--checkpoint", str(trained)],
        f"{folder.name}/typo.csv: there is no such file; correct": [*train, "--data", f"{folder.name}/typo.csv"],
        "the checkpoint nowhere: there is no such folder, and an id of the Hub is you/name": ["info", "nowhere"],
        "no data set 'nowhere'": [*train, "--data", "nowhere"],
        "language model": [*train, "--language-model", str(tmp_path / "nowhere")],
        "vision tower": [*train, "--vision-tower", str(tmp_path / "nowhere")],
        "file is a file; name a folder": [*train, "--output-dir", str(tmp_path / "file")],
        "visual_token_counts: 256 does not fit": [*train, "--visual-token-counts", "256", "64"],
        "drop_ratio is 2.0; it must be at least 0": [*train, "--drop-ratio", "2"],
        "lora: the field 'rank' is not one of": [*train, "--lora", "rank=8"],
        "--vision-feature-layer: ADEM-VL takes one, not 2": [*train, "--vision-feature-layer", "-2", "-1"],
        "did you mean save_steps?": [*train, "--set", "save_step=3"],
        "--set seed: use --seed": [*train, "--set", "seed=3"],
        "--set logging_steps=often: it takes a number": [*train, "--set", "logging_steps=often"],
        "--set max_grad_norm=none: it takes a number": [*train, "--set", "max_grad_norm=none"],
        "--set dataloader_num_workers=1.5: it takes a whole number": [*train, "--set", "dataloader_num_workers=1.5"],
        "gradient_accumulation_steps: a training step has at least one": [
            *train,
            "--set",
            "gradient_accumulation_steps=0",
        ],
        "the weight 0.01 leaves nothing of a data set of 1; give at least 1": [*train, "--weights", "0.01"],
        "--from-checkpoint runs/of/nobody: there is no such file or folder": [
            *train,
            "--from-checkpoint",
            "runs/of/nobody",
        ],
        "empty.jsonl: it has no rows": [*train, "--data", str(tmp_path / "empty.jsonl")],
        f"{tmp_path} is no checkpoint, or its config.json is missing": ["info", str(tmp_path)],
        "no.jsonl": ["evaluate", "--task", "caption", "--predictions", str(tmp_path / "no.jsonl")],
        str(tmp_path / "nothing"): ["info", str(tmp_path / "nothing")],
        str(tmp_path / "none"): ["caption", str(folder / "red.png"), "--checkpoint", str(tmp_path / "none")],
        f"{folder} holds files already (": ["convert", str(folder / "red.png"), str(folder), *flags],
        "no.pth is no file": ["convert", str(tmp_path / "no.pth"), str(tmp_path / "out"), *flags],
    }
    argument = json.dumps(list(cases.values()))
    done = run_python(RUN_EACH, argument)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    parts = done.stderr.split("=== 2\n")
    assert len(parts) == len(cases) + 1, done.stderr
    for part, (words, argv) in zip(parts, cases.items(), strict=False):
        (line,) = part.splitlines()
        assert line.startswith(f"adem-vl {argv[0]}: error: ")
        assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["train"], "--output-dir"),
        (["train", "--output-dir", "x", "--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["train", "--output-dir", "x", "--learning-rate", "nan"], "--learning-rate: 'nan' is not a number above 0"),
        (["train", "--output-dir", "x", "--learning-rate", "0"], "--learning-rate: '0' is not a number above 0"),
        (["train", "--output-dir", "x", "--epochs", "0"], "--epochs: '0' is not a number above 0"),
        (["train", "--output-dir", "x", "--max-steps", "0"], "--max-steps: '0' is not a whole number of at least 1"),
        (["train", "--output-dir", "x", "--dtype", "int8"], "int8"),
        (["train", "--output-dir", "x", "--set", "save_steps"], "'save_steps' is not KEY=VALUE"),
        (["train", "--output-dir", "x", "--use-cls-token", "maybe"], "'maybe' is neither true nor false"),
        (["train", "--output-dir", "x", "--kernel", "gelu"], "argument --kernel: invalid choice: 'gelu'"),
        (["train", "--output-dir", "x", "--level-map", "one"], "argument --level-map: invalid int value: 'one'"),
        (["train", "--output-dir", "x", "--lora", "8"], "'8' is not KEY=VALUE"),
        (["evaluate", "--task", "caption", "--images", "some"], "some"),
        (["convert", "a.pth", "out"], "--language-model"),
    ],
)
def test_bad_usage_is_exit_code_2(argv, words, capsys):
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert done.value.code == 2
    assert words in capsys.readouterr().err


def test_an_interrupted_training_says_what_it_goes_on_from(tmp_path, monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupt)
    argv = ["train", "--output-dir", str(tmp_path), "--resume"]
    assert main(argv) == 1
    for step in (40, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "adem-vl train: interrupted, before a checkpoint was saved"
    assert lines[1] == "adem-vl train: interrupted; --resume goes on from checkpoint-100"


def test_a_training_that_fails_says_what_it_goes_on_from(tmp_path, monkeypatch, capsys):
    def fail(args):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as when nobody reads what Trainer prints any more

    monkeypatch.setattr(train, "run", fail)
    argv = ["train", "--output-dir", str(tmp_path), "--resume"]
    assert main(argv) == 1
    (tmp_path / "checkpoint-40").mkdir()
    assert main(argv) == 1
    assert capsys.readouterr().err.splitlines() == [
        "adem-vl train: BrokenPipeError: [Errno 32] Broken pipe (--debug shows more)",
        "adem-vl train: BrokenPipeError: [Errno 32] Broken pipe; --resume goes on from checkpoint-40 "
        "(--debug shows more)",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("two\nlines"), 1),
        (KeyboardInterrupt(), 1),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "locked"), 2),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "gone"), 2),
        (OSError("folder holds no config.json"), 2),  # as Transformers raises it
    ],
)
def test_the_rest_is_exit_code_1_and_debug_shows_it(monkeypatch, capsys, error, code):
    def fail(args):
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert main(["info"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("adem-vl info: ")
    assert ("error: " in line) == (code == 2)
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            main(["info", "--debug"])
