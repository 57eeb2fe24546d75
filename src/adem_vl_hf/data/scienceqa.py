"""ScienceQA (arXiv 2209.09513) in its own folder format: reading it, and writing other choice questions in it.

::

    problems.json     {pid: {"question", "choices", "answer" (an index), "hint", "image" ("image.png" or null),
                             "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution", "split"}}
    pid_splits.json   {"train": [pid, ...], "val": [...], "test": [...], ...}
    images/{split}/{pid}/image.png
    captions.json     {"captions": {pid: text}}, optional

The prompts are those of ADEM-VL (arXiv 2410.17779). Its published training uses CQM-A without captions and its
published evaluation QCM-A with captions; both are here (``prompt_format``, ``use_captions``).
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from ..files import read_text, replacing, write_text
from .images import ImageError, open_image, resolve_image
from .sample import Sample, continuation
from .scienceqa_prompts import check_prompt_format, scienceqa_answer, scienceqa_prompt

# Fields of the format that a choice sample says nothing about; the score tables group by subject and grade.
UNSTATED_FIELDS = {
    "hint": "",
    "task": "closed choice",
    "grade": "grade1",
    "subject": "natural science",
    "topic": "",
    "category": "",
    "skill": "",
    "lecture": "",
    "solution": "",
}


class ScienceQA(Dataset[Sample]):
    """One split as samples of kind "choice": the id is the pid, the answer " The answer is {letter}." (and reasons).

    ``references`` holds the text of the right choice. ``problems`` has the whole entry of each pid of the split, for
    scores by subject, grade and so on.

    Args:
        folder: The folder of problems.json.
        split: A key of pid_splits.json.
        prompt_format: One of ``scienceqa_prompts.PROMPT_FORMATS``.
        use_captions: Adds the picture's caption of captions.json to the context.

    Raises:
        FileNotFoundError: A file of the format is missing.
        ValueError: An unknown split or a problem that cannot be used; the message names the file and the pid.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        prompt_format: str = "CQM-A",
        use_captions: bool = False,
    ) -> None:
        check_prompt_format(prompt_format)
        self.folder = Path(folder)
        self.prompt_format = prompt_format
        splits = _read_json(self.folder / "pid_splits.json")
        if split not in splits:
            raise ValueError(
                f"{self.folder / 'pid_splits.json'}: no split {split!r}; choose one of {', '.join(splits)}"
            )
        path = self.folder / "problems.json"
        problems = _read_json(path)
        self.pids: list[str] = splits[split]
        for pid in self.pids:
            if pid not in problems:
                raise ValueError(f"{path}: no problem {pid!r}, which split {split!r} names; fetch both files together")
            check_problem(problems[pid], f"{path}, problem {pid}")
        self.problems: dict[str, dict[str, Any]] = {pid: problems[pid] for pid in self.pids}
        self._captions: dict[str, str] = {}
        if use_captions:
            self._captions = _read_json(self.folder / "captions.json").get("captions", {})
        for pid in self.pids:
            try:
                self._image_path(pid)
            except ImageError as error:
                raise ValueError(f"{path}, problem {pid}: {error}") from error

    def __len__(self) -> int:
        return len(self.pids)

    def __getitem__(self, index: int) -> Sample:
        pid = self.pids[index]
        path = self._image_path(pid)
        image = None if path is None else open_image(path)
        return scienceqa_sample(pid, self.problems[pid], image, self.prompt_format, self._captions.get(pid, ""))

    def _image_path(self, pid: str) -> Path | None:
        problem = self.problems[pid]
        if not problem.get("image"):
            return None
        # the problem's own split: "minitrain" and "trainval" have no image folders
        return resolve_image(self.folder / "images", f"{problem['split']}/{pid}/{problem['image']}")


def scienceqa_sample(
    name: str, problem: dict[str, Any], image: Image.Image | None, prompt_format: str, caption: str = ""
) -> Sample:
    """One problem as a sample."""
    prompt = scienceqa_prompt(problem, prompt_format, caption)
    choices = [choice.strip() for choice in problem["choices"]]
    return Sample(
        id=name,
        image=image,
        prompt=prompt,
        answer=continuation(prompt, scienceqa_answer(problem, prompt_format)),
        references=[choices[problem["answer"]]],
        kind="choice",
        choices=choices,
    )


def write_scienceqa(
    samples: Iterable[Sample], folder: str | os.PathLike[str], split: str, question: str | None = None
) -> None:
    """Writes choice samples as ScienceQA problems; a folder that already holds some is extended.

    The pid is the sample's id, the right choice its first reference; the other fields are ``UNSTATED_FIELDS``.
    Each file is replaced in one step and pid_splits.json last, so an interrupted call can simply be repeated.

    Args:
        samples: Samples of kind "choice" with ``choices``; read once, one picture in memory at a time.
        folder: Made if it is not there.
        split: The split they belong to.
        question: The ``question`` field of all of them; by default each sample's prompt, stripped.

    Raises:
        ValueError: A sample that is no choice question, or an id that cannot name a folder or is taken.
    """
    folder = Path(folder)
    _check_name(split, "split")
    paths = folder / "problems.json", folder / "pid_splits.json"
    problems, splits = (_read_json(path) if path.exists() else {} for path in paths)
    taken = {pid for pids in splits.values() for pid in pids}
    written = []
    for sample in samples:
        pid = sample["id"]
        _check_name(pid, "sample id")
        if pid in taken:
            raise ValueError(f"sample {pid!r}: {folder} has a problem of that id; use another folder or another id")
        problems[pid] = _problem(sample, split, question)
        if sample["image"] is not None:
            path = folder / "images" / split / pid / "image.png"
            with replacing(path) as beside:
                sample["image"].save(beside, "PNG")
        taken.add(pid)
        written.append(pid)
    if not written:
        raise ValueError(f"no samples for split {split!r} of {folder}; give at least one")
    splits[split] = splits.get(split, []) + written
    for path, content in zip(paths, (problems, splits), strict=True):
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1))


def _problem(sample: Sample, split: str, question: str | None) -> dict[str, Any]:
    where = f"sample {sample['id']!r}"
    choices = sample.get("choices", [])
    if sample["kind"] != "choice" or not 2 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(
            f'{where}: kind {sample["kind"]!r} with {len(choices)} choices; give kind "choice" with 2 ... 26'
        )
    if not sample["references"] or sample["references"][0] not in choices:
        raise ValueError(f"{where}: its first reference {sample['references'][:1]} is not among its choices {choices}")
    return {
        "question": sample["prompt"].strip() if question is None else question,
        "choices": choices,
        "answer": choices.index(sample["references"][0]),
        "image": None if sample["image"] is None else "image.png",
        **UNSTATED_FIELDS,
        "split": split,
    }


def check_problem(problem: Any, where: str) -> None:
    """Raises ValueError for a problem without what a sample needs; ``where`` begins the message."""
    if not isinstance(problem, dict):
        raise ValueError(f"{where}: {type(problem).__name__} instead of an object in curly brackets")
    missing = [key for key in ("question", "choices", "answer", "split") if key not in problem]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)}; every problem needs them")
    choices, answer = problem["choices"], problem["answer"]
    texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not texts or not 1 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f'{where}: "choices" is {json.dumps(choices)[:100]}; give a list of 1 ... 26 texts')
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f'{where}: "answer" is {answer!r}; give the index of the right one of {len(choices)} choices')


def _check_name(name: str, what: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise ValueError(
            f"{what} {name!r}: names a folder of the format, so use letters, digits, '.', '_' and '-' only"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {type(content).__name__} instead of an object in curly brackets; fetch it again")
    return content
