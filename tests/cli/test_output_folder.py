"""The output folder of ``adem-vl train``: what ``--overwrite`` deletes and leaves, and names that are refused."""

import json
import os

import pytest
import tiny
from training_runs import picture_folder

from adem_vl_hf.cli.output_folder import note_data, remove_run
from adem_vl_hf.cli.parser import build_parser, main
from adem_vl_hf.cli.train import check


def checkpoint(path, name="trainer_state.json"):
    path.mkdir(parents=True)
    (path / name).write_text("{}")
    return path


def refused(folder, *flags):
    """What the command says against this output folder; an empty text if nothing."""
    try:
        check(build_parser().parse_args(["train", "--output-dir", str(folder), *map(str, flags)]))
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def folder(tmp_path):
    """A run, with files of somebody else beside it."""
    folder = tmp_path / "run"
    checkpoint(folder / "checkpoint-4")
    checkpoint(folder / "checkpoint-6", "complete.json")
    checkpoint(folder / "_checkpoint-8.saving" / "checkpoint-8", "model.safetensors")
    checkpoint(folder / "_checkpoint-2.deleted", "README.md")
    (folder / "checkpoint-9").mkdir()
    (folder / "log.jsonl").write_text('{"step": 2}\n')
    (folder / "data.json").write_text('{"data": ["pictures"]}')
    checkpoint(folder / "checkpoint-best", "mine.txt")
    checkpoint(folder / "_checkpoint-old.saving", "mine.txt")
    (folder / "checkpoint-19.pth").write_text("precious")
    return folder


def test_a_run_is_deleted_and_nothing_else(folder):
    assert "holds a run already (_checkpoint-2.deleted): add --resume" in refused(folder)
    assert not refused(folder, "--overwrite")
    assert not refused(folder, "--resume")
    remove_run(folder)
    assert sorted(os.listdir(folder)) == ["_checkpoint-old.saving", "checkpoint-19.pth", "checkpoint-best"]
    assert (folder / "checkpoint-19.pth").read_text() == "precious"
    assert (folder / "checkpoint-best" / "mine.txt").is_file()
    assert not refused(folder)


@pytest.mark.parametrize("name", ["checkpoint-7/mine.txt", "checkpoint-7", "_checkpoint-7.saving/mine.txt", "data.json",
                                  "training.json/mine.txt"])  # fmt: skip
def test_a_file_of_others_under_the_name_of_a_runs_is_neither_deleted_nor_replaced(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('[{"conversations": []}]')
    assert f"holds {name.split('/')[0]}, which is not what a run writes there" in refused(folder, "--overwrite")
    assert not refused(folder, "--resume")
    remove_run(folder)
    assert path.read_text() == '[{"conversations": []}]'
    assert "which is not what a run writes there" in refused(folder)


@pytest.mark.parametrize(
    ("name", "text"), [("log.jsonl", '{"mine": 1}\n'), ("log.jsonl", "in one line"), ("training.json", "my notes"),
                       ("training.json", '{"steps": 3}'), ("training.json", "[]")]
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_notes_of_others_are_no_run_to_go_on_with(tmp_path, name, text, flag):
    (tmp_path / name).write_text(text)
    assert f"holds {name}, which is not what a run writes there" in refused(tmp_path, flag)
    remove_run(tmp_path)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.jsonl", ""), ("log.jsonl", '{"st'), ("training.json", '{"steps": 3, "batch_size": 4, "seed": 0}')],
)
def test_notes_of_a_run_are_known(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert f"holds a run already ({name})" in refused(tmp_path)
    assert not refused(tmp_path, "--resume")


def test_the_note_of_a_run_that_ended_before_its_first_step_is_no_run(tmp_path, capsys):
    folder = tmp_path / "run"
    args = build_parser().parse_args(["train", "--output-dir", str(folder), "--data", "wrong", "--resume"])
    note_data(args, 0)
    assert not refused(folder)
    args.data = ["right"]
    assert note_data(args, 0) == ([], ["right"])
    assert note_data(args, 20) == (["right"], ["right"])
    assert capsys.readouterr().err == ""
    checkpoint(folder / "checkpoint-4")
    assert "holds a run already (checkpoint-4)" in refused(folder)


@pytest.mark.parametrize("name", ["samples/0.png", "report.html", "README.md", "config.json"])
def test_a_folder_without_a_run_keeps_what_a_run_would_replace(tmp_path, name):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    said = f"holds {name.split('/')[0]}, which is not what a run writes there and would be replaced"
    assert said in refused(tmp_path / "mine")
    for flag in ("--overwrite", "--resume"):
        assert said in refused(tmp_path / "mine", flag)
    remove_run(tmp_path / "mine")
    assert path.read_text() == "precious"


def test_the_report_of_a_run_goes_with_it_and_other_files_beside_its_samples_stay(folder):
    (folder / "samples").mkdir()
    for name in ("samples/0.png", "samples/samples.json", "samples/mine.png", "report.html", "config.json"):
        (folder / name).write_text("[]")
    assert not refused(folder, "--overwrite")
    remove_run(folder)
    assert not (folder / "report.html").exists()
    assert os.listdir(folder / "samples") == ["mine.png"]


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
def test_samples_that_are_no_folder_are_refused_before_the_run(folder, tmp_path, flags):
    (folder / "samples").symlink_to(tmp_path)
    if flags:
        assert "holds samples, which is not what a run writes there" in refused(folder, *flags)
    (folder / "samples").unlink()
    assert "whose files the run replaces" in refused(folder, *(flags or ["--resume"]), "--data", folder / "samples")


@pytest.mark.parametrize("flag", ["--language-model", "--vision-tower"])
def test_a_base_is_not_the_output_folder(tmp_path, bases, monkeypatch, flag):
    monkeypatch.chdir(bases)
    said = f"--output-dir {bases / 'llama'} is {flag}, whose files would be replaced: name another folder"
    assert refused(bases / "llama", flag, "llama") == said


def test_a_folder_that_may_not_be_written_to_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not be written to; name another place or change its permissions" in refused(tmp_path / "run")


def test_links_are_removed_and_not_followed(folder, tmp_path):
    elsewhere = checkpoint(tmp_path / "elsewhere")
    (folder / "checkpoint-12").symlink_to(elsewhere)
    (folder / "checkpoint-14").symlink_to(tmp_path / "nowhere")
    (folder / "training.json").symlink_to(elsewhere / "trainer_state.json")
    assert not refused(folder, "--overwrite", "--data", elsewhere, "--image-folder", elsewhere)
    remove_run(folder)
    assert not {"checkpoint-12", "checkpoint-14", "training.json"} & {*os.listdir(folder)}
    assert os.listdir(elsewhere) == ["trainer_state.json"]


@pytest.mark.parametrize("flag", ["--data", "--eval-data", "--image-folder", "--language-model", "--vision-tower",
                                  "--from-checkpoint", "--cache-features"])  # fmt: skip
def test_nothing_that_the_new_run_reads_is_deleted(folder, tmp_path, monkeypatch, flag):
    words = "whose files the run replaces: move it elsewhere, or name another --output-dir"
    inside = checkpoint(folder / "checkpoint-4" / "pictures", "config.json")
    (tmp_path / "link").symlink_to(inside)
    monkeypatch.chdir(folder.parent)
    for name in (inside, inside.parent, "run/checkpoint-4/../checkpoint-4", tmp_path / "link"):
        assert refused(folder, "--overwrite", flag, name) == f"{flag} {name} lies in {folder / 'checkpoint-4'}, {words}"
    assert words not in refused(folder, "--overwrite", flag, folder / "checkpoint-best")


@pytest.mark.slow
def test_data_in_the_folder_of_a_run_stay(tmp_path, bases, capsys):
    data = tmp_path / "run" / "checkpoint-pictures"
    data.parent.mkdir()
    picture_folder(data)
    before = sorted(data.iterdir())
    argv = ["train", *tiny.base_flags(bases), "--data", str(data), "--batch-size", "2", "--max-steps", "1",
            "--projector-dim", "8", "--output-dir", str(tmp_path / "run"), "--set", "use_cpu=true"]  # fmt: skip
    assert main(argv) == 0
    (tmp_path / "run" / "checkpoint-1").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoint-1").symlink_to(tmp_path / "elsewhere")
    assert main([*argv, "--overwrite"]) == 0, capsys.readouterr().err
    assert sorted(data.iterdir()) == before
    assert (tmp_path / "elsewhere" / "trainer_state.json").is_file()
    assert not (tmp_path / "run" / "checkpoint-1").is_symlink()


@pytest.mark.parametrize("name", [b"run_\xff\xfe", b"run/\xfc"])
def test_a_folder_whose_name_is_no_utf8_is_refused_before_anything_is_loaded(tmp_path, name, capsys):
    folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    assert main(["train", "--output-dir", folder, "--data", "openmoji"]) == 2
    said = capsys.readouterr().err
    assert "--output-dir" in said
    assert "its name is not UTF-8, in which files are saved" in said
    assert not os.path.exists(folder)
    assert not refused(tmp_path / "run_ü")


def test_what_is_no_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for name in ("pipe", "file"):
        assert refused(tmp_path / name) == f"--output-dir {tmp_path / name} is a file; name a folder"


@pytest.mark.slow
def test_what_the_files_of_a_run_say_does_not_steer_the_terminal(tmp_path, bases, capsys):
    run, data = tmp_path / "run", tmp_path / "pictures"
    picture_folder(data)
    argv = ["train", *tiny.base_flags(bases), "--data", str(data), "--batch-size", "2", "--max-steps", "1",
            "--projector-dim", "8", "--output-dir", str(run), "--set", "use_cpu=true"]  # fmt: skip
    assert main(argv) == 0
    (run / "data.json").write_text(json.dumps({"data": ["\x1b[2J\x1b]0;pwn\x07evil"]}))
    assert main([*argv, "--resume", "--max-steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert r"the run was trained on \x1b[2J\x1b]0;pwn\x07evil until now" in err
    assert not {*"\x1b\x07"} & {*out, *err}
