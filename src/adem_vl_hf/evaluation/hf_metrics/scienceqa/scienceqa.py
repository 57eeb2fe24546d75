"""Scores choice questions in the ``evaluate`` library: ``evaluate.load(FOLDER_OF_THIS_FILE)``, without a hub."""

import datasets
import evaluate

from adem_vl_hf.evaluation.scienceqa import scienceqa_scores

DESCRIPTION = (
    "Accuracy (0 ... 1) of texts that name one of the choices, as 'The answer is B.', as '(B)' or by its words."
)
INPUTS = """
Args:
    predictions: one text per question.
    references: the index of the right choice, counted from 0.
    choices: the choices of each question, a list of texts.
"""


class ScienceQA(evaluate.Metric):
    """Computes ``adem_vl_hf.evaluation.scienceqa.scienceqa_scores``, without the columns of its table."""

    def _info(self):
        text = datasets.Value("string")
        features = {"predictions": text, "references": datasets.Value("int64"), "choices": datasets.Sequence(text)}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions, references, choices):
        rows = zip(predictions, references, choices, strict=True)
        return scienceqa_scores(
            [
                {"id": str(number), "prediction": text, "references": [own[right]], "choices": own}
                for number, (text, right, own) in enumerate(rows)
            ]
        )
