"""A server gives back what a large request took; commands that compute and end keep freed memory, for speed."""

import pytest

from adem_vl_hf.cli import parser

ARGUMENTS = {"train": ["--data", "openmoji-names", "--output-dir", "x"], "evaluate": ["--task", "caption"]}


@pytest.mark.parametrize(
    ("command", "kept"), [("train", True), ("evaluate", True), ("caption", True), ("serve", False), ("app", False)]
)
def test_freed_memory_is_kept_by_commands_that_end(command, kept, monkeypatch):
    module, happened = parser.COMMANDS[command], []
    monkeypatch.setattr(module, "check", lambda args: None)
    monkeypatch.setattr(module, "run", lambda args: happened.append("ran"))
    monkeypatch.setattr(parser, "keep_freed_memory", lambda: happened.append("kept"))
    assert parser.main([command, *ARGUMENTS.get(command, [])]) == 0
    assert happened == ["kept", "ran"] if kept else happened == ["ran"]
