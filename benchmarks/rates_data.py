"""The data sets of rates.py: what each method is trained on, by what its rate is chosen, and by what it is compared."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch.utils.data import Dataset, Subset

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.easy_vqa import WHAT, YES_OR_NO, EasyVQA, text_alone
from adem_vl_hf.data.openmoji.mixture import OpenMojiMixture
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.openmoji_training import SHORT_SHARES
from adem_vl_hf.training import IN_ORDER

CHOOSING_IMAGES, TEST_IMAGES = 20, 60  # of easy-VQA's test, each with about ten questions
CHOOSING_SCENES, TEST_SCENES = 100, 300


class Held(NamedTuple):
    """The held-out samples.

    Args:
        choosing (Dataset[Sample]): by which a rate is chosen.
        testing (Dataset[Sample]): by which the methods are compared, about other images.
    """

    choosing: Dataset[Sample]
    testing: Dataset[Sample]


class Rated(NamedTuple):
    """A data set on which methods are compared.

    Args:
        training (Callable[[int, int], Dataset[Sample]]): makes the training set of a number of samples and a seed.
        held (Callable[[], Held]): makes the held-out samples.
        arguments (Mapping[str, Any]): fields of ``TrainingArguments`` of its own.
        task (str): by which ``score`` scores its answers.
        max_new_tokens (int): of an answer.
        measures (Mapping[str, Callable[[dict[str, Any]], float]]): what each column shows of the metrics of a run. The
            order of the methods is that of the first.
        text_alone (Callable[[], list[float]] | None): what the text alone gives in these columns; None if not known.
    """

    training: Callable[[int, int], Dataset[Sample]]
    held: Callable[[], Held]
    arguments: Mapping[str, Any]
    task: str
    max_new_tokens: int
    measures: Mapping[str, Callable[[dict[str, Any]], float]]
    text_alone: Callable[[], list[float]] | None = None


def _accuracy(kind: str, metrics: dict[str, Any]) -> float:
    return 100 * metrics["questions"][kind]["accuracy"]


def _questions() -> Held:
    first = EachTurn(EasyVQA("test", CHOOSING_IMAGES))
    both = EachTurn(EasyVQA("test", CHOOSING_IMAGES + TEST_IMAGES))
    return Held(first, Subset(both, range(len(first), len(both))))


def _scenes() -> Held:
    both = OpenMojiScenes("test", CHOOSING_SCENES + TEST_SCENES, kinds=("caption", "choice"))
    return Held(Subset(both, range(CHOOSING_SCENES)), Subset(both, range(CHOOSING_SCENES, len(both))))


KINDS = ("all", WHAT, YES_OR_NO)
DATA = {
    "easy-vqa": Rated(
        training=lambda samples, seed: EachTurn(EasyVQA("train")),
        held=_questions,
        arguments={},
        task="easy-vqa",
        max_new_tokens=4,
        measures={f"{kind}, %": partial(_accuracy, kind) for kind in KINDS},
        text_alone=lambda: [100 * text_alone()[kind] for kind in KINDS],
    ),
    "scenes": Rated(
        training=lambda samples, seed: OpenMojiMixture("train", samples, seed=seed, shares=SHORT_SHARES),
        held=_scenes,
        arguments=IN_ORDER,
        task="openmoji-scenes",
        max_new_tokens=20,
        measures={
            "choice, %": partial(_accuracy, "choice"),
            "CIDEr": lambda metrics: 100 * metrics["caption"]["cider"],
        },
    ),
}
