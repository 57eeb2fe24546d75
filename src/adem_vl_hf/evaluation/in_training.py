"""``compute_metrics`` for a ``Seq2SeqTrainer`` that evaluates by generation: what ``adem-vl evaluate`` scores."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import EvalPrediction

from ..data.sample import Sample
from ..modeling.processing_adem_vl import AdemVLProcessor
from .predict import prediction_row
from .score import score


def answer_metrics(
    processor: AdemVLProcessor, dataset: Dataset[Sample], task: str = "caption"
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A function for ``Seq2SeqTrainer(compute_metrics=...)`` with ``predict_with_generate=True``.

    Args:
        processor: decodes what was generated.
        dataset: the trainer's ``eval_dataset``: its references count, all of them. Read once, here; pictures are not
            kept.
        task: of ``scoring.TASKS``, such as "caption", "questions", "scienceqa".

    Returns:
        From an ``EvalPrediction`` (ids [N, T], padded with anything negative or the padding token) to one flat
        dictionary: ``caption_bleu4``, ``caption_cider``, ``count_accuracy``, ...; the trainer adds "eval_".

    Raises:
        ValueError: when called with another number of predictions than ``dataset`` has samples.
    """
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length, ours have one
    rows = [prediction_row(dataset[index], "") for index in range(size)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        ids = np.asarray(prediction.predictions)  # [N, T]
        if len(ids) != size:
            raise ValueError(f"{len(ids)} predictions and {size} samples: give answer_metrics the eval_dataset")
        said = processor.batch_decode(np.where(ids < 0, processor.pad_token_id, ids), skip_special_tokens=True)
        answered = [{**row, "prediction": text.strip()} for row, text in zip(rows, said, strict=True)]
        return dict(_flat(score(task, answered)))  # type: ignore[arg-type]  # rows with another text

    return compute_metrics


def _flat(scores: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if key == "questions" else f"{key}_")
        elif isinstance(value, float):
            yield f"{group}{key}", value
