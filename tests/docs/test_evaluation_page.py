"""docs/evaluation.md: every task is in its table, its commands parse, its snippet prints what it says."""

import contextlib
import io
import json
import re
import shlex

import hf_metrics
import pytest
import scripts
from pages import fences

from adem_vl_hf.cli.parser import build_parser
from adem_vl_hf.data.scienceqa import PROMPT_FORMATS
from adem_vl_hf.evaluation.metrics import REMEDY
from adem_vl_hf.evaluation.score import TASKS

PAGE = (scripts.ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
LINES = [line for block in fences(PAGE, "") for line in block.splitlines()]
load = hf_metrics.load  # its folders for what ``evaluate`` copies


def test_every_task_has_its_row():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == sorted(TASKS)


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line):
    argv = shlex.split(line)
    argv = argv[argv.index("adem_vl_hf.cli") + 1 :] if argv[0] == "accelerate" else argv[1:]
    parsed = build_parser().parse_args(argv)
    assert getattr(parsed, "prompt_format", "CQM-A") in PROMPT_FORMATS
    assert parsed.command in ("train", "evaluate")
    assert getattr(parsed, "task", None) in (None, *TASKS)


def test_flags_and_extras_exist(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["evaluate", "--help"])
    known = capsys.readouterr().out
    flags = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {
        "--image-folder",
        "--captions",
        "--each-turn-alone",
    }  # of train and of a benchmark
    assert flags
    assert [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", known)] == []
    extras = set(re.findall(r"adem-vl-hf\[([\w-]+)\]", PAGE + REMEDY))
    project = (scripts.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"\n{extra} = [" not in project] == []


def test_the_snippet_prints_what_stands_beside_it(load):
    (snippet,) = fences(PAGE, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "evaluation.md", "exec"), {})
    assert printed.getvalue().strip() == re.search(r"print\(.*\)  # (.*)", snippet)[1]


def test_the_tokenizers_table_is_the_result_file():
    script = scripts.load("benchmarks/tokenizers_of_captions.py")
    result = json.loads((scripts.ROOT / "benchmarks" / "results" / "tokenizers.json").read_text())
    stated = PAGE.split("<!-- tokenizers table -->")[1].split("<!-- /tokenizers table -->")[0]
    assert stated.strip() == script.table(result)
    assert result["ptb"]["same_words"] == 1.0
