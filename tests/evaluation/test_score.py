"""Scores by task: ScienceQA's table, and the result of every task."""

import json
from pathlib import Path

import pytest

from adem_vl_hf.evaluation.predictions import Prediction, PredictionFile
from adem_vl_hf.evaluation.scienceqa import read_choice, scienceqa_scores
from adem_vl_hf.evaluation.score import TASKS, format_scores, score

OPTIONS = ["a red car", "a dog", "Crete"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("The answer is B.", 1),
        ("The answer is A", 0),
        ("I think so. The answer is (C), not A.", 2),
        ("The answer is a dog.", 1),
        ("The answer is D.", None),
        ("The answer is unknown", None),
        ("B", 1),
        ("(B)", 1),
        ("B. a dog", 1),
        ("A Dog.", 1),
        ("crete", 2),
        ("D", None),
        ("Because of the sea", None),
        ("", None),
    ],
)
def test_read_choice(text: str, index: int | None):
    assert read_choice(text, OPTIONS) == index


def test_a_single_letter_is_a_letter_and_no_option_text():
    assert read_choice("The answer is A.", ["B", "A"]) == 0


def choice(name: str, prediction: str, answer: str = "a dog") -> Prediction:
    return Prediction(id=name, kind="choice", prediction=prediction, references=[answer], choices=OPTIONS)


def problem(answer: int, **more) -> dict:
    fields = {"hint": "", "image": None, "subject": "natural science", "grade": "grade1"}
    return {"choices": OPTIONS, "answer": answer, **fields, **more}


def test_the_table_of_scienceqa(tmp_path: Path):
    problems = {
        "1": problem(1, hint="Read.", image="image.png", grade="grade6"),
        "2": problem(1, subject="social science", grade="grade7"),
        "3": problem(0, image="image.png", grade="grade12"),
        "unasked": problem(0, subject="language science"),
    }
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(problems))
    rows = [choice("1", "The answer is B."), choice("2", "The answer is A."), choice("3", "The answer is A.")]
    scores = score("scienceqa", rows, problems=path)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["columns"] == {
        "NAT": 1.0,
        "SOC": 0.0,
        "LAN": None,
        "TXT": 1.0,
        "IMG": 1.0,
        "NO": 0.0,
        "G1-6": 1.0,
        "G7-12": 0.5,
        "Avg": pytest.approx(2 / 3),
    }


def test_scienceqa_without_the_problems():
    scores = scienceqa_scores([choice("1", "B"), choice("2", "no idea"), choice("3", "a red car")])
    assert scores == {"accuracy": pytest.approx(1 / 3), "chance": pytest.approx(1 / 3), "n": 3, "unreadable": 1}


def test_scienceqa_that_cannot_be_scored(tmp_path: Path):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps({"1": problem(0)}))
    with pytest.raises(ValueError, match=r"prediction '2' is not in problems\.json"):
        scienceqa_scores([choice("2", "A")], path)
    with pytest.raises(ValueError, match="prediction '1': its reference"):
        scienceqa_scores([choice("1", "A", answer="a bird")])
    path.write_text(json.dumps({"1": {"choices": OPTIONS, "answer": 0}}))
    with pytest.raises(ValueError, match="problem 1: no grade, hint, image, subject"):
        scienceqa_scores([choice("1", "A")], path)
    path.write_text(json.dumps({"1": problem(0, grade="college")}))
    with pytest.raises(ValueError, match="problem 1: grade 'college'"):
        scienceqa_scores([choice("1", "A")], path)


def row(name: str, kind: str, prediction: str, *references: str) -> Prediction:
    return Prediction(id=name, kind=kind, prediction=prediction, references=list(references))


MIXED = [
    row("1", "caption", "a red car", "a red car", "red car"),
    row("2", "caption", "a dog", "a cat"),
    row("3", "presence", "yes", "yes"),
    row("4", "presence", "yes", "no"),
]


@pytest.mark.parametrize("task", ["openmoji-names", "openmoji-scenes", "openmoji-videos", "openmoji-pairs"])
def test_captions_and_questions_are_told_apart(task: str, tmp_path: Path):
    with PredictionFile(tmp_path / "p.jsonl") as file:
        for prediction in MIXED:
            file.append(prediction)
    scores = score(task, tmp_path / "p.jsonl")
    assert (scores["task"], scores["n"]) == (task, 4)
    assert scores["caption"]["exact_match"] == 0.5
    assert scores["caption"]["n"] == 2
    assert scores["questions"] == {"presence": {"accuracy": 0.5, "chance": 0.5, "n": 2}}
    assert json.loads(json.dumps(scores)) == scores


def test_one_kind_of_task_alone():
    captions, answers = score("caption", MIXED), score("questions", MIXED)
    assert captions["caption"]["n"] == 4
    assert "questions" not in captions
    assert set(answers["questions"]) == {"caption", "presence"}
    assert "caption" not in answers


def test_mme_by_its_folder(tmp_path: Path):
    (tmp_path / "count.txt").write_text("a\tq\tYes\tyes\na\tq\tNo\tyes\n")
    scores = score("mme", tmp_path)
    assert (scores["task"], scores["n"], scores["perception"]) == ("mme", 2, 50.0)
    with pytest.raises(ValueError, match="is not of MME"):
        score("mme", MIXED)


def test_bad_tasks(tmp_path: Path):
    with pytest.raises(ValueError, match="unknown task 'captions'; choose one of caption, "):
        score("captions", MIXED)
    with pytest.raises(ValueError, match="belongs to the task 'scienceqa'"):
        score("caption", MIXED, problems=tmp_path)
    (tmp_path / "empty.jsonl").touch()
    for task in TASKS[:-1]:
        with pytest.raises(ValueError, match=r"empty\.jsonl: no predictions"):
            score(task, tmp_path / "empty.jsonl")


def test_numbers_for_a_reader(tmp_path: Path):
    text = format_scores(score("openmoji-scenes", MIXED))
    assert text.splitlines()[:2] == ["task openmoji-scenes", "n 4"]
    assert "presence: accuracy 50.00, chance 50.00, n 2" in text
    (tmp_path / "count.txt").write_text("a\tq\tYes\tyes\na\tq\tNo\tyes\n")
    text = format_scores(score("mme", tmp_path))
    assert "perception 50.00" in text
    assert "missing: existence, position" in text
