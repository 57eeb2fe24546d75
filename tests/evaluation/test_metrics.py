"""Caption metrics and question accuracy, against values worked out by hand."""

import math

import pytest

from adem_vl_hf.evaluation.metrics import caption_metrics, normalise, question_accuracy


def test_normalise():
    assert normalise("  A  Red\n Car. ") == "a red car"
    assert normalise("Yes .") == "yes"
    assert normalise("it's 3.5") == "it's 3.5"


def test_perfect_captions(capsys):
    captions = ["a red car and a dog", "two blue birds over some water"]
    scores = caption_metrics([captions[0].upper() + ".", captions[1]], [[captions[0]], [captions[1]]])
    assert scores["exact_match"] == 1.0
    assert scores["bleu4"] == pytest.approx(1.0, abs=1e-6)
    assert scores["cider"] == pytest.approx(10.0)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_exact_match_takes_any_reference():
    references = [["the dog", "a dog"], ["a cat"]]
    assert caption_metrics(["a dog", "a bird"], references)["exact_match"] == 0.5


def test_bleu_of_a_short_caption_is_its_brevity_penalty():
    scores = caption_metrics(["a b c d", "a b c d"], [["a b c d e f g h"], ["a b c d e f g h"]])
    assert scores["bleu4"] == pytest.approx(math.exp(1 - 8 / 4), rel=1e-6)


def test_cider_weighs_words_by_rarity():
    # "red" is in both samples' references and weighs nothing; the second caption shares only it. The first is right in
    # its words and pairs of words and has no longer n-grams: (1 + 1 + 0 + 0) / 4 * 10.
    scores = caption_metrics(["red dog", "red dog"], [["red dog"], ["red cat"]])
    assert scores["cider"] == pytest.approx((5.0 + 0.0) / 2)


def test_punctuation_is_no_word():
    plain = caption_metrics(["a dog on the grass", "two cats in a box"], [["a dog on the grass"], ["one cat in a box"]])
    marked = caption_metrics(
        ["A dog, on the grass!", "two cats in a box"], [["a dog on the grass."], ["one cat in a box"]]
    )
    assert marked["bleu4"] == plain["bleu4"]
    assert marked["cider"] == plain["cider"]


def test_one_sample_has_no_cider_and_an_empty_caption_scores_nothing():
    assert caption_metrics(["a red car here"], [["a red car here"]])["cider"] == 0.0
    scores = caption_metrics(["", ""], [["a red car"], ["a dog"]])
    assert scores["exact_match"] == 0.0
    assert scores["bleu4"] == pytest.approx(0.0, abs=1e-6)
    assert scores["cider"] == 0.0


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no predictions"),
        (["a"], [["a"], ["b"]], "1 predictions and 2 lists"),
        (["a", "b"], [["a"], []], "references of prediction 1"),
        (["a"], [["..."]], "hold no words"),
    ],
)
def test_captions_that_cannot_be_scored(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        caption_metrics(predictions, references)


def question(kind: str, answer: str, **more) -> dict:
    return {"id": "x", "kind": kind, "references": [answer], **more}


def test_question_accuracy_by_kind():
    samples = [
        question("presence", "yes"),
        question("count", "two"),
        question("presence", "yes"),
        question("presence", "no"),
        question("count", "three"),
    ]
    scores = question_accuracy(["Yes.", "two", "no", "no", "two"], samples)
    assert scores == {
        "presence": {"accuracy": pytest.approx(2 / 3), "chance": pytest.approx(2 / 3), "n": 3},
        "count": {"accuracy": 0.5, "chance": 0.5, "n": 2},
    }


def test_chance_of_choices_is_a_guess_or_the_commonest_answer():
    options = ["a", "b", "c", "d"]
    spread = [question("choice", answer, choices=options) for answer in "abcd"] + [
        question("choice", "e", choices=["e", "f", "g", "h"])
    ]
    assert question_accuracy(["x"] * 5, spread)["choice"]["chance"] == pytest.approx(0.25)
    lopsided = [question("choice", answer, choices=options) for answer in "aaab"]
    assert question_accuracy(["x"] * 4, lopsided)["choice"]["chance"] == 0.75


def test_chance_counts_every_true_answer():
    samples = [{"kind": "relation", "references": ["left", "beside"]}, {"kind": "relation", "references": ["beside"]}]
    assert question_accuracy(["left", "left"], samples)["relation"] == {"accuracy": 0.5, "chance": 1.0, "n": 2}


def test_questions_that_cannot_be_scored():
    with pytest.raises(ValueError, match="2 predictions and 1 samples"):
        question_accuracy(["a", "b"], [question("count", "a")])
    with pytest.raises(ValueError, match="sample 'q7' has no references"):
        question_accuracy(["a"], [{"id": "q7", "kind": "count", "references": []}])
