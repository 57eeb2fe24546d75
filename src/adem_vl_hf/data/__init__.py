"""Data sets for training and testing. All of them yield ``Sample`` dictionaries, and open or draw images lazily."""

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .by_name import open_dataset
    from .coco import CocoCaptions
    from .easy_vqa import EasyVQA
    from .image_folder import ImageFolder
    from .instructions import Alpaca, Conversations
    from .mme import MME
    from .openmoji.clips import OpenMojiVideos
    from .openmoji.mixture import OpenMojiMixture
    from .openmoji.names import OpenMojiNames
    from .openmoji.pairs import OpenMojiPairs
    from .openmoji.scenes import OpenMojiScenes
    from .sample import Sample
    from .scienceqa import HubScienceQA, ScienceQA

__all__ = [
    "MME",
    "Alpaca",
    "CocoCaptions",
    "Conversations",
    "EasyVQA",
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

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "by_name": ["open_dataset"],
        "coco": ["CocoCaptions"],
        "easy_vqa": ["EasyVQA"],
        "image_folder": ["ImageFolder"],
        "instructions": ["Alpaca", "Conversations"],
        "mme": ["MME"],
        "openmoji.clips": ["OpenMojiVideos"],
        "openmoji.mixture": ["OpenMojiMixture"],
        "openmoji.names": ["OpenMojiNames"],
        "openmoji.pairs": ["OpenMojiPairs"],
        "openmoji.scenes": ["OpenMojiScenes"],
        "sample": ["Sample"],
        "scienceqa": ["HubScienceQA", "ScienceQA"],
    },
)
