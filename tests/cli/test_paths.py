"""Names that may be paths or Hub ids, and what commands say of what they are given."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id
from PIL import Image

from adem_vl_hf.cli.arguments import check_output, check_there
from adem_vl_hf.cli.parser import main
from adem_vl_hf.cli.train import _tower_for
from adem_vl_hf.hub.repo_id import check_repo_id
from adem_vl_hf.loading import CHECKPOINT, describe, load_config


def test_a_mistyped_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the checkpoint runs/mien: .* did you mean runs/mine\?"):
        check_there("the checkpoint", "runs/mien")
    with pytest.raises(ValueError, match="no such file or folder"):
        check_there("the checkpoint", "runs/mine/checkpoint-3")
    (tmp_path / "pictures").mkdir()
    for name in (None, "runs/mine", "you/my-adapter", "pictures/my-adapter", "embedded"):
        check_there("the checkpoint", name)


def test_info_looks_at_the_weights(tmp_path):
    assert "model.safetensors, " in describe()["weights"]
    folder = tmp_path / "copy"
    shutil.copytree(CHECKPOINT, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert describe(str(folder))["weights"].startswith("damaged: model.safetensors (")
    weights.unlink()
    assert describe(str(folder))["weights"] == f"missing: there is no model.safetensors in {folder}"


def test_data_choose_the_vision_tower():
    assert _tower_for(["openmoji", "openmoji-names"]) == "embedded"
    assert _tower_for(["pictures"]) == "embedded-dinov2"
    assert _tower_for(["openmoji", "easy-vqa"]) == "embedded-dinov2"


@pytest.mark.parametrize(
    "name", ["https://x.org/a.png", "http://x.org/a.png", "s3://b/a.png", "data:image/png;base64,QQ"]
)
def test_a_url_is_no_path(name):
    for given in (name, str(Path(name))):  # a path has one of the slashes left
        words = f"the image {re.escape(name)}: a URL; download it first and give the path of the file$"
        with pytest.raises(ValueError, match=words):
            check_there("the image", Path(given))
    check_there("the folder", Path("."))
    with pytest.raises(ValueError, match="give its id, you/name"):
        check_there("the checkpoint", name)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_none(name):
    with pytest.raises(ValueError, match="the checkpoint has an empty name"):
        check_there("the checkpoint", name)


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "new" / "deep" / "p.jsonl", tmp_path / "file", None):
        check_output("--output", path)
    with pytest.raises(ValueError, match="--output .* is a folder; name a file in it"):
        check_output("--output", tmp_path)
    with pytest.raises(ValueError, match="--output /dev/null is a pipe or a device; name a file"):
        check_output("--output", Path("/dev/null"))
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        check_output("--output", tmp_path / "file" / "deep" / "p.jsonl")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} may not be written to"):
        check_output("--output", tmp_path / "new" / "p.jsonl")


def test_a_page_replaces_nothing_but_pages(tmp_path, capsys):
    picture, page = tmp_path / "a.png", tmp_path / "b.html"
    Image.new("RGB", (4, 4)).save(picture)
    Image.new("RGB", (4, 4)).save(page, "PNG")
    for image, output in ((picture, picture), (page, picture), (page, page)):
        before = output.read_bytes()
        assert main(["look", str(image), "-o", str(output)]) == 2
        assert "is there already and no page" in capsys.readouterr().err
        assert output.read_bytes() == before


def test_what_is_no_checkpoint_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("a.png")
    with pytest.raises(ValueError, match=r"a\.png is a file, and a checkpoint is a folder"):
        load_config("a.png")
    with pytest.raises(ValueError, match="the checkpoint has an empty name"):
        load_config("")
    for name in ("nope", "some/nope"):
        with pytest.raises(OSError, match=f"^{name}: no such folder here, and not loaded from the Hub: "):
            load_config(name)


@pytest.mark.parametrize(
    "name",
    ["bad name!!", "a/b/c", "https://x.org/a", "", "a/", "/a", "-a/b", "a/b.", "a--b", "a..b", "a/b.git", "a" * 97],
)
def test_a_bad_name_of_a_repository_is_refused_before_anything_is_made(name, tmp_path, capsys):
    with pytest.raises(HFValidationError):
        validate_repo_id(name)
    assert main(["push", str(tmp_path), "--", name]) == 2
    assert f"{name!r} can be no repository of the Hub: give you/name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a", "you/my-adapter", "Y_o.u/v1.0_x", "a" * 96])
def test_a_good_name_of_a_repository_is_taken(name):
    validate_repo_id(name)
    check_repo_id(name)


def test_a_folder_that_was_removed_and_a_reader_that_has_enough(tmp_path):
    """Neither is an error that says nothing."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "adem_vl_hf.cli", "info", str(CHECKPOINT)]
    removed = subprocess.run(
        ["sh", "-c", f"cd {gone} && rmdir {gone} && exec " + shlex.join(command)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}, timeout=300,
    )  # fmt: skip
    assert removed.returncode == 2
    assert removed.stderr == (
        "adem-vl info: error: the folder that this command was started in has been removed; go to another one\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (1, "")


def test_a_broken_pipe_elsewhere_is_an_error_that_is_said(monkeypatch, capsys):
    def breaks(args):
        raise BrokenPipeError(errno.EPIPE, "the other end of a socket is gone")

    monkeypatch.setattr("adem_vl_hf.cli.info.run", breaks)
    assert main(["info", str(CHECKPOINT)]) == 1
    assert "the other end of a socket is gone" in capsys.readouterr().err
