"""The OpenMoji data sets together, in blocks of one kind.

Rows of one kind are about as long as one another. Taken in order, a batch then holds little padding (a third of its
tokens when the kinds are mixed); taken at random, the samples are the same.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch.utils.data import Dataset

from ..sample import Sample
from .clips import OpenMojiVideos
from .names import OpenMojiNames
from .pairs import OpenMojiPairs
from .scenes import OpenMojiScenes

Shares = Mapping[tuple[str, str], int]

BLOCK = 32  # samples of one kind, one after another
PARTS: dict[str, type] = {
    "names": OpenMojiNames,
    "scenes": OpenMojiScenes,
    "videos": OpenMojiVideos,
    "pairs": OpenMojiPairs,
}
# (data set, kind) -> blocks in each turn of the mixture: captions say most about a picture, yes or no least
SHARES = {
    ("names", "caption"): 6,
    ("names", "choice"): 1,
    ("scenes", "caption"): 7,
    ("scenes", "presence"): 4,
    ("scenes", "count"): 1,
    ("scenes", "relation"): 1,
    ("scenes", "choice"): 2,
}


def _turn(shares: Shares) -> list[tuple[tuple[str, str], int]]:
    """The order of the blocks in one turn, each part's spread evenly; with each its number among its part's own."""
    total = sum(shares.values())
    dates = [((i + 0.5) * total / share, part, i) for part, share in shares.items() for i in range(share)]
    return [(part, i) for _, part, i in sorted(dates)]


class OpenMojiMixture(Dataset):
    """What the shipped adapter trains on, and the demo with shares of its own.

    Args:
        split: ``"train"`` or ``"test"``.
        size: number of samples.
        seed: all randomness follows from ``(seed, split, index)``.
        shares: how many blocks each part (data set of ``PARTS``, kind) has in a turn.
    """

    def __init__(
        self, split: str = "train", size: int = 20_000, seed: int = 0, shares: Shares = MappingProxyType(SHARES)
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.split, self.size, self.shares, self.turn = split, size, shares, _turn(shares)
        # a seed for each part: samples of different kinds do not share their drawings
        self.parts = {
            part: PARTS[part[0]](split, size=size + BLOCK, seed=seed * len(shares) + i, kinds=part[1:])
            for i, part in enumerate(shares)
        }

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        block, place = divmod(index, BLOCK)
        turn, number = divmod(block, len(self.turn))
        part, own = self.turn[number]
        sample: Sample = self.parts[part][(turn * self.shares[part] + own) * BLOCK + place]
        sample["id"] = f"openmoji-{self.split}-{index}"
        return sample
