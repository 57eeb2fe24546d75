"""Makes a ``compute_metrics`` with the scores of ``adem-vl evaluate``, for a trainer that evaluates by generation."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import EvalPrediction

from ..data.sample import Sample
from ..data.turns import each_turn
from ..modeling.processing_adem_vl import AdemVLProcessor
from .predict import prediction_row
from .score import score


def answer_metrics(
    processor: AdemVLProcessor, dataset: Dataset[Sample], task: str = "caption"
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make a function for ``Seq2SeqTrainer(compute_metrics=...)`` with ``predict_with_generate=True``.

    Args:
        processor (AdemVLProcessor): The processor, which decodes the generated token ids.
        dataset (Dataset[Sample]): The ``eval_dataset`` of the trainer. It is read once, during this call. All its
            references are used, and its images are not kept. The trainer asks the first turn of a sample with several;
            ``EachTurn(dataset, "history")`` has all of them asked.
        task (str): One of ``tasks.TASKS``, such as "caption", "questions" or "scienceqa".

    Returns:
        A function that turns an ``EvalPrediction`` (token ids [N, T], padded with the padding token or any negative
        number) into one flat dictionary: ``caption_bleu4``, ``caption_cider``, ``count_accuracy`` and so on, to which
        the trainer adds "eval_". It raises ValueError if there are not as many predictions as samples.
    """
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length, ours have one
    rows = [prediction_row(each_turn(dataset[index], "history")[0], "") for index in range(size)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        ids = np.asarray(prediction.predictions)  # [N, T]
        if len(ids) != size:
            raise ValueError(
                f"{len(ids)} predictions and {size} samples: give answer_metrics the eval_dataset. In several "
                "processes, take the trainer of build_trainer: Seq2SeqTrainer itself keeps what fills up the last batch"
            )
        said = processor.batch_decode(np.where(ids < 0, processor.pad_token_id, ids), skip_special_tokens=True)
        answered = [{**row, "prediction": text.strip()} for row, text in zip(rows, said, strict=True)]
        return dict(_flat(score(task, answered)))  # type: ignore[arg-type]  # rows with another text

    return compute_metrics


def metric_names(dataset: Dataset[Sample], task: str) -> list[str]:
    """List the metrics that ``answer_metrics`` computes.

    Args:
        dataset (Dataset[Sample]): The ``eval_dataset`` of the trainer.
        task (str): One of ``tasks.TASKS``.

    Returns:
        The names, without "eval_".
    """
    samples = (dataset[index] for index in range(len(dataset)))  # type: ignore[arg-type]
    rows = [prediction_row(sample, sample["references"][0]) for sample in samples]
    return [name for name, _ in _flat(score(task, rows))]


def _flat(scores: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested scores, named by the groups that they are in."""
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if key == "questions" else f"{key}_")
        elif isinstance(value, float):
            yield f"{group}{key}", value
