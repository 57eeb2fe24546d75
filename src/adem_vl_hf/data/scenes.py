"""OpenMoji *scenes* as a data set: composed pictures with captions and questions whose truth is exact."""

import random
from collections.abc import Sequence

from torch.utils.data import Dataset

from .openmoji import sprites_of
from .sample import Sample, check_arguments
from .scene import THINGS, Scene, draw_scene, random_scene
from .scene_grammar import KINDS, ask


class OpenMojiScenes(Dataset):
    """Composed scenes with captions and questions (the grammar is in ``scene_grammar``).

    Args:
        split: ``"train"`` or ``"test"``; no combination of things and numbers is in both.
        size: number of samples.
        seed: all randomness follows from ``(seed, split, index)``.
        kinds: the kinds asked, drawn with equal chance per sample: ``"caption"``, ``"presence"``, ``"count"``,
            ``"relation"`` (pictures of two kinds only), ``"choice"``. Name one twice to have it twice as often.
    """

    def __init__(self, split: str = "train", size: int = 20_000, seed: int = 0, kinds: Sequence[str] | None = None):
        self.kinds = tuple(kinds or KINDS)
        check_arguments("scenes", split, size, self.kinds, KINDS)
        self.split, self.size, self.seed = split, size, seed
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> tuple[Scene, str, random.Random]:
        """The truth of sample ``index``, the kind asked, and the generator that goes on to draw and to ask."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"scenes-{self.seed}-{self.split}-{index}")
        kind = rng.choice(self.kinds)
        scene = random_scene(rng, self.split)
        while kind == "relation" and scene.relation is None:
            scene = random_scene(rng, self.split)
        return scene, kind, rng

    def __getitem__(self, index: int) -> Sample:
        scene, kind, rng = self.scene(index)
        picture = draw_scene(scene, self.sprites, rng)
        return Sample(id=f"scenes-{self.split}-{index}", image=picture, kind=kind, **ask(scene, kind, rng))  # type: ignore[typeddict-item]
