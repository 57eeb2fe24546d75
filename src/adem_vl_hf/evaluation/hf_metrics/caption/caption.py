"""Scores captions in the ``evaluate`` library: ``evaluate.load(FOLDER_OF_THIS_FILE)``, without a hub or Java."""

import datasets
import evaluate

from adem_vl_hf.evaluation.metrics import caption_metrics

DESCRIPTION = (
    "Exact match (0 ... 1), corpus BLEU-4 (0 ... 1) and CIDEr-D (0 ... 10) against several captions per image."
)
INPUTS = """
Args:
    predictions: one caption per image.
    references: the true captions of each image, a list of texts.
"""


class Caption(evaluate.Metric):
    """Computes ``adem_vl_hf.evaluation.metrics.caption_metrics``."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions, references):
        return caption_metrics(predictions, references)
