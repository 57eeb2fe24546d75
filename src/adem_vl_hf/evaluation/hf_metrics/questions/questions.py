"""Scores answers in the ``evaluate`` library: ``evaluate.load(FOLDER_OF_THIS_FILE)``, without a hub."""

import datasets
import evaluate

from adem_vl_hf.evaluation.metrics import question_accuracy

DESCRIPTION = "Accuracy (0 ... 1) of short answers by kind of question, beside the accuracy without images."
INPUTS = """
Args:
    predictions: one answer per question.
    references: the true answers of each question, a list of texts.
    kinds: the kind of each question ("count", ...), by which the scores are given.
"""


class Questions(evaluate.Metric):
    """Computes ``adem_vl_hf.evaluation.metrics.question_accuracy``."""

    def _info(self):
        text = datasets.Value("string")
        features = {"predictions": text, "references": datasets.Sequence(text), "kinds": text}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions, references, kinds):
        samples = [{"kind": kind, "references": own} for kind, own in zip(kinds, references, strict=True)]
        return question_accuracy(predictions, samples)
