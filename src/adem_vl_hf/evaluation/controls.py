"""Whether a model sees: every score beside the same score with the images shuffled, and with no image.

Videos and samples of several pictures have a further control: the same pictures in another order.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from adem_vl_hf.data.sample import Sample

from .run import predict
from .scoring import score
from .shown import sources_of


def evaluate_with_controls(
    model: Any,
    processor: Any,
    datasets: Mapping[str, Dataset[Sample]],
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 20,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by data set and by what the model saw (``"true"``, ``"shuffled"``, ``"none"``; with videos
    also ``"shuffled_frames"``, with several pictures ``"swapped_images"``).

    Args:
        datasets: task name (see ``scoring.TASKS``) -> test set.
        folder: where the prediction files go; an interrupted evaluation goes on from them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for task, dataset in datasets.items():
        scores[task] = {}
        for images in sources_of(dataset):
            rows = predict(
                model,
                processor,
                dataset,
                output=folder / f"{task}-{images}.jsonl",
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                images=images,  # type: ignore[arg-type]
            )
            scores[task][images] = score(task, rows)
    return scores
