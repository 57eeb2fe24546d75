"""MME (arXiv 2306.13394) in its official folder layout, as questions to answer.

::

    MME_Benchmark_release_version/
        existence/000000006040.jpg, 000000006040.txt, ...            pictures and questions side by side, or
        landmark/images/x.jpg, landmark/questions_answers_YN/x.txt    apart

Each text file has two lines, ``question<tab>Yes`` and ``question<tab>No``.
"""

import os
from pathlib import Path

from torch.utils.data import Dataset

from ..files import read_text
from .instructions import INSTRUCTION_PROMPT
from .media import open_image
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
PICTURES = (".jpg", ".jpeg", ".png")


class MME(Dataset[Sample]):
    """Two samples a picture, whose ``kind`` is the sub-task and whose id is ``sub-task/picture/number``.

    The prompt is ADEM-VL's, "Instruction: {question}\\nResponse:".

    Args:
        folder: The folder of the sub-tasks' folders; sub-tasks without one are left out.

    Raises:
        ValueError: No sub-task there, or a question file that is not as above or has no picture; the message names it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.questions: dict[str, str] = {}  # by sample id, as the result files repeat them
        self._samples: list[tuple[str, Path, str, str]] = []  # id, picture, question, answer
        for task in TASKS:
            below = Path(folder) / task
            texts = "questions_answers_YN" if (below / "questions_answers_YN").is_dir() else "."
            pictures = _pictures(below / "images" if texts != "." else below)
            for path in sorted((below / texts).glob("*.txt")):
                if path.stem not in pictures:
                    raise ValueError(f"{path}: no picture {path.stem} ({', '.join(PICTURES)}) for these questions")
                picture = pictures[path.stem]
                for number, (question, answer) in enumerate(_questions(path)):
                    name = f"{task}/{picture.name}/{number}"
                    self.questions[name] = question
                    self._samples.append((name, picture, question, answer))
        if not self._samples:
            raise ValueError(f"{folder}: no questions of MME; give the folder that holds {', '.join(TASKS[:3])}, ...")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        name, picture, question, answer = self._samples[index]
        prompt = INSTRUCTION_PROMPT.format(instruction=question)
        return Sample(
            id=name,
            image=open_image(picture),
            prompt=prompt,
            answer=continuation(prompt, answer),
            references=[answer],
            kind=name.split("/")[0],
        )


def _pictures(folder: Path) -> dict[str, Path]:
    """By name without suffix."""
    return {path.stem: path for path in folder.glob("*") if path.suffix.lower() in PICTURES}


def _questions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    pairs = [tuple(field.strip() for field in line.split("\t")) for line in lines]
    if len(pairs) != 2 or any(len(pair) != 2 or pair[1] not in ("Yes", "No") for pair in pairs):
        raise ValueError(f"{path}: expected two lines, each a question, a tab, and Yes or No")
    return pairs  # type: ignore[return-value]  # two fields each, checked above
