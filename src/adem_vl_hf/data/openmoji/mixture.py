"""Mixes the OpenMoji data sets in blocks of one kind.

Sequences of one kind have about the same length. Taken in order, a batch then has little padding. With the kinds mixed,
a third of its tokens would be padding. Taken at random, the samples are the same.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch.utils.data import Dataset

from ..indexing import from_start
from ..sample import Sample
from .clips import OpenMojiVideos
from .common import DEFAULT_SIZE
from .names import OpenMojiNames
from .pairs import OpenMojiPairs
from .scenes import OpenMojiScenes
from .styles import OPENMOJI
from .things import EVERY_THING

Shares = Mapping[tuple[str, str], int]

BLOCK = 32  # consecutive samples of one kind
SEEN_STYLES = (OPENMOJI, "twemoji", "fluent")  # Noto's drawings are left for tests
DATASETS: dict[str, Callable[..., Dataset[Sample]]] = {
    "names": OpenMojiNames,
    "names in three styles": partial(OpenMojiNames, styles=SEEN_STYLES),
    "scenes": OpenMojiScenes,
    "scenes of more things in three styles": partial(OpenMojiScenes, styles=SEEN_STYLES, things=len(EVERY_THING)),
    "alike scenes of six things": partial(OpenMojiScenes, things=6, alike=True),
    "alike scenes of forty things": partial(OpenMojiScenes, things=40, alike=True),
    "alike scenes": partial(OpenMojiScenes, alike=True),
    "videos": OpenMojiVideos,
    "pairs": OpenMojiPairs,
}
# (data set, kind) -> number of blocks in each turn. A caption says most about an image, and a yes or no least.
SHARES = {
    ("names", "caption"): 4,
    ("names", "choice"): 1,
    ("scenes", "caption"): 7,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 2,
    ("scenes", "relation"): 2,
    ("scenes", "choice"): 2,
}
# What follows once captions of scenes are learned. Only then does presence, which compares the thing asked about with
# those that are seen, leave the plateau.
LATER_SHARES = {
    ("names", "caption"): 6,
    ("names in three styles", "choice"): 3,
    ("scenes", "caption"): 6,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 2,
    ("scenes", "relation"): 3,
    ("scenes", "choice"): 1,
}
# What then still goes wrong: yes or no, numbers, and which of two things is above or left. A thing that never stands
# alone in a scene is taken for a sample of names; that the size decides is learned from more things.
LAST_SHARES = {
    ("names", "caption"): 3,
    ("names in three styles", "choice"): 2,
    ("scenes", "caption"): 4,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 3,
    ("scenes", "relation"): 3,
    ("scenes", "choice"): 1,
    ("scenes of more things in three styles", "caption"): 3,
    ("scenes of more things in three styles", "presence"): 1,
    ("scenes of more things in three styles", "relation"): 1,
}
# Which thing stands where. Two groups of different numbers can be told apart by their numbers, and so they were: of two
# single things the adapter told the places by chance. Six things it learns to tell apart by what they are, in about a
# hundred steps; then many follow soon. From a hundred things at once it had not begun to after 160 steps.
PLACE_SHARES = {("alike scenes of six things", "relation"): 1}
MORE_PLACES_SHARES = {("alike scenes of forty things", "relation"): 1}
# Everything once more, with places of things that no number tells apart
FINAL_SHARES = {
    ("names", "caption"): 3,
    ("names in three styles", "choice"): 2,
    ("scenes", "caption"): 3,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 2,
    ("scenes", "relation"): 1,
    ("scenes", "choice"): 1,
    ("alike scenes", "caption"): 3,
    ("alike scenes", "relation"): 3,
    ("scenes of more things in three styles", "caption"): 2,
    ("scenes of more things in three styles", "presence"): 1,
}
# Captions above all, once names are no longer asked for by the same words
CAPTION_SHARES = {
    ("names", "caption"): 4,
    ("names in three styles", "choice"): 2,
    ("scenes", "caption"): 5,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 2,
    ("scenes", "choice"): 1,
    ("alike scenes", "caption"): 4,
    ("alike scenes", "relation"): 2,
    ("scenes of more things in three styles", "caption"): 2,
    ("scenes of more things in three styles", "presence"): 1,
}

# For the adapter that is moved to the small CLIP: names in all styles that its tower has seen
ON_CLIP_SHARES = {
    ("names in three styles", "caption"): 4,
    ("names in three styles", "choice"): 3,
    ("scenes", "caption"): 4,
    ("scenes", "presence"): 3,
    ("scenes", "count"): 2,
    ("scenes", "relation"): 2,
    ("scenes", "choice"): 1,
    ("scenes of more things in three styles", "caption"): 2,
}


class OpenMojiMixture(Dataset[Sample]):
    """Mixes the OpenMoji data sets. The shipped adapter trains on it, and the benchmarks with shares of their own.

    Args:
        split (str): "train" or "test".
        size (int): The number of samples.
        seed (int): The seed. All randomness follows from ``(seed, split, index)``.
        shares (Shares): The number of blocks in each turn for every part of the mixture. A part is a data set of
            ``DATASETS`` and one of its kinds.

    Raises:
        ValueError: An argument has none of these values.
        ImportError: A package of the extra ``demo`` is not installed.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = DEFAULT_SIZE,
        seed: int = 0,
        shares: Shares = MappingProxyType(SHARES),
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.split, self.size, self.shares, self.turn = split, size, shares, _turn(shares)
        # Each part has a seed of its own, so that samples of different kinds do not share their drawings.
        self.parts = {
            part: DATASETS[part[0]](split, size=size + BLOCK, seed=seed * len(shares) + i, kinds=part[1:])
            for i, part in enumerate(shares)
        }

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, self.size)
        block, position = divmod(index, BLOCK)
        turn, number = divmod(block, len(self.turn))
        part, number_in_part = self.turn[number]
        sample: Sample = self.parts[part][(turn * self.shares[part] + number_in_part) * BLOCK + position]
        sample["id"] = f"openmoji-{self.split}-{index}"
        return sample


def _turn(shares: Shares) -> list[tuple[tuple[str, str], int]]:
    """Order the blocks of one turn so that those of each part are spread evenly.

    Returns:
        For each block its part, and its number among the blocks of that part.
    """
    total = sum(shares.values())
    dates = [((i + 0.5) * total / share, part, i) for part, share in shares.items() for i in range(share)]
    return [(part, i) for _, part, i in sorted(dates)]
