"""The choices of a question: which one an answer names, and where a row has them."""

import json

import pandas as pd
import pytest

from adem_vl_hf.data.by_name import open_dataset
from adem_vl_hf.data.columns import sample_of

QUESTION = {"question": "which?"}
SHOWN = "which?\nOptions: (A) cat (B) dog (C) cow\nAnswer:"
ANIMALS = ["cat", "dog", "cow"]


@pytest.mark.parametrize(
    ("choices", "answer", "named"),
    [
        ([2, 4, 8], 2, "2"),  # not the third one
        ([2, 4, 8], "2", "2"),
        ([2, 4, 8], "C", "8"),
        ([2.5, 4], 2.5, "2.5"),
        ([2.5, 4], 4.0, "4"),
        ("[2, 4, 8]", "4", "4"),
        (["none", 1, 2], 1, "1"),
        (["2", "4", "8"], 2, "8"),  # texts: a number is a place, as in ScienceQA
        (["2", "4", "8"], 2.0, "8"),  # as pandas has it beside an empty cell
        (["2", "4", "8"], "2", "2"),
        (ANIMALS, "2", "cow"),
        (ANIMALS, "DOG ", "dog"),
        (ANIMALS, "dog.", "dog"),
        (ANIMALS, "(B) dog", "dog"),
        (ANIMALS, "b. Dog.", "dog"),
        (["Dog", "dog"], "dog", "dog"),
        (["b", "a"], "B", "b"),  # one of them, and not the second
        ([" cat ", "dog"], "cat", "cat"),
        ({"text": ["4", "1"], "label": ["1", "2"]}, "1", "4"),  # as in ARC
        ({"text": ["4", "1"], "label": ["1", "2"]}, 1, "4"),
        ({"A": "B", "B": "A"}, "A", "B"),
        ({"text": ANIMALS, "label": ["(A)", "(B)", "(C)"]}, "c", "cow"),
        ("['cat' 'dog'\n 'cow']", "dog", "dog"),  # as NumPy writes a list
        ('["cat", "dog", null]', "dog", None),
        ('["cat", "dog"]', 1, "dog"),
    ],
)
def test_an_answer_names_a_choice(choices, answer, named):
    row = {**QUESTION, "choices": choices, "answer": answer}
    if named is None:
        with pytest.raises(ValueError, match="^sample 0: its choices are"):
            sample_of(row, 0)
        return
    sample = sample_of(row, 0)
    assert (sample["answer"], sample["references"]) == (f" {named}", [named])
    assert named in sample["choices"]


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [
        (
            [2, 4, 8],
            0,
            r"its answer is '0', which is none of its choices \['2', '4', '8'\]; a number names one of them",
        ),
        ([2, 4, 8], 1, "none of its choices"),
        (["cat", "dog"], "horse", "'horse', which is none of its choices .*; correct it, or write the choices into"),
        (["cat", "dog"], "The answer is dog.", "none of its choices"),
        (["cat", "dog"], 2.5, "none of its choices"),
        ({"text": ["a cat", "a dog"], "label": ["1", "2"]}, 0, "its answer is 0, and its choices are 1, 2; correct it"),
        ({"A": "a cat", "C": "a dog"}, "B", "its answer is B, and its choices are A, C; correct it"),
    ],
)
def test_an_answer_that_is_no_choice_is_refused(choices, answer, words):
    with pytest.raises(ValueError, match=f"^sample 0: .*{words}"):
        sample_of({**QUESTION, "choices": choices, "answer": answer}, 0)


def test_of_several_answers_the_commonest_has_to_be_a_choice():
    row = {**QUESTION, "choices": ANIMALS, "answers": ["Dog", "b", "hound"]}
    sample = sample_of(row, 0)
    assert (sample["answer"], sample["references"]) == (" dog", ["dog", "hound"])


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"A": "cat", "B": "dog", "C": "cow"}, "C"),  # MMBench
        ({"C": "cow", "B": "dog", "A": "cat", "Q": "no", "x": 3}, "(C)"),
        ({"choice_a": "cat", "choice_b": "dog", "choice_c": "cow", "choice_d": None}, "C"),  # SEED-Bench
        ({"option_a": "cat", "option_b": "dog", "option_c": "cow", "option_d": " "}, "cow"),
        ({"A": "cat", "B": "dog", "C": float("nan"), "D": "cow"}, "D"),
        ({"option1": "cat", "option2": "dog", "option3": "cow"}, 3),  # they count from 1, and so does the answer
        ({"Option 0": "cat", "Option 1": "dog", "Option 2": "cow"}, "2"),
        ({"choices": None, "A": "cat", "B": "dog", "C": "cow"}, "COW"),
        ({"A": "cat", "B": "dog", "C": "cow"}, 2),
    ],
)
def test_choices_may_have_columns_of_their_own(columns, answer):
    sample = sample_of({**QUESTION, "answer": answer, **columns}, 0)
    assert (sample["prompt"], sample["answer"], sample["choices"]) == (SHOWN, " cow", ANIMALS)


def test_other_columns_are_no_choices():
    for columns in ({"A": None, "B": ""}, {"A": "cat"}, {"0": "cat", "1": "dog"}, {"x": 1, "y": 2}):
        sample = sample_of({**QUESTION, "answer": "C", **columns}, 0)
        assert (sample["prompt"], sample["answer"]) == ("which?", " C")
    measured = sample_of({**QUESTION, "answer": "dog", "a": 0.5, "b": 0.7}, 0)
    assert (measured["prompt"], measured["answer"]) == ("which?", " dog")
    assert sample_of({"text": "a cat", "A": "cat", "B": "dog"}, 0)["prompt"] == "a picture of"
    named = sample_of({"a": "which?", "b": "dog"}, 0, {"question": "a", "answer": "b"})
    assert (named["prompt"], named["answer"]) == ("which?", " dog")
    for answer, words in (("C", "its answer is C, and its choices are A, B"), ("horse", "none of its choices")):
        with pytest.raises(ValueError, match=words):
            sample_of({**QUESTION, "answer": answer, "A": "cat", "B": "dog", "C": None}, 0)


def test_choices_of_files(tmp_path):
    table = pd.DataFrame({"question": ["which?"] * 2, "A": ["cat", "yes"], "B": ["dog", "no"], "C": ["cow", None]})
    table["answer"] = ["C", "B"]
    table.to_csv(tmp_path / "bench.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "bench.parquet")
    for name in ("bench.tsv", "bench.parquet"):
        rows = open_dataset(str(tmp_path / name))
        assert [rows[index]["answer"] for index in range(2)] == [" cow", " no"]
        assert rows[1]["prompt"] == "which?\nOptions: (A) yes (B) no\nAnswer:"
    (tmp_path / "sums.json").write_text(json.dumps([{"question": "3+1?", "choices": [2, 4, 8], "answer": 2}] * 2))
    assert open_dataset(str(tmp_path / "sums.json"))[0]["answer"] == " 2"
