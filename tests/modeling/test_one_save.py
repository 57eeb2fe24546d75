"""A save that is interrupted leaves the old files or the new ones, and a mixture is refused (see ``kills.py``)."""

import json
import os
import shutil
import threading
import warnings

import architectures
import pytest
import tiny
import torch
from closeness import assert_equal
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from adem_vl_hf.modeling import one_save as one_save_module
from adem_vl_hf.modeling.one_save import finish_save, one_save

pytestmark = pytest.mark.core


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def there(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the save is done afterwards."""


def killed_while_moving(target, after, monkeypatch, **files):
    """Save the files, and stop after so many of them are in their places."""
    moved, replace = [], os.replace

    def stop(*paths):
        if len(moved) == after:
            raise Killed
        moved.append(paths)
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr(os, "replace", stop)
        patch.setattr(one_save_module.shutil, "rmtree", lambda *args, **kwargs: None)
        with one_save(target) as temporary:
            put(temporary, **files)
    assert len(moved) == after


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_save_that_counts_is_completed_by_the_next_reader(tmp_path, monkeypatch, after):
    put(tmp_path, a="old", b="old", c="old")
    killed_while_moving(tmp_path, after, monkeypatch, a="new", b="new", d="new")
    assert finish_save(tmp_path)
    assert there(tmp_path) == {"a": "new", "b": "new", "c": "old", "d": "new"}
    assert not finish_save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_a_dead_save_has_left_is_removed_and_a_living_one_stays(tmp_path):
    put(tmp_path / ".saving-dead", a="half")
    with one_save(tmp_path) as temporary:
        put(temporary, a="first")
        assert [path.name for path in tmp_path.iterdir()] == [temporary.name]
        with one_save(tmp_path) as another:
            put(another, a="second")
        assert temporary.is_dir()
    assert there(tmp_path) == {"a": "first"}
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_of_another_form_do_not_stay(tmp_path):
    put(tmp_path, **{"model-00001-of-00002.safetensors": "1", "model.safetensors.index.json": "{}", "notes": "mine"})
    with one_save(tmp_path) as temporary:
        put(temporary, **{"model.safetensors": "all", "config.json": "{}"})
    assert there(tmp_path).keys() == {"model.safetensors", "config.json", "notes"}
    with one_save(tmp_path) as temporary:  # of a processor
        put(temporary, **{"tokenizer.json": "{}"})
    assert "model.safetensors" in there(tmp_path)


def test_a_full_disk_is_named_and_changes_nothing(tmp_path):
    put(tmp_path, a="old")
    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file"),
        RuntimeError("basic_ios::clear: iostream error"),
    ):
        with pytest.raises(OSError, match=rf"disk .* of {tmp_path} is full. 12.0 MB are needed, and .* free") as caught:  # noqa: PT012, SIM117
            with one_save(tmp_path, 12_000_000) as temporary:
                put(temporary, a="new")
                raise error
        assert caught.value.errno == 28
        assert there(tmp_path) == {"a": "old"}
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(bytes(3_000_000)),
        lambda file: torch.save({"x": torch.zeros(750_000)}, file),
        lambda file: save_file({"x": torch.zeros(750_000)}, file),
    ],
    ids=["plain", "torch", "safetensors"],
)
def test_a_limit_on_the_size_of_a_file_is_no_full_disk(tmp_path, write):
    resource = pytest.importorskip("resource")
    put(tmp_path, a="old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"too large: .*ulimit.* by {tmp_path}(/new)?\. .*; raise") as caught:  # noqa: SIM117
            with one_save(tmp_path, 12_000_000) as temporary:
                write(temporary / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == 27
    assert there(tmp_path) == {"a": "old"}


@architectures.each()
def test_a_folder_in_one_that_cannot_be_written_to_and_a_link(bases, arch, tmp_path, monkeypatch):
    """A mount point is such a folder: nothing may be made beside it, and nothing renamed across its border."""
    mounted, link = tmp_path / "parent" / "mounted", tmp_path / "link"
    mounted.mkdir(parents=True)
    link.symlink_to(mounted)
    model = arch.build(bases)
    rename, replace = os.rename, os.replace

    def inside(function):
        def checked(source, target):
            assert os.path.realpath(source).startswith(f"{mounted}/")
            assert os.path.realpath(target).startswith(f"{mounted}/")
            function(source, target)

        return checked

    monkeypatch.setattr(os, "rename", inside(rename))
    monkeypatch.setattr(os, "replace", inside(replace))
    os.chmod(tmp_path / "parent", 0o555)
    try:
        model.save_pretrained(link)
        arch.processor(bases, model).save_pretrained(link)
    finally:
        os.chmod(tmp_path / "parent", 0o755)
    assert link.is_symlink()
    assert [path.name for path in mounted.parent.iterdir()] == ["mounted"]
    assert not [path.name for path in mounted.iterdir() if path.name.startswith(".")]
    loaded = arch.model_class.from_pretrained(mounted)
    assert_equal(loaded.adapter_state_dict(), model.adapter_state_dict())
    arch.processor_class.from_pretrained(mounted)


def test_links_in_a_strangers_checkpoint_move_and_overwrite_nothing(tmp_path):
    outside, one, two = tmp_path / "outside", tmp_path / "one", tmp_path / "two"
    put(outside, secret="kept")
    one.mkdir()
    (one / ".saved-abc").symlink_to(outside)
    (one / ".saving-abc").symlink_to(outside)
    (one / ".saved-file").write_text("")
    assert not finish_save(one)
    put(two / ".saved-q" / "data", secret="written")
    (two / "data").symlink_to(outside)
    with pytest.raises(ValueError, match="data is a link, through which a save could write anywhere; remove it"):
        finish_save(two)
    with pytest.raises(ValueError, match="data is a link"), one_save(two) as temporary:
        put(temporary / "data", secret="written")
    assert there(outside) == {"secret": "kept"}


def test_processes_that_save_into_one_folder_leave_each_other_alone(tmp_path, monkeypatch):
    made = one_save_module.tempfile.mkdtemp

    def before_it_is_locked(**where):
        folder = made(**where)
        other = threading.Thread(target=finish_save, args=(tmp_path,))
        other.start()
        other.join(0.3)  # it waits for the folder's lock
        assert os.path.isdir(folder)
        waiting.append(other)
        return folder

    waiting = []
    monkeypatch.setattr(one_save_module.tempfile, "mkdtemp", before_it_is_locked)
    with one_save(tmp_path) as temporary:
        waiting[0].join()
        put(temporary, a="new")
    assert there(tmp_path) == {"a": "new"}


@architectures.each()
def test_a_new_config_over_old_weights_is_refused(bases, arch, tmp_path):
    name, _, another = arch.setting
    model, other = arch.build(bases), tiny.perturb(arch.build(bases, **{name: another}), seed=7)
    model.save_pretrained(tmp_path / "old")
    other.save_pretrained(tmp_path / "new")
    shutil.copy(tmp_path / "new" / "config.json", tmp_path / "old")
    with pytest.raises(ValueError, match=r"and the config\.json beside it come from different saves.*remove"):
        arch.model_class.from_pretrained(tmp_path / "old")
    path = tmp_path / "new" / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, name: arch.setting[1]}))  # by hand
    edited = arch.model_class.from_pretrained(tmp_path / "new")
    assert getattr(edited.config, name) == arch.setting[1]
    assert not hasattr(edited.config, "adapter_digest")
    weights = tmp_path / "new" / "model.safetensors"
    save_file({key: torch.zeros_like(x) for key, x in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="come from different saves"):
        arch.model_class.from_pretrained(tmp_path / "new")
    del fields["adapter_digest"]  # as earlier versions saved it
    path.write_text(json.dumps(fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arch.model_class.from_pretrained(tmp_path / "new")


@architectures.each()
def test_the_auto_classes_complete_a_save_before_they_read(bases, arch, tmp_path, monkeypatch):
    name, value, another = arch.setting
    folder = tmp_path / "checkpoint"
    arch.build(bases).save_pretrained(folder)
    tiny.perturb(arch.build(bases, **{name: another}), seed=7).save_pretrained(tmp_path / "new")
    new = there_as_bytes(tmp_path / "new")
    interrupted = folder / ".saved-0"
    interrupted.mkdir()
    for file in ("config.json", "model.safetensors"):
        (interrupted / file).write_bytes(new[file])
    assert value != another
    assert getattr(AutoConfig.from_pretrained(folder), name) == another
    assert not interrupted.exists()
    assert {file: there_as_bytes(folder)[file] for file in ("config.json", "model.safetensors")} == {
        file: new[file] for file in ("config.json", "model.safetensors")
    }
    arch.model_class.from_pretrained(folder)


def there_as_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_save_into_that_of_another_becomes_a_part_of_it(tmp_path):
    put(tmp_path / "out", a="old")
    with one_save(tmp_path / "out") as together:
        with one_save(together) as first:
            put(first, a="new")
        with pytest.raises(OSError, match=rf"of {tmp_path / 'out'} is full. 12.0 MB"), one_save(together, 12_000_000):
            raise OSError(28, "No space left on device")
        assert there(tmp_path / "out") == {"a": "old"}
    assert there(tmp_path / "out") == {"a": "new"}
    with pytest.raises(OSError, match=rf"of {tmp_path / 'out'} is full"), one_save(tmp_path / "out") as together:  # noqa: PT012, SIM117
        with one_save(together) as first:
            put(first, a="newer")
            raise OSError(28, "No space left on device")
    assert there(tmp_path / "out") == {"a": "new"}
