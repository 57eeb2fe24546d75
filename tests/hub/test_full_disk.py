"""A disk that is full while something is fetched, pushed, predicted or cached; a small one takes root to make."""

import os
import re
import shutil
import subprocess
import sys

import architectures
import pytest
import tiny
from hub_server import hub_env, run_client, serve_hub

from adem_vl_hf.evaluation.predictions import PredictionFile, read_predictions
from adem_vl_hf.files import replacing

pytestmark = pytest.mark.slow

DOWNLOAD = """
import sys
from adem_vl_hf.cli import main
sys.exit(main(["caption", sys.argv[1], "--checkpoint", "acme/adem", "--max-new-tokens", "2"]))
"""
PUSH = """
import sys
import tempfile
tempfile.tempdir = None  # the process that this one is a copy of has chosen another
from adem_vl_hf.cli import main
sys.exit(main(["push", sys.argv[1], "acme/again"]))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("a small disk can be made by root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def hub(tmp_path, bases):
    """The local Hub with a checkpoint and its bases."""
    model = tiny.build(bases)
    processor = architectures.ADEM_VL.processor(bases, model)
    with serve_hub() as server:
        for name in ("llama", "clip"):
            server.publish(f"acme/{name}", bases / name)
        model.config.text_model_name_or_path, model.config.vision_model_name_or_path = "acme/llama", "acme/clip"
        model.save_pretrained(tmp_path / "adem")
        processor.save_pretrained(tmp_path / "adem")
        server.publish("acme/adem", tmp_path / "adem")
        yield server


def names_the_disk(done, disk):
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("adem-vl ")]
    assert "No space left on device" in line
    assert str(disk) in line
    assert "MB are free. What was there before" in line


def test_a_download_names_it_and_goes_on_when_there_is_room(hub, small_disk, tmp_path):
    tiny.picture(0).save(tmp_path / "cat.png")
    env = hub_env(hub.url, small_disk / "home") | {"TMPDIR": str(tmp_path)}
    names_the_disk(run_client(DOWNLOAD, env, tmp_path / "cat.png"), small_disk)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    done = run_client(DOWNLOAD, env, tmp_path / "cat.png")
    assert done.returncode == 0, done.stderr


def test_a_push_names_it_and_makes_no_repository(hub, small_disk, tmp_path):
    before = {path.name: path.read_bytes() for path in (tmp_path / "adem").iterdir() if path.is_file()}
    env = hub_env(hub.url, tmp_path / "home") | {"TMPDIR": str(small_disk), "HF_TOKEN": "secret"}
    names_the_disk(run_client(PUSH, env, tmp_path / "adem"), small_disk)
    assert "acme/again" not in hub.repos
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "adem").iterdir() if path.is_file()}
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    assert not list(small_disk.iterdir())


def test_predictions_stay_and_go_on_when_there_is_room(small_disk):
    path = small_disk / "rows.jsonl"
    rows = [{"id": str(n), "kind": "caption", "prediction": "a dog " * 2000, "references": ["x"]} for n in range(12)]

    def write():
        with PredictionFile(path) as file:
            for row in rows:
                if row["id"] not in file.rows:
                    file.append(row)

    with pytest.raises(OSError, match=re.escape(str(small_disk))):
        write()
    kept = PredictionFile(path).rows
    assert 4 < len(kept) < 12
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    write()
    assert read_predictions(path) == rows


def test_a_file_of_the_cache_stays_as_it_was(small_disk):
    path = small_disk / "cache" / "drawn.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(60_000))
    with pytest.raises(OSError, match=re.escape(str(small_disk))), replacing(path) as temporary:
        temporary.write_bytes(bytes(90_000))
    assert path.read_bytes() == bytes(60_000)
    assert list(path.parent.iterdir()) == [path]
