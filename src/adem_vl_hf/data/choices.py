"""Holds the choices of a question, and finds the one that an answer names."""

import re
from collections.abc import Iterable
from typing import Any

from ..modeling.field_values import shown

MOST_OPTIONS = 26  # those that a letter can name
LETTER = re.compile(r"\(?([A-Za-z])[).]?")
LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])[).:]\s+(.+)", re.DOTALL)
NUMBER = re.compile(r"-?[0-9]{1,9}")


class Options(list[str]):
    """Holds the choices of a question, and finds the one that an answer names.

    Args:
        texts (Iterable[str]): The choices.
        labels (Iterable[Any]): What names each in the data, if they have labels of their own.
        has_numbers (bool): Whether choices are numbers in the data. A number is then one of them, and never its place.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] = (), has_numbers: bool = False) -> None:
        super().__init__(texts)
        self.labels = [str(label).strip().strip("().").casefold() for label in labels]
        self.has_numbers = has_numbers

    def named_by(self, answer: str, is_number: bool = False) -> str:
        """Find the choice that an answer names: by its label, by its text, by its letter or by its number, from 0.

        Capitals do not matter, except between two choices that differ in nothing else.

        Args:
            answer (str): The answer.
            is_number (bool): Whether it is a number in the data, which is no text.

        Returns:
            The choice; the answer itself if it names none, as a sentence does.

        Raises:
            ValueError: The answer is a number or a letter, and there are not so many choices.
        """
        bare = answer.strip()
        letter = LETTER.fullmatch(bare)
        label = (letter[1] if letter else bare).casefold()
        if label in self.labels:
            return self[self.labels.index(label)]
        if self.has_numbers or not is_number:
            if bare in self:
                return bare
            small = [text.casefold() for text in self]
            for spelling in (bare.casefold(), bare.casefold().removesuffix(".")):
                if spelling in small:
                    return self[small.index(spelling)]
            if both := LETTER_AND_TEXT.fullmatch(bare):
                place = ord(both[1].upper()) - ord("A")
                if place < len(self) and both[2].casefold().removesuffix(".") in (small[place], small[place] + "."):
                    return self[place]
        if letter:
            place = ord(letter[1].upper()) - ord("A")
        elif NUMBER.fullmatch(bare) and not self.has_numbers:
            place = int(bare)
        else:
            return answer
        if any(re.fullmatch("[a-z]" if letter else "[0-9]+", one) for one in self.labels):
            known = ", ".join(one.upper() for one in self.labels)
            raise ValueError(f"its answer is {bare}, and its choices are {known}; correct it")
        if not 0 <= place < len(self):
            last = chr(ord("A") + min(len(self), MOST_OPTIONS) - 1)
            raise ValueError(
                f"its answer is {bare}, and its choices are numbered from 0 to {len(self) - 1} (A to {last})"
            )
        return self[place]

    def refusal(self, answer: str) -> str:
        """Say what to do about an answer that names none of the choices.

        Args:
            answer (str): The answer.

        Returns:
            The end of an error message.
        """
        said = f"its answer is {shown(answer)}, which is none of its choices {shown(list(self))}"
        if self.has_numbers and NUMBER.fullmatch(answer.strip()):
            return f"{said}; a number names one of them, and no place; give the right one, or write choices as texts"
        return f"{said}; correct it, or write the choices into the question and remove their columns"


def with_options(prompt: str, options: list[str] | None) -> str:
    """Add the choices to a question, in the words of ADEM-VL's prompt for ScienceQA.

    Args:
        prompt (str): The question.
        options (list[str] | None): Its choices.

    Returns:
        The question with a line of the lettered choices, or the question alone if it has none, or more than there are
        letters.
    """
    if not options or len(options) > MOST_OPTIONS:
        return prompt
    lettered = " ".join(f"({chr(ord('A') + number)}) {text}" for number, text in enumerate(options))
    return f"{prompt.rstrip()}\nOptions: {lettered}\nAnswer:"
