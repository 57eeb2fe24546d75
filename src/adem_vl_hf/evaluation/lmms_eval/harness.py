"""Runs tasks of ``lmms-eval`` (VQAv2, GQA, MMBench, MMMU and some hundred others) on a checkpoint."""

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def run_lmms_eval(
    checkpoint: str | None,
    tasks: Sequence[str],
    include_path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint with the harness.

    Args:
        checkpoint (str | None): A folder or a Hub id. None means the adapter that ships with this package.
        tasks (Sequence[str]): The harness's names of the tasks ("gqa", "mmbench_en_dev", "mmmu_val", "vqav2_val").
        include_path (str | os.PathLike[str] | None): A folder with further tasks as YAML files.
        limit (int | None): The number of questions of each task. None means all.
        batch_size (int): The number of questions per call of ``generate``.
        cache (str | os.PathLike[str] | None): The folder where the harness keeps answers as they are made. After an
            interruption the same call continues from them.

    Returns:
        ``harness`` (its name), ``n`` (the number of questions) and ``tasks``, which has the metrics by task with the
        harness's own names and scales.

    Raises:
        ValueError: The harness is not installed, or no task is named.
    """
    if find_spec("lmms_eval") is None:
        raise ValueError("lmms-eval is not installed: pip install 'adem-vl-hf[lmms-eval]'")
    if not tasks:
        raise ValueError("no tasks of lmms-eval named; give --tasks gqa mmbench_en_dev or the like")
    with contextlib.redirect_stdout(sys.stderr):  # the harness logs to stdout, which is for the scores
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager

        from .model import AdemVLModel

        found = simple_evaluate(
            model=AdemVLModel(checkpoint, batch_size),
            tasks=list(tasks),
            task_manager=TaskManager(include_path=None if include_path is None else str(Path(include_path).resolve())),
            limit=limit,
            use_cache=None if cache is None else str(cache),
        )
    # The result is None in all processes but the first.
    results = (found or {}).get("results", {})
    return {
        "harness": "lmms-eval",
        "n": sum(part["effective"] for part in (found or {}).get("n-samples", {}).values()),
        "tasks": {task: _numbers(values) for task, values in results.items()},
    }


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Drop the name of the filter in metrics ("exact_match,none"), and values that are not numbers ("N/A", NaN)."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name.removesuffix(",none"): float(v) for name, v in numbers.items() if math.isfinite(v)}
