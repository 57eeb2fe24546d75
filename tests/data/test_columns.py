"""Rows with two texts, of which one would be lost."""

import datasets
import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.data.columns import sample_of

RED = Image.new("RGB", (16, 16), "red")


@pytest.mark.parametrize("text", ["text", "caption", "description"])
@pytest.mark.parametrize("answer", ["answer", "label", "output", "response", "completion"])
def test_a_text_beside_an_answer_is_refused_until_one_is_named(text, answer):
    row = {"image": RED, text: "how many?", answer: "two"}
    with pytest.raises(
        ValueError, match=f'^sample 3: both "{text}" and "{answer}"; give one.*--columns question={text}'
    ):
        sample_of(row, 3)
    asked = sample_of(row, 3, {"question": text})
    assert (asked["prompt"], asked["answer"]) == ("how many?", " two")
    told = sample_of(row, 3, {"text": text})
    assert (told["prompt"], told["answer"]) == ("a picture of", " how many?")


def test_an_answer_that_is_named_is_the_one_to_train():
    row = {"image": RED, "caption": "how many?", "answer": "two", "output": "three"}
    assert sample_of(row, 0, {"answer": "answer"})["answer"] == " two"
    with pytest.raises(ValueError, match='^sample 0: both "caption" and "answer"'):
        sample_of(row, 0, {"answer": "answer", "text": "caption"})


def test_a_text_and_the_number_of_a_class_are_two_texts():
    with pytest.raises(ValueError, match='^sample a: both "text" and "label"; give one'):
        sample_of({"id": "a", "text": "a red square", "label": 3}, 0)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a cat", "answer": " a cat\n"},
        {"text": "a cat", "answer": None, "output": ""},
        {"text": "a cat", "label": float("nan")},  # what pandas has where a cell is empty
        {"captions": ["a cat", "one cat"], "answer": "one cat"},
        {"captions": np.array(["a cat"], dtype=object), "answer": np.array(["a cat"], dtype=object)},
        {"text": "a cat", "answer": {"answer": ["a cat"], "answer_id": [1]}},
        {"text": "a cat", "target": "b", "references": ["a cat"], "kind": "animal"},
        {"text": "a cat", "label": True},
    ],
)
def test_the_same_text_twice_and_empty_ones_are_fine(row):
    assert sample_of({"image": RED, **row}, 0)["answer"] == " a cat"


def test_a_question_a_prompt_or_a_chat_says_itself_what_is_asked():
    for asks in ("question", "prompt", "instruction"):
        assert sample_of({asks: "how many?", "text": "some birds", "answer": "two"}, 0)["answer"] == " two"
    chat = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "two"}]
    assert sample_of({"messages": chat, "text": "how many?", "output": "three"}, 0)["answer"] == "two"


def test_rows_of_the_library_are_refused_too():
    rows = datasets.Dataset.from_list([{"text": "how many?", "answer": "two"}])
    with pytest.raises(ValueError, match='^sample 0: both "text" and "answer"'):
        sample_of(rows[0], 0)
