"""Data sets: all of them yield ``Sample`` dictionaries, and open or draw their pictures lazily."""

from torch.utils.data import Dataset

from .alpaca import Alpaca
from .by_path import open_path
from .coco import CocoCaptions
from .conversations import Conversations
from .image_folder import ImageFolder
from .mixture import OpenMojiMixture
from .mme import MME
from .names import OpenMojiNames
from .pairs import OpenMojiPairs
from .sample import Sample
from .scenes import OpenMojiScenes
from .scienceqa import ScienceQA
from .scienceqa_hub import HubScienceQA
from .videos import OpenMojiVideos

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


__all__ = [
    "MME",
    "Alpaca",
    "CocoCaptions",
    "Conversations",
    "HubScienceQA",
    "ImageFolder",
    "OpenMojiMixture",
    "OpenMojiNames",
    "OpenMojiPairs",
    "OpenMojiScenes",
    "OpenMojiVideos",
    "Sample",
    "ScienceQA",
    "open_dataset",
]
