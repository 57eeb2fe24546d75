"""easy-VQA, from a small wheel that pip finds in a local folder, and the whole benchmark in a slow test."""

import pickle
from dataclasses import replace

import easy_vqa_files
import pytest
import tiny

from adem_vl_hf.data import easy_vqa, open_dataset
from adem_vl_hf.data.easy_vqa import EasyVQA, easy_vqa_wheel, text_alone
from adem_vl_hf.data.turns import EachTurn
from adem_vl_hf.evaluation.score import score


@pytest.fixture
def small(tmp_path, monkeypatch):
    easy_vqa_files.install(tmp_path / "index", monkeypatch)
    return monkeypatch


def test_an_image_comes_with_all_of_its_questions(small):
    data = EasyVQA("test")
    assert len(data) == 2
    assert data[0]["image"].mode == "RGB"
    assert data[0]["image"].tobytes() == tiny.picture(0).tobytes()
    assert [(turn["prompt"], turn["answer"], turn["kind"]) for turn in data[1]["turns"]] == [
        ("what color is the shape?", " red", "what"),
        ("is there a red shape?", " yes", "yes or no"),
    ]
    alone = EachTurn(data)
    assert [alone[i]["id"] for i in range(len(alone))] == ["0/0", "1/0", "1/1"]
    assert alone[2]["references"] == ["yes"]
    assert pickle.loads(pickle.dumps(data))[1]["turns"] == data[1]["turns"]


def test_kinds_of_questions_are_kept_alone_and_images_keep_their_numbers(small):
    kept = {kind: EachTurn(EasyVQA("test", kinds=(kind,))) for kind in easy_vqa.KINDS}
    assert [kept["what"][i]["id"] for i in range(len(kept["what"]))] == ["1/0"]
    assert [kept["yes or no"][i]["id"] for i in range(len(kept["yes or no"]))] == ["0/0", "1/0"]
    for wrong in ((), "what", ("why",)):
        with pytest.raises(ValueError, match=r"kinds must be one or more of \['what', 'yes or no'\]"):
            EasyVQA("test", kinds=wrong)


def test_an_answer_may_begin_with_what_is_seen(small):
    train, test = (EachTurn(EasyVQA(split, comparison_first=True)) for split in ("train", "test"))
    # nothing tells the colour in image 1 of the training set, so that its question is left out
    assert [train[i]["id"] for i in range(len(train))] == ["0/0", "0/1", "2/0"]
    assert [train[i]["answer"] for i in range(3)] == [" blue is not red, no", " blue", " red is red, yes"]
    assert [test[i]["answer"] for i in range(3)] == [" no", " red", " red is red, yes"]
    assert [test[i]["references"] for i in range(3)] == [["no"], ["red"], ["yes"]]
    for answer, right in (("yes", 1), ("Blue is red, yes.", 1), ("red is red, no", 0), ("red is red", 0)):
        found = score("easy-vqa", [{**test[2], "prediction": answer}])
        assert found["questions"]["yes or no"]["accuracy"] == found["questions"]["all"]["accuracy"] == right, answer


@pytest.mark.parametrize(
    ("asked", "answer", "shown"),
    [
        ("is there a red shape?", "yes", {"red"}),
        ("is there a red shape?", "no", set()),
        ("is there not a circle in the image?", "no", {"circle"}),
        ("is no circle present?", "yes", set()),
        ("what color is the circle?", "teal", {"circle", "teal"}),
        ("what is the blue shape?", "triangle", {"blue", "triangle"}),
    ],
)
def test_a_question_with_its_answer_tells_what_an_image_shows(asked, answer, shown):
    assert set(easy_vqa._shown_words(asked, answer)) == shown


def test_it_is_opened_by_its_name(small):
    assert len(open_dataset("easy-vqa")) == 3
    assert len(open_dataset("easy-vqa", "train", size=1)) == 1
    assert len(open_dataset("easy-vqa", "train", each_turn_alone=True)) == 4
    with pytest.raises(ValueError, match="not 'val'"):
        open_dataset("easy-vqa", "val")
    with pytest.raises(ValueError, match="at least 1"):
        open_dataset("easy-vqa", size=0)
    with pytest.raises(ValueError, match="easy-vqa cannot be streamed"):
        open_dataset("easy-vqa", streaming=True)


def test_the_wheel_is_downloaded_once_and_made_whole_again(small, capsys):
    kept = easy_vqa_wheel()
    assert [entry.name for entry in kept.parent.iterdir()] == ["easy-vqa-1.0.whl"]
    easy_vqa_wheel()
    assert capsys.readouterr().err.count("downloading easy-vqa==1.0") == 1
    kept.write_bytes(kept.read_bytes()[:100])
    assert easy_vqa.PACKAGE.is_whole(easy_vqa_wheel())
    assert "downloading" in capsys.readouterr().err


def test_another_wheel_is_refused(small):
    small.setattr(easy_vqa, "PACKAGE", replace(easy_vqa.PACKAGE, sha256="0" * 64))
    with pytest.raises(RuntimeError, match=f"{easy_vqa_files.WHEEL} has SHA-256"):
        EasyVQA()


def test_scores_stand_beside_what_the_question_alone_gives(small):
    # "no" is the commonest answer to the question in the training set, and right for one of two in the test set
    assert text_alone() == {"all": 1 / 3, "what": 0, "yes or no": 1 / 2}
    rows = [{"id": "0/0", "kind": "yes or no", "prediction": "no", "references": ["no"]},
            {"id": "1/0", "kind": "what", "prediction": "blue", "references": ["red"]}]  # fmt: skip
    assert score("easy-vqa", rows)["questions"] == {
        "yes or no": {"accuracy": 1, "chance": 1 / 2, "n": 1},
        "what": {"accuracy": 0, "chance": 0, "n": 1},
        "all": {"accuracy": 1 / 2, "chance": 1 / 3, "n": 2},
    }


@pytest.mark.slow
def test_the_whole_benchmark():
    train, test = EachTurn(EasyVQA("train")), EachTurn(EasyVQA("test"))
    assert (len(train), len(test)) == (38_575, 9_673)
    assert len({test[i]["prompt"] for i in range(0, len(test), 7)}) == 107
    for split, asked in (("train", 37_011), ("test", 9_673)):
        images = EasyVQA(split, comparison_first=True)
        assert sum(map(len, images.questions)) == asked
        for of_image in EasyVQA(split).questions:
            shown = {word for question in of_image for word in easy_vqa._shown_words(*question)}
            assert len(shown & easy_vqa.SHAPES) <= 1 >= len(shown & easy_vqa.COLOURS)
    assert {kind: round(100 * share, 1) for kind, share in text_alone().items()} == {
        "all": 67.0, "what": 23.3, "yes or no": 82.5,
    }  # fmt: skip
