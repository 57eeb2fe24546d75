"""Reads ScienceQA (arXiv 2209.09513), and writes other choice questions in its format.

The benchmark's own folder format, read by ``ScienceQA`` and written by ``write_scienceqa``::

    problems.json     {pid: {"question", "choices", "answer" (an index), "hint", "image" ("image.png" or null),
                             "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution", "split"}}
    pid_splits.json   {"train": [pid, ...], "val": [...], "test": [...], ...}
    images/{split}/{pid}/image.png
    captions.json     {"captions": {pid: text}}, optional

The Hub has the same problems as parquet files, which ``HubScienceQA`` reads.

The prompts are those of ADEM-VL (arXiv 2410.17779), named by their parts as in the benchmark: CQM-A asks with context,
question and multiple choices, and answers with the answer alone. ADEM-VL's published training uses CQM-A without
captions, and its published evaluation uses QCM-A with captions.
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

from ..files import replacing, write_text
from ..json_files import read_object
from ..modeling.field_values import fits, shown
from ..modeling.reading import errors_naming
from .dataset_names import NoSuchSplit
from .indexing import from_start
from .library_rows import with_files
from .media import ImageError, open_image, resolve_image
from .sample import Sample, continuation

INPUTS = ("CQM", "QCM")  # context, question and multiple choices, in one of two orders
ANSWERS = ("A", "AL", "AE", "ALE", "AEL", "LA", "EA", "LEA", "ELA")  # answer, lecture and explanation
PROMPT_FORMATS = tuple(f"{asked}-{told}" for asked in INPUTS for told in ANSWERS)
REASONS = {"L": "lecture", "E": "solution"}  # the letters of a format and the fields of a problem

HUB_SPLITS = {"val": "validation"}  # the benchmark's name of a split and the Hub's, where they differ

# The fields of the format that a choice sample says nothing about. Score tables group by subject and grade.
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


def scienceqa_prompt(problem: dict[str, Any], prompt_format: str = "CQM-A", caption: str = "") -> str:
    """Build the prompt of a problem, up to and including "Response:".

    Args:
        problem (dict[str, Any]): The problem, an entry of ``problems.json``.
        prompt_format (str): One of ``PROMPT_FORMATS``. Only the part before the hyphen matters here.
        caption (str): The caption of the image, which is appended to the context.

    Returns:
        The prompt.
    """
    hint = f"{problem.get('hint') or ''} {caption}".strip()
    context = f"Context: {hint or 'N/A'}"
    question = f"Question: {problem['question']}"
    lettered = zip(ascii_uppercase, problem["choices"], strict=False)
    options = " ".join(f"({letter}) {choice.strip()}" for letter, choice in lettered)
    first, second = (context, question) if prompt_format.startswith("CQM") else (question, context)
    return re.sub(" +", " ", f"{first}\n{second}\nOptions: {options}\nResponse:").strip()


def scienceqa_answer(problem: dict[str, Any], prompt_format: str = "CQM-A") -> str:
    """Build the answer to a problem: "The answer is B.", with or without reasons.

    The reasons are the lecture and the solution of the problem, in the order of the format. They stand before the
    answer, or after it behind "BECAUSE:". Line breaks inside them become spaces.

    Args:
        problem (dict[str, Any]): The problem, an entry of ``problems.json``. It may lack the lecture or the solution.
        prompt_format (str): One of ``PROMPT_FORMATS``. Only the part after the hyphen matters here.

    Returns:
        The answer, without a space before it.
    """
    told = prompt_format.split("-")[1]
    answer = f"The answer is {ascii_uppercase[problem['answer']]}."
    reasons = " ".join(str(problem.get(REASONS[letter]) or "") for letter in told if letter in REASONS).split()
    if not reasons:
        return answer
    return f"{answer} BECAUSE: {' '.join(reasons)}" if told[0] == "A" else f"{' '.join(reasons)} {answer}"


def scienceqa_sample(
    name: str, problem: dict[str, Any], image: Image.Image | None, prompt_format: str, caption: str = ""
) -> Sample:
    """Make a sample of one problem.

    Args:
        name (str): The id of the sample.
        problem (dict[str, Any]): The problem, an entry of ``problems.json``.
        image (Image.Image | None): The image of the problem in mode RGB, if it has one.
        prompt_format (str): One of ``PROMPT_FORMATS``.
        caption (str): The caption of the image, which is appended to the context.

    Returns:
        A sample of kind "choice", whose only reference is the text of the right choice.
    """
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


class ScienceQA(Dataset[Sample]):
    """Reads one split of the benchmark's folder as samples of kind "choice".

    The id of a sample is its pid, its answer is " The answer is {letter}." with reasons if the format asks for them,
    and its reference is the text of the right choice. The attribute ``problems`` has the whole entry of each pid of the
    split, for scores by subject, grade and so on.

    Args:
        folder (str | os.PathLike[str]): The folder of ``problems.json``.
        split (str): A key of ``pid_splits.json``.
        prompt_format (str): One of ``PROMPT_FORMATS``.
        use_captions (bool): Whether the context has the caption of the image, from ``captions.json``.

    Raises:
        FileNotFoundError: A file of the format is missing.
        ValueError: The split or the format is unknown, or a problem cannot be used. The message names the file and the
            pid.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        prompt_format: str = "CQM-A",
        use_captions: bool = False,
    ) -> None:
        _check_prompt_format(prompt_format)
        self.folder = Path(folder)
        self.prompt_format = prompt_format
        splits = read_object(self.folder / "pid_splits.json")
        if split not in splits:
            raise NoSuchSplit(
                f"{self.folder / 'pid_splits.json'}: no split {split!r}; choose one of {', '.join(splits)}", splits
            )
        path = self.folder / "problems.json"
        problems = read_object(path)
        self.pids: list[str] = splits[split]
        if not fits(self.pids, list[str]):
            raise ValueError(
                f"{self.folder / 'pid_splits.json'}: split {split!r} is {shown(self.pids)}; it must be a list of pids"
            )
        for pid in self.pids:
            if pid not in problems:
                raise ValueError(f"{path}: no problem {pid!r}, which split {split!r} names; fetch both files together")
            _check_problem(problems[pid], f"{path}, problem {pid}")
        self.problems: dict[str, dict[str, Any]] = {pid: problems[pid] for pid in self.pids}
        self._captions: dict[str, str] = {}
        if use_captions:
            captions = self.folder / "captions.json"
            self._captions = read_object(captions).get("captions", {})
            if not fits(self._captions, dict[str, str]):
                raise ValueError(f'{captions}: "captions" is {shown(self._captions)}; it must have a text for each pid')
        for pid in self.pids:
            with errors_naming(f"{path}, problem {pid}"):
                self._image_path(pid)

    def __len__(self) -> int:
        return len(self.pids)

    def __getitem__(self, index: int) -> Sample:
        pid = self.pids[index]
        path = self._image_path(pid)
        image = None if path is None else open_image(path)
        return scienceqa_sample(pid, self.problems[pid], image, self.prompt_format, self._captions.get(pid, ""))

    def _image_path(self, pid: str) -> Path | None:
        """Return the path of the image of a problem, or None if it has no image."""
        problem = self.problems[pid]
        if not problem.get("image"):
            return None
        # The folder is that of the problem's own split: "minitrain" and "trainval" have no image folders.
        return resolve_image(self.folder / "images", f"{problem['split']}/{pid}/{problem['image']}")


class HubScienceQA(Dataset[Sample]):
    """Reads one split of ScienceQA as the Hub has it, in parquet files.

    The samples are those of ``ScienceQA`` without captions, but the files have no pids: the id of a sample is
    ``split-row``, with rows counted from 0.

    Args:
        name (str | os.PathLike[str]): A Hub id, or a folder.
        split (str): "train", "val" (or "validation") or "test".
        prompt_format (str): One of ``PROMPT_FORMATS``.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: The split or the format is unknown, or a row cannot be used. The message names it.
    """

    def __init__(self, name: str | os.PathLike[str], split: str = "train", prompt_format: str = "CQM-A") -> None:
        _check_prompt_format(prompt_format)
        try:
            from datasets import Image, load_dataset
        except ImportError as error:
            raise ImportError("parquet files need 'datasets': pip install 'adem-vl-hf[evaluation]'") from error
        self.prompt_format, self.split = prompt_format, split
        self.name = str(name)
        with errors_naming(self.name, "give ScienceQA's parquet files, and fetch a damaged one again"):
            rows = load_dataset(str(name), split=HUB_SPLITS.get(split, split))
            self._rows = with_files(rows.cast_column("image", Image(decode=False)))
            texts = self._rows.remove_columns("image")
        without_image = self._rows.data.column("image").is_null().to_pylist()  # does not read the images
        self.problems: dict[str, dict[str, Any]] = {}
        for number, (problem, no_image) in enumerate(zip(texts, without_image, strict=True)):
            where = f"{name}, row {number} of split {split!r}"
            with errors_naming(where):
                problem = {**problem, "answer": int(problem["answer"]), "image": None if no_image else "image.png"}
            problem.setdefault("split", split)
            _check_problem(problem, where)
            self.problems[f"{split}-{number}"] = problem

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, len(self))
        name = f"{self.split}-{index}"
        stored = self._rows[index]["image"]
        image = None
        if stored is not None:
            where = f"{self.name}, row {index} of split {self.split!r}"
            if not stored["bytes"]:  # a path in it may be that of any file of this machine
                raise ImageError(f"{where}: the row does not hold its image; fetch the files again")
            with errors_naming(where):
                image = open_image(stored["bytes"])
        return scienceqa_sample(name, self.problems[name], image, self.prompt_format)


def has_hub_layout(folder: Path) -> bool:
    """Tell whether a folder has ScienceQA's parquet files where a data set on the Hub has them.

    Args:
        folder (Path): The folder, which need not exist.

    Returns:
        Whether there are parquet files with the columns of its problems in the folder or in ``data`` below it.
    """
    first = next(iter(sorted((*folder.glob("data/*.parquet"), *folder.glob("*.parquet")))), None)
    if first is None:
        return False
    import pyarrow.parquet

    with errors_naming(first):
        return {"choices", "answer", "question"} <= set(pyarrow.parquet.read_schema(first).names)


def write_scienceqa(
    samples: Iterable[Sample], folder: str | os.PathLike[str], split: str, question: str | None = None
) -> None:
    """Write choice samples as ScienceQA problems, or add them to a folder that has some.

    The pid is the id of the sample, and the right choice is its first reference. The other fields are
    ``UNSTATED_FIELDS``. Each file is replaced in one step, and ``pid_splits.json`` last, so that an interrupted call
    can be repeated.

    Args:
        samples (Iterable[Sample]): Samples of kind "choice" with ``choices``. They are read once, one at a time.
        folder (str | os.PathLike[str]): The folder to write. It is made if it is not there.
        split (str): The split that the samples belong to.
        question (str | None): The ``question`` of all of them. None means the prompt of each sample.

    Raises:
        ValueError: A sample is not a choice question, or its id is taken or cannot be the name of a folder.
    """
    folder = Path(folder)
    _check_name(split, "split")
    paths = folder / "problems.json", folder / "pid_splits.json"
    problems, splits = (read_object(path) if path.exists() else {} for path in paths)
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
            with replacing(path) as temporary:
                sample["image"].save(temporary, "PNG")
        taken.add(pid)
        written.append(pid)
    if not written:
        raise ValueError(f"no samples for split {split!r} of {folder}; give at least one")
    splits[split] = splits.get(split, []) + written
    for path, content in zip(paths, (problems, splits), strict=True):
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1))


def _problem(sample: Sample, split: str, question: str | None) -> dict[str, Any]:
    """Make the entry of ``problems.json`` for a choice sample."""
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


def _check_prompt_format(prompt_format: str) -> None:
    """Raise ValueError for a format that is not among ``PROMPT_FORMATS``."""
    if prompt_format not in PROMPT_FORMATS:
        raise ValueError(f"prompt_format {prompt_format!r}: choose one of {', '.join(PROMPT_FORMATS)}")


def _check_problem(problem: Any, where: str) -> None:
    """Raise ValueError for a problem without the fields that a sample needs; ``where`` begins the message."""
    if not isinstance(problem, dict):
        raise ValueError(f"{where}: {type(problem).__name__} instead of an object in curly brackets")
    missing = [key for key in ("question", "choices", "answer", "split") if key not in problem]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)}; every problem needs them")
    choices, answer = problem["choices"], problem["answer"]
    for key in ("question", "split", "hint", "lecture", "solution", "image"):
        if not fits(problem.get(key), str | None) or (key in ("question", "split") and problem[key] is None):
            raise ValueError(f'{where}: "{key}" is {shown(problem.get(key))}; it must be a text')
    texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not texts or not 1 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f'{where}: "choices" is {shown(choices)}; give a list of 1 ... 26 texts')
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(
            f'{where}: "answer" is {shown(answer)}; give the index of the right one of {len(choices)} choices'
        )


def _check_name(name: str, what: str) -> None:
    """Raise ValueError for a name that cannot be the name of a folder on every system."""
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise ValueError(
            f"{what} {name!r}: names a folder of the format, so use letters, digits, '.', '_' and '-' only"
        )
