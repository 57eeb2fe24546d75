"""After an error the old file is as it was, and no temporary file is left."""

import os
import secrets

import pytest
import torch
from safetensors.torch import save_file

from adem_vl_hf.files import replacing, write_json, write_text
from adem_vl_hf.json_files import read_jsonl, read_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "sub" / "notes.txt"
    write_text(path, "old\n")

    def stop_halfway():
        with replacing(path) as beside:
            beside.write_text("half of the n")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        stop_halfway()
    assert path.read_bytes() == b"old\n"
    assert list(path.parent.iterdir()) == [path]
    write_json(path, {"é": 1})
    assert path.read_bytes() == b'{\n "\\u00e9": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_replaced_and_never_followed(tmp_path, monkeypatch):
    victim, path = tmp_path / "victim", tmp_path / "notes.txt"
    victim.write_text("mine")
    path.symlink_to(victim)
    write_text(path, "new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "foretold")
    (tmp_path / ".notes.txt.foretold").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(path, "newer")
    assert victim.read_text() == "mine"
    assert path.read_text() == "new"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_a_file_as_far_as_the_umask_lets_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "model.safetensors") as beside:
            save_file({"x": torch.zeros(1)}, beside)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_reading_names_the_file_and_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: list instead of an object"):
        list(read_jsonl(path))
    path.write_text('{"a": 1}\n\n{"a"\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: not valid JSON"):
        list(read_jsonl(path))
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows\.jsonl: not UTF-8 text"):
        read_text(path)
