"""What comes from files does not steer the terminal."""

import io
import json
import logging
import re
import warnings

import pytest
import tiny

from adem_vl_hf.cli import main
from adem_vl_hf.terminal import escape_messages, printable, say

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe"


def test_control_characters_are_written_as_escapes():
    assert printable("ä\t猫\n") == "ä\t猫\n"
    assert printable(HOSTILE) == r"\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe"
    assert printable("\ud83d") == r"\ud83d"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", rb"gr\xf6\xdfe \u732b"), ("latin-1", b"gr\xf6\xdfe \\u732b"), ("utf-8", "größe 猫".encode())],
)
def test_what_an_encoding_lacks_is_written_as_escapes(encoding, written):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    say("größe 猫", stream)
    assert stream.buffer.getvalue() == written + b"\n"
    say("größe", text := io.StringIO())
    assert text.getvalue() == "größe\n"


def test_neither_info_nor_its_errors_pass_them_on(bases, tmp_path, capsys):
    tiny.build(bases).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"text_model_name_or_path": HOSTILE, "text_model_revision": "\n\r" + HOSTILE}))
    assert main(["info", str(tmp_path / "saved")]) == 0
    path.write_text(json.dumps(config | {"kernel": HOSTILE}))
    assert main(["info", str(tmp_path / "saved")]) == 2
    out, err = capsys.readouterr()
    assert r"\x1b[2J" in out
    assert "kernel is" in err
    assert not [c for c in out + err if c in "\x1b\x07\x9b\r\u202e"]


def test_warnings_and_log_messages_do_not_either(capsys):
    handler = logging.StreamHandler()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        escape_messages()
        assert "\x1b" not in warnings.formatwarning(UserWarning(HOSTILE), UserWarning, "x.py", 1)
        record = logging.LogRecord("transformers", logging.WARNING, "x.py", 1, "%s", (HOSTILE,), None)
        assert handler.filter(record)
        assert record.getMessage() == printable(HOSTILE)
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("repo_id", ['a"); import os; os.system("x', "owner/name`"])
def test_a_model_card_keeps_values_in_their_places(bases, tmp_path, repo_id):
    from adem_vl_hf.hub.model_card import write_model_card

    folder = tmp_path / "saved"
    tiny.build(bases).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    bad = "x](javascript:alert(1)) <script>alert(1)</script> [click](http://evil)"
    (folder / "config.json").write_text(json.dumps(config | {"vision_model_name_or_path": bad}))
    (folder / "training.json").write_text(json.dumps({"note": bad, "data": [bad], "a`b": "\x1b[2J"}))
    card = write_model_card(folder, repo_id=repo_id).read_text()
    assert "<script>" not in re.sub("`[^`\\n]+`", "", card)  # in code it is text
    assert "\x1b" not in card
    assert card.count("x\\](javascript:alert(1)) &lt;script>alert(1)&lt;/script> \\[click\\](http://evil)") == 2
    assert f"from_pretrained({json.dumps(repo_id)}, " in card
