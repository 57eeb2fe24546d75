"""Rows with two texts, with empty questions or answers, and with lists that are written into a cell."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.data.by_name import open_dataset
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


@pytest.mark.parametrize("empty", [None, "", " "])
def test_the_answer_to_an_empty_question_is_no_caption(empty):
    row = {"image": RED, "question": empty, "answer": "x"}
    with pytest.raises(ValueError, match='^sample 3: its "question" is empty.*write the question or remove .*text=an'):
        sample_of(row, 3)
    assert sample_of(row, 3, {"text": "answer"})["prompt"] == "a picture of"
    assert sample_of(row | {"question": "what?"}, 3, {"text": "answer"})["prompt"] == "what?"
    with pytest.raises(ValueError, match='^sample 3: its "Query" is empty'):
        sample_of({"image": RED, "Query": empty, "label": "x"}, 3)
    with pytest.raises(ValueError, match='^sample 3: its "asked" is empty'):
        sample_of({"image": RED, "asked": empty, "answer": "x"}, 3, {"question": "asked"})
    with pytest.raises(ValueError, match="^sample 3: one of its questions is empty"):
        sample_of(row | {"question": ["what?", empty], "answer": ["x", "y"]}, 3)


@pytest.mark.parametrize("empty", [None, ""])
def test_a_row_with_a_caption_may_lack_a_question(empty):
    """A JSON file of captions and questions has all columns in each row."""
    sample = sample_of({"image": RED, "question": empty, "answer": None, "caption": "a red square"}, 0)
    assert (sample["prompt"], sample["answer"]) == ("a picture of", " a red square")
    assert sample_of({"question": empty, "prompt": "Say:", "answer": "x"}, 0)["prompt"] == "Say:"


@pytest.mark.parametrize(
    ("column", "cell", "references"),
    [
        ("answers", "['net', 'net', 'racket']", ["net", "racket"]),
        ("answers", '["net", "net", null]', ["net"]),
        ("answers", "['net' 'net'\n 'racket']", ["net", "racket"]),  # as NumPy writes them
        ("answers", "[{'answer': 'net', 'answer_id': 1}, {'answer': 'racket'}]", ["net", "racket"]),
        ("answers", "[{'answer': 'net'}\n {'answer': 'racket'}]", ["net", "racket"]),
        ("captions", "['a net', 'one net']", ["a net", "one net"]),
        ("sentences", "[{'raw': 'a net'}]", ["a net"]),
        ("answers", "[unclear]", ["[unclear]"]),
        ("answer", '["cat", "dog"]', ['["cat", "dog"]']),  # one answer that is written as JSON
        ("caption", "[a cat]", ["[a cat]"]),
    ],
)
def test_a_list_in_a_cell_is_several_texts(column, cell, references):
    row = {"image": RED, column: cell} | ({"question": "what?"} if "answer" in column else {})
    sample = sample_of(row, 0)
    assert (sample["answer"], sample["references"]) == (f" {references[0]}", references)


def test_lists_of_questions_and_references_in_cells():
    row = {"questions": "['what?', 'how many?']", "answers": "['a cat', 'two']"}
    assert [turn["answer"] for turn in sample_of(row, 0)["turns"]] == [" a cat", " two"]
    row = {"question": "what?", "answer": "cat", "references": "['kitten']"}
    assert sample_of(row, 0)["references"] == ["cat", "kitten"]
    assert (
        sample_of({"question": "?", "all_answers": "['a', 'b', 'b']"}, 0, {"answer": "all_answers"})["answer"] == " b"
    )


@pytest.mark.parametrize("answer", ["", " ", ["", None]])
def test_an_empty_answer_is_an_error_when_it_is_read(answer):
    for row in ({"question": "what?", "answer": answer}, {"caption": answer}, {"prompt": "Say:", "completion": answer}):
        with pytest.raises(ValueError, match="^sample 0: its answer is empty, so it would train nothing; write it"):
            sample_of(row, 0)


def test_dates_say_where_they_come_from(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"caption": "2024-01-01"}\n{"caption": "2024-01-02"}\n')
    with pytest.raises(ValueError, match="its answer is the date or time 2024-01-01 .*; save the table as CSV"):
        open_dataset(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.csv").write_text("caption\n2024-01-01\n")
    assert open_dataset(str(tmp_path / "rows.csv"))[0]["answer"] == " 2024-01-01"


@pytest.mark.parametrize("write", [json.dumps, str])
def test_lists_that_are_written_into_a_cell_are_read(write):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    row = {"instruction": "And a cat?", "output": "meow", "history": write([["Hi", "Ho"]])}
    assert sample_of(row, 0)["messages"][:2] == turns
    assert sample_of({"messages": write(turns)}, 0)["messages"] == turns
    assert sample_of({"images": write(["a.png", "b.png"]), "text": "two"}, 0)["images"] == ["a.png", "b.png"]


def test_a_history_of_something_else_is_a_column_like_any_other():
    row = {"question": "Is it broken?", "answer": "yes", "history": "A fall from a horse."}
    assert "messages" not in sample_of(row, 0)
