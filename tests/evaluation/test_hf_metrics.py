"""The metrics that the ``evaluate`` library loads by path: offline, and equal to this package's own."""

import hf_metrics
import pytest

from adem_vl_hf.evaluation.metrics import caption_metrics

load = hf_metrics.load


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
    assert sorted(path.name for path in hf_metrics.FOLDER.iterdir() if path.name != "__pycache__") == [
        "caption", "questions", "scienceqa",
    ]  # fmt: skip
