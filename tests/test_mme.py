"""MME's scores of small result folders, counted by hand."""

from pathlib import Path

import pytest

from adem_vl_hf.evaluation.mme import mme_scores, read_yes_or_no


def write(folder: Path, task: str, *answers: tuple[str, str]) -> None:
    """One image per pair of answers (to the question whose truth is yes, and to the one whose truth is no)."""
    lines = [
        f"{number}.jpg\tIs it {truth}?\t{truth}\t{answer}"
        for number, pair in enumerate(answers)
        for truth, answer in zip(("Yes", "No"), pair, strict=True)
    ]
    (folder / f"{task}.txt").write_text("\n".join(lines) + "\n")


def test_scores_of_a_small_folder(tmp_path: Path):
    write(tmp_path, "existence", ("yes, there is", "no, there is none"), ("Yes", "yes"))  # 3/4 and 1/2
    write(tmp_path, "OCR", ("no", "yes"), ("the image", "No."))  # 1/4 and 0
    write(tmp_path, "code_reasoning", ("yes", "no"))
    scores = mme_scores(tmp_path)
    assert scores["tasks"]["existence"] == {"accuracy": 0.75, "accuracy_plus": 0.5, "score": 125.0, "n": 4}
    assert scores["tasks"]["OCR"] == {"accuracy": 0.25, "accuracy_plus": 0.0, "score": 25.0, "n": 4}
    assert scores["perception"] == 150.0
    assert scores["cognition"] == 200.0
    assert "count" in scores["missing"]
    assert len(scores["missing"]) == 11


def test_a_group_without_files_has_no_score(tmp_path: Path):
    write(tmp_path, "count", ("yes", "no"))
    assert mme_scores(tmp_path)["cognition"] is None


def test_the_two_questions_of_an_image_need_not_follow_each_other(tmp_path: Path):
    lines = ["a\tq\tYes\tyes", "b\tq\tYes\tno", "a\tq\tNo\tno", "b\tq\tNo\tno"]
    (tmp_path / "color.txt").write_text("\n".join(lines))
    assert mme_scores(tmp_path)["tasks"]["color"]["accuracy_plus"] == 0.5


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes, it is", "yes"),
        (" no.", "no"),
        ("not", "no"),
        ("a no", "no"),
        ("the answer is yes", "other"),
        ("", "other"),
    ],
)
def test_the_first_four_characters_decide(answer: str, read: str):
    assert read_yes_or_no(answer) == read


def test_bad_folders(tmp_path: Path):
    with pytest.raises(ValueError, match="not a folder"):
        mme_scores(tmp_path / "none")
    with pytest.raises(ValueError, match="no MME result file"):
        mme_scores(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tq\tYes\tyes\na\tq\tno\n", "line 2: 3 fields"),
        ("a\tq\tmaybe\tyes\n", "line 1: the true answer is 'maybe'"),
        ("a\tq\tYes\tyes\nb\tq\tNo\tno\n", "1 lines for image 'a'"),
        ("\n", "empty"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "scene.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"scene\.txt.*{message}"):
        mme_scores(tmp_path)
