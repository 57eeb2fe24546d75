"""``adem-vl COMMAND --help``: each flag says what it does, and what holds without it; a push says its warnings."""

import argparse
import warnings
from types import SimpleNamespace

import pytest

import adem_vl_hf.hub
from adem_vl_hf.cli.parser import COMMANDS, build_parser, main


def flags_of(command):
    parser = build_parser()
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices[command]._actions


@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_has_a_text_and_names_its_default(command):
    for action in flags_of(command):
        assert action.help, action.option_strings
        text = action.help % vars(action)
        if type(action.default) in (int, float) and action.default > 0:
            assert f"{action.default:g}" in text, action.option_strings
        if isinstance(action.default, str) and action.default != argparse.SUPPRESS:
            assert action.default in text, action.option_strings


def test_the_default_data_are_named():
    (data,) = (action for action in flags_of("train") if action.dest == "data")
    assert "(default: openmoji)" in data.help


def test_a_push_prints_the_message_of_a_warning_alone(monkeypatch, tmp_path, capsys):
    def push(*args, **kwargs):
        warnings.warn("config.x is a local folder (\x1b)", stacklevel=2)
        return SimpleNamespace(repo_url="url")

    monkeypatch.setattr(adem_vl_hf.hub, "push", push)
    assert main(["push", str(tmp_path), "you/name"]) == 0
    assert capsys.readouterr().err == "adem-vl push: config.x is a local folder (\\x1b)\n"


def test_a_wrong_value_is_one_line(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--batch-size", "0"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "argument --batch-size" in said
    assert said.endswith("(adem-vl train --help lists the flags)\n")
    assert said.count("\n") == 1
