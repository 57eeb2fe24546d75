"""ScienceQA as the Hub has it (``derek-thomas/ScienceQA``): one parquet file a split, the pictures inside.

Read by ``datasets``, from the Hub or from a folder in that layout (``data/test-00000-of-00001-*.parquet``). The rows
are those of the benchmark without their pids and captions.
"""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .images import open_image
from .sample import Sample
from .scienceqa import check_problem, scienceqa_sample
from .scienceqa_prompts import check_prompt_format

SPLITS = {"val": "validation"}  # the benchmark's own name


class HubScienceQA(Dataset[Sample]):
    """One split as ``ScienceQA`` gives it, but for the ids: ``split-row``, rows counted from 0.

    Args:
        name: A Hub id, or a folder.
        split: "train", "val" (or "validation") or "test".
        prompt_format: As of ``ScienceQA``.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: An unknown split, or a row that cannot be used; the message names it.
    """

    def __init__(self, name: str | os.PathLike[str], split: str = "train", prompt_format: str = "CQM-A") -> None:
        check_prompt_format(prompt_format)
        try:
            from datasets import Image, load_dataset
        except ImportError as error:
            raise ImportError("parquet files need 'datasets': pip install 'adem-vl-hf[evaluation]'") from error
        self.prompt_format, self.split = prompt_format, split
        self._rows = load_dataset(str(name), split=SPLITS.get(split, split)).cast_column("image", Image(decode=False))
        texts = self._rows.remove_columns("image")
        blind = self._rows.data.column("image").is_null().to_pylist()  # without reading the pictures
        self.problems: dict[str, dict[str, Any]] = {}
        for number, (problem, no_image) in enumerate(zip(texts, blind, strict=True)):
            problem = {**problem, "answer": int(problem["answer"]), "image": None if no_image else "image.png"}
            problem.setdefault("split", split)
            check_problem(problem, f"{name}, row {number} of split {split!r}")
            self.problems[f"{split}-{number}"] = problem

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> Sample:
        name = f"{self.split}-{index}"
        if name not in self.problems:
            raise IndexError(index)
        stored = self._rows[index]["image"]
        image = None if stored is None else open_image(stored["bytes"] or stored["path"])
        return scienceqa_sample(name, self.problems[name], image, self.prompt_format)


def has_hub_layout(folder: Path) -> bool:
    """Whether a folder holds parquet files as a data set on the Hub does."""
    return any(folder.glob("data/*.parquet")) or any(folder.glob("*.parquet"))
