"""Data sets: all of them yield ``Sample`` dictionaries, and open or draw their pictures lazily."""

from pathlib import Path

from torch.utils.data import Dataset

from .conversations import Conversations
from .image_folder import ImageFolder
from .mixture import OpenMojiMixture
from .names import OpenMojiNames
from .pairs import OpenMojiPairs
from .sample import Sample
from .scenes import OpenMojiScenes
from .scienceqa import ScienceQA
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
) -> Dataset[Sample]:
    """One data set by name or path.

    Args:
        name: ``openmoji-names``, ``openmoji-scenes``, ``openmoji`` (both), ``openmoji-videos``,
            ``openmoji-pairs`` (two pictures a sample); a folder with ``metadata.jsonl``; a folder with ScienceQA's
            ``problems.json``; a ``.json`` or ``.jsonl`` file of LLaVA-style conversations.
        split: ``train`` or ``test`` (ScienceQA also ``val`` and the like; folders by their own convention).
        size: number of samples, for the drawn data sets.
        seed: of the drawn data sets.
        image_folder: where the conversations' pictures are; default the file's folder.

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
    path = Path(name)
    if path.suffix in (".json", ".jsonl") and path.is_file():
        return Conversations(path, image_folder)
    if (path / "problems.json").is_file():
        return ScienceQA(path, split)
    if path.is_dir():
        return ImageFolder(path, split=split if (path / split).is_dir() else None)
    raise ValueError(
        f"no data set {name!r}: give openmoji, openmoji-names, openmoji-scenes, openmoji-videos, openmoji-pairs, a "
        "folder with metadata.jsonl or problems.json, or a .json file of conversations"
    )


__all__ = [
    "Conversations",
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
