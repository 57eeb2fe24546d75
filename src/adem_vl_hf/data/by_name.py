"""Data sets: all of them yield ``Sample`` dictionaries, and open or draw their pictures lazily."""

import re
from pathlib import Path

from torch.utils.data import Dataset

from .coco import FILE as COCO_FILE
from .coco import CocoCaptions
from .image_folder import ImageFolder
from .instructions import Alpaca, Conversations
from .mme import MME
from .mme import TASKS as MME_TASKS
from .openmoji.clips import OpenMojiVideos
from .openmoji.mixture import OpenMojiMixture
from .openmoji.names import OpenMojiNames
from .openmoji.pairs import OpenMojiPairs
from .openmoji.scenes import OpenMojiScenes
from .sample import Sample
from .scienceqa import HubScienceQA, ScienceQA, has_hub_layout

# captions say most about a picture: as many of them as of all questions but one
SCENE_KINDS = ("caption", "caption", "caption", "presence", "count", "relation", "choice")
SIZE = 20_000  # of a drawn data set where none is given


def open_dataset(
    name: str,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    image_folder: str | None = None,
    prompt_format: str = "CQM-A",
    use_captions: bool = False,
) -> Dataset[Sample]:
    """One data set by name or path.

    Args:
        name: ``openmoji-names``, ``openmoji-scenes``, ``openmoji`` (both), ``openmoji-videos``,
            ``openmoji-pairs`` (two pictures a sample); a folder with ``metadata.jsonl``, with ScienceQA's
            ``problems.json``, with COCO's ``dataset_coco.json``, or of MME; ScienceQA as the Hub has it, a folder with
            parquet files or an id like ``derek-thomas/ScienceQA``; a ``.json`` or ``.jsonl`` file of LLaVA-style
            conversations or of Alpaca's instructions.
        split: ``train`` or ``test`` (ScienceQA and COCO also ``val``; folders by their own convention; the files of
            instructions and MME have one only).
        size: number of samples, for the drawn data sets.
        seed: of the drawn data sets.
        image_folder: where the conversations' pictures are; default the file's folder.
        prompt_format: of ScienceQA, see ``scienceqa_prompts``.
        use_captions: of ScienceQA: whether the context holds the picture's caption.

    Raises:
        ValueError: for a name that is none of these.
    """
    kinds = SCENE_KINDS if split == "train" else None
    if name == "openmoji-names":
        return OpenMojiNames(split, size=size, seed=seed)
    size = SIZE if size is None else size
    if name == "openmoji-scenes":
        return OpenMojiScenes(split, size=size, seed=seed, kinds=kinds)
    if name == "openmoji":
        return OpenMojiMixture(split, size=size, seed=seed)
    if name == "openmoji-videos":
        return OpenMojiVideos(split, size=size, seed=seed)
    if name == "openmoji-pairs":
        return OpenMojiPairs(split, size=size, seed=seed)
    found = open_path(name, split, image_folder, prompt_format, use_captions)
    if found is None:
        raise ValueError(
            f"no data set {name!r}: give openmoji, openmoji-names, openmoji-scenes, openmoji-videos, openmoji-pairs, a "
            "folder with metadata.jsonl, problems.json, dataset_coco.json, MME's sub-tasks or ScienceQA's parquet "
            "files, or a .json file of conversations or instructions"
        )
    return found


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
