"""Whether a model sees: every score beside the same score with the images shuffled, and with no image."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import Dataset

from adem_vl_hf.data.sample import Sample

from .run import ImageSource, predict
from .scoring import score


def evaluate_with_controls(
    model: Any,
    processor: Any,
    datasets: Mapping[str, Dataset[Sample]],
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 20,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by data set and by what the model saw (``"true"``, ``"shuffled"``, ``"none"``).

    Args:
        datasets: task name (see ``scoring.TASKS``) -> test set.
        folder: where the prediction files go; an interrupted evaluation goes on from them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for task, dataset in datasets.items():
        scores[task] = {}
        for images in get_args(ImageSource):
            rows = predict(
                model,
                processor,
                dataset,
                output=folder / f"{task}-{images}.jsonl",
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                images=images,
            )
            scores[task][images] = score(task, rows)
    return scores
