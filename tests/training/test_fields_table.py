"""``docs/training_fields.md`` has every field of the three classes, and each of its rows names tests that exist."""

import dataclasses
import re

from field_runs import KNOWN
from scripts import ROOT
from transformers import Seq2SeqTrainingArguments, TrainingArguments
from trl import SFTConfig

from adem_vl_hf.training_fields import REFUSALS

PAGE = (ROOT / "docs" / "training_fields.md").read_text(encoding="utf-8")
CLASSES = (TrainingArguments, Seq2SeqTrainingArguments, SFTConfig)


def fields(cls):
    own = {field.name for field in dataclasses.fields(cls)}
    return own if cls is TrainingArguments else own - KNOWN


def section(heading):
    return re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


def rows(text):
    """The cells of each row of the tables in a section, without their heads."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if "`" in line[0]]


def named(cell):
    return re.findall(r"`(\w+)", cell)


def test_every_field_has_a_row_and_every_row_a_field():
    for cls in CLASSES:
        found = [field for row in rows(section(f"Fields of `{cls.__name__}`")) for field in named(row[0])]
        assert sorted(found) == sorted(fields(cls)), cls.__name__


def test_every_row_says_how_it_was_tried_and_names_tests():
    defined = {
        test
        for path in (ROOT / "tests").rglob("test_*.py")
        for test in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    for cls in CLASSES:
        for row in rows(section(f"Fields of `{cls.__name__}`")):
            assert len(row) == 3, row
            assert re.search("effect|same|no error|refused|library", row[1]), row
            assert named(row[2]), row
    for text in [*(row[-1] for row in rows(section("Around a trainer"))), PAGE]:
        tests = [name for name in named(text) if name.startswith("test_")]
        assert tests
        assert set(tests) <= defined


def test_every_refusal_is_on_the_page():
    listed = {field for row in rows(section("Refused")) for field in named(row[0])}
    assert {refusal.field for refusal in REFUSALS} | {"train_sampling_strategy"} == listed
