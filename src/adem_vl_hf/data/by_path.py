"""Which data set a path or a Hub id is: told by the files that are there."""

import re
from pathlib import Path

from torch.utils.data import Dataset

from .alpaca import Alpaca
from .coco import FILE as COCO_FILE
from .coco import CocoCaptions
from .conversations import Conversations
from .image_folder import ImageFolder
from .mme import MME
from .mme import TASKS as MME_TASKS
from .sample import Sample
from .scienceqa import ScienceQA
from .scienceqa_hub import HubScienceQA, has_hub_layout


def open_path(
    name: str,
    split: str,
    image_folder: str | None = None,
    prompt_format: str = "CQM-A",
    use_captions: bool = False,
) -> Dataset[Sample] | None:
    """The data set of a file, a folder or a Hub id that ends in ``/ScienceQA``; None where it is none of these.

    Args:
        image_folder: of conversations. prompt_format, use_captions: of ScienceQA.

    Raises:
        ValueError: captions for ScienceQA from the Hub, which has none.
    """
    path = Path(name)
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        return Alpaca(path) if _first_key(path) == "instruction" else Conversations(path, image_folder)
    if (path / "problems.json").is_file():
        return ScienceQA(path, split, prompt_format, use_captions)
    if (path / COCO_FILE).is_file():
        return CocoCaptions(path, split)
    if (path / "metadata.jsonl").is_file() or (path / split / "metadata.jsonl").is_file():
        return ImageFolder(path, split=split if (path / split).is_dir() else None)
    if has_hub_layout(path) or re.fullmatch(r"[\w.-]+/ScienceQA", name):
        if use_captions:
            raise ValueError(f"{name}: ScienceQA on the Hub has no captions; use the benchmark's own files for them")
        return HubScienceQA(name, split, prompt_format)
    if any((path / task).is_dir() for task in MME_TASKS):
        return MME(path)
    return ImageFolder(path, split=split if (path / split).is_dir() else None) if path.is_dir() else None


def _first_key(path: Path) -> str | None:
    """Whether a file of instructions is Alpaca's ("instruction") or LLaVA's ("conversations"), by its beginning."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        found = re.search(r'"(instruction|conversations)"\s*:', file.read(1 << 16))
    return found[1] if found else None
