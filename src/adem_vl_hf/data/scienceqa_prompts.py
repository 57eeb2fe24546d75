"""The texts of ScienceQA's prompt formats (arXiv 2209.09513, section 4), in the words of ADEM-VL's code.

A format is named "QCM-ALE" and the like. Before the dash, the order in which the prompt gives question (Q), context (C)
and multiple options (M); behind it, what the answer gives in which order: the answer (A), the lecture (L), the
explanation, the field "solution" (E). In the benchmark's own code AL and AE alone have lecture and solution swapped;
here the letters always mean the same.
"""

import re
from string import ascii_uppercase
from typing import Any

INPUTS = ("CQM", "QCM")
ANSWERS = ("A", "AL", "AE", "ALE", "AEL", "LA", "EA", "LEA", "ELA")
PROMPT_FORMATS = tuple(f"{asked}-{told}" for asked in INPUTS for told in ANSWERS)
TEXTS = {"L": "lecture", "E": "solution"}


def check_prompt_format(prompt_format: str) -> None:
    """Raises ValueError for a format that is not among ``PROMPT_FORMATS``."""
    if prompt_format not in PROMPT_FORMATS:
        raise ValueError(f"prompt_format {prompt_format!r}: choose one of {', '.join(PROMPT_FORMATS)}")


def scienceqa_prompt(problem: dict[str, Any], prompt_format: str = "CQM-A", caption: str = "") -> str:
    """The text up to and including "Response:"."""
    hint = f"{problem.get('hint') or ''} {caption}".strip()
    context = f"Context: {hint or 'N/A'}"
    question = f"Question: {problem['question']}"
    lettered = zip(ascii_uppercase, problem["choices"], strict=False)
    options = " ".join(f"({letter}) {choice.strip()}" for letter, choice in lettered)
    first, second = (context, question) if prompt_format.startswith("CQM") else (question, context)
    return re.sub(" +", " ", f"{first}\n{second}\nOptions: {options}\nResponse:").strip()


def scienceqa_answer(problem: dict[str, Any], prompt_format: str = "CQM-A") -> str:
    """ "The answer is B.", with the lecture and the solution before it, or after it behind "BECAUSE:".

    A problem may lack either; line ends inside them become spaces.
    """
    told = prompt_format.split("-")[1]
    answer = f"The answer is {ascii_uppercase[problem['answer']]}."
    reasons = " ".join(str(problem.get(TEXTS[letter]) or "") for letter in told if letter in TEXTS).split()
    if not reasons:
        return answer
    return f"{answer} BECAUSE: {' '.join(reasons)}" if told[0] == "A" else f"{' '.join(reasons)} {answer}"
