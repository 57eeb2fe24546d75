"""MME's scores of small result folders, counted by hand."""

from pathlib import Path

import mme_folder
import pytest

from adem_vl_hf.data import MME, open_dataset
from adem_vl_hf.evaluation.mme import mme_prediction_scores, mme_scores, read_yes_or_no, write_mme_results
from adem_vl_hf.evaluation.score import score


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


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return mme_folder.write(tmp_path)


def test_the_official_folders_become_questions(benchmark: Path):
    dataset = open_dataset(str(benchmark), "test")
    assert isinstance(dataset, MME)
    samples = list(dataset)
    assert [sample["id"] for sample in samples] == [
        f"{task}/{picture}/{n}"
        for task, suffix in (("existence", "jpg"), ("landmark", "png"))
        for picture in (f"a.{suffix}", f"b.{suffix}")
        for n in range(2)
    ]
    first = samples[0]
    assert first["prompt"] + first["answer"] == "Instruction: Is it a? Please answer yes or no.\nResponse: Yes"
    assert (first["kind"], first["references"], first["image"].size) == ("existence", ["Yes"], (4, 4))


def test_predictions_are_scored_as_the_result_files_written_from_them(benchmark: Path, tmp_path: Path):
    dataset = MME(benchmark)
    said = ["Yes.", "no\tor so\n", "yes", "yes", "no", "no", "", "maybe"]
    rows = [
        {"id": sample["id"], "kind": sample["kind"], "prediction": text, "references": sample["references"]}
        for sample, text in zip(dataset, said, strict=True)
    ]
    write_mme_results(rows, dataset.questions, tmp_path / "results")
    lines = (tmp_path / "results" / "existence.txt").read_text().splitlines()
    assert lines[1] == "a.jpg\tIs it c? Please answer yes or no.\tNo\tno or so"
    scores = mme_scores(tmp_path / "results")
    assert scores == mme_prediction_scores(rows)
    assert (scores["tasks"]["existence"]["score"], scores["tasks"]["landmark"]["score"]) == (125.0, 25.0)
    assert score("mme", rows) == score("mme", tmp_path / "results")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Is it?\tYes\n", "expected two lines"),
        ("Is it?\tYes\nIs it?\tmaybe\n", "expected two lines"),
        ("Is it?\nIs it not?\n", "expected two lines"),
    ],
)
def test_bad_questions_are_named(benchmark: Path, text: str, message: str):
    (benchmark / "existence" / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.txt: {message}"):
        MME(benchmark)


def test_questions_without_a_picture_and_folders_without_questions(benchmark: Path, tmp_path: Path):
    (benchmark / "landmark" / "images" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.txt: no image b "):
        MME(benchmark)
    with pytest.raises(ValueError, match="no questions of MME"):
        MME(tmp_path)
    with pytest.raises(ValueError, match="'s0' is not of MME"):
        mme_prediction_scores([{"id": "s0", "kind": "x", "prediction": "yes", "references": ["Yes"]}])
    with pytest.raises(ValueError, match=r"existence: 1 lines for image 'a\.jpg'"):
        mme_prediction_scores([{"id": "existence/a.jpg/0", "kind": "x", "prediction": "", "references": ["Yes"]}])
