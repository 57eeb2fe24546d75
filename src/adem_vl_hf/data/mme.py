"""Reads the questions of MME (arXiv 2306.13394) from its official folder layout.

::

    MME_Benchmark_release_version/
        existence/000000006040.jpg, 000000006040.txt, ...            images and questions side by side, or
        landmark/images/x.jpg, landmark/questions_answers_YN/x.txt   in folders of their own

Each text file has two lines: ``question<tab>Yes`` and ``question<tab>No``.
"""

import os
from pathlib import Path

from torch.utils.data import Dataset

from ..json_files import read_text
from .instructions import INSTRUCTION_PROMPT
from .media import check_inside, open_image
from .sample import Sample, continuation

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class MME(Dataset[Sample]):
    """Reads MME as two samples per image, one for each question.

    The ``kind`` of a sample is its sub-task, and its id is ``sub-task/image/number``. The prompt is that of ADEM-VL's
    code, "Instruction: {question}\\nResponse:". The attribute ``questions`` has the question of every sample by id, for
    the official result files, which repeat it.

    Args:
        folder (str | os.PathLike[str]): The folder that has one folder for each sub-task. Missing sub-tasks are left
            out.

    Raises:
        ValueError: There is no sub-task, a question file is not in the format, or it has no image. The message names
            the file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.questions: dict[str, str] = {}
        self._samples: list[tuple[str, Path, str, str]] = []  # id, image, question, answer
        for task in TASKS:
            below = Path(folder) / task
            texts = "questions_answers_YN" if (below / "questions_answers_YN").is_dir() else "."
            images = _images(below / "images" if texts != "." else below)
            for path in sorted((below / texts).glob("*.txt")):
                if path.stem not in images:
                    raise ValueError(f"{path}: no image {path.stem} ({', '.join(IMAGE_SUFFIXES)}) for these questions")
                image = images[path.stem]
                for number, (question, answer) in enumerate(_questions(path)):
                    name = f"{task}/{image.name}/{number}"
                    self.questions[name] = question
                    self._samples.append((name, image, question, answer))
        if not self._samples:
            raise ValueError(f"{folder}: no questions of MME; give the folder that holds {', '.join(TASKS[:3])}, ...")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        name, image, question, answer = self._samples[index]
        prompt = INSTRUCTION_PROMPT.format(instruction=question)
        return Sample(
            id=name,
            image=open_image(image),
            prompt=prompt,
            answer=continuation(prompt, answer),
            references=[answer],
            kind=name.split("/")[0],
        )


def _images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their names without suffix."""
    found = {path.stem: path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    for path in found.values():
        check_inside(folder, path)
    return found


def _questions(path: Path) -> list[tuple[str, str]]:
    """Read the two questions of a text file with their answers."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    pairs = [tuple(field.strip() for field in line.split("\t")) for line in lines]
    if len(pairs) != 2 or any(len(pair) != 2 or pair[1] not in ("Yes", "No") for pair in pairs):
        raise ValueError(f"{path}: expected two lines, each a question, a tab, and Yes or No")
    return pairs  # type: ignore[return-value]  # two fields each, checked above
