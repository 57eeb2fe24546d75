"""The metrics that the ``evaluate`` library loads by path: offline, and equal to this package's own."""

import sys
from pathlib import Path

import evaluate
import pytest

import adem_vl_hf
from adem_vl_hf.evaluation.metrics import caption_metrics

FOLDER = Path(adem_vl_hf.__file__).parent / "evaluation" / "hf_metrics"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """``evaluate.load`` of one metric of ours, its copies and tables in a folder of these tests."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.syspath_prepend(str(folder / "modules"))
        yield lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(folder / "cache"))
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]  # they belong to that folder


def test_captions(load):
    predictions, references = ["a red car there", "two dogs"], [["a red car there", "a car"], ["a cat", "the cat"]]
    found = load("caption").compute(predictions=predictions, references=references)
    assert found == caption_metrics(predictions, references)
    assert found["exact_match"] == 0.5


def test_questions_in_batches(load):
    metric = load("questions")
    metric.add_batch(predictions=["two", "Yes."], references=[["two"], ["no"]], kinds=["count", "presence"])
    metric.add_batch(predictions=["four"], references=[["three", "four"]], kinds=["count"])
    assert metric.compute() == {
        "count": {"accuracy": 1.0, "chance": 0.5, "n": 2},
        "presence": {"accuracy": 0.0, "chance": 1.0, "n": 1},
    }


def test_choices(load):
    choices = [["sky", "blood"], ["yes", "no"], ["a", "b", "c", "d"]]
    predictions = ["The answer is B.", "yes", "?"]
    found = load("scienceqa").compute(predictions=predictions, references=[1, 1, 0], choices=choices)
    assert found == {
        "accuracy": pytest.approx(1 / 3),
        "chance": pytest.approx(1.25 / 3),
        "n": 3,
        "unreadable": 1,
    }


def test_every_metric_is_in_the_package():
    assert sorted(path.name for path in FOLDER.iterdir() if path.name != "__pycache__") == [
        "caption", "questions", "scienceqa",
    ]  # fmt: skip
