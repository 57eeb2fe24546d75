"""Turns are answered as the model alone answers them, as a growing text, and never two at once."""

import threading
import time
from itertools import pairwise

import pytest
import tiny
import torch
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.app.answers import Answers, Turn, row_of
from adem_vl_hf.data.sample import Shown
from adem_vl_hf.evaluation.predict import generate_answers


@pytest.fixture(scope="module")
def answers(bases):
    model = tiny.build(bases)
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    return Answers(model, processor, max_new_tokens=12)


def turn(seed: int, text: str = "a photo of", **fields) -> Turn:
    return Turn(text, [tiny.picture(seed)], **fields)


def test_the_answer_grows_to_the_one_that_the_model_gives(answers):
    said = list(answers.stream([turn(0)]))
    (expected,) = generate_answers(
        answers.model, answers.processor, [Shown("image", (tiny.picture(0),))], ["a photo of"], 12
    )
    assert said[-1] == expected != ""
    assert len(said) > 2
    assert all(longer.startswith(shorter.strip("\ufffd")) for shorter, longer in pairwise(said))
    other = list(answers.stream([turn(1)]))[-1]
    assert other != said[-1]


def test_beams_of_the_checkpoint_are_left_out_because_they_cannot_be_streamed(answers, monkeypatch):
    alone = list(answers.stream([turn(0)]))[-1]
    monkeypatch.setattr(answers.model.generation_config, "num_beams", 4)
    monkeypatch.setattr(answers.model.generation_config, "num_return_sequences", 2)
    assert list(answers.stream([turn(0)]))[-1] == alone


def test_who_stops_waiting_stops_the_model(answers):
    passes = []

    def wait(*args):
        passes.append(time.sleep(0.05))

    handle = answers.model.language_model.register_forward_pre_hook(wait)
    stream = answers.stream([turn(0)])
    next(stream)
    stream.close()
    handle.remove()
    assert 0 < len(passes) < 12
    assert list(answers.stream([turn(0)]))  # the next one is answered


def test_a_failure_reaches_who_asked(answers, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(answers.model, "generate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        list(answers.stream([turn(0)]))


def test_several_at_once_get_what_each_gets_alone(answers):
    alone = [list(answers.stream([turn(seed)]))[-1] for seed in range(4)]
    together = [""] * 4

    def ask(seed: int) -> None:
        together[seed] = list(answers.stream([turn(seed)]))[-1]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len(set(alone)) > 1


def test_a_text_stands_alone_with_the_latest_images():
    first, second = turn(0, answer="cat"), Turn("What else?")
    shown, asked = row_of([first, second])
    assert (asked, shown) == ("What else?", {"images": first.images})
    third = Turn("And here?", [Image.new("RGB", (8, 8))])
    assert row_of([first, second, third])[0] == {"images": third.images}
    film = Turn("Then?", [], [[tiny.picture(1)]])
    assert row_of([first, film, second])[0] == {"videos": film.videos}
    assert row_of([second])[0] == {"images": []}


def test_a_chat_has_all_turns_and_images_in_order(answers):
    video = [tiny.picture(1), tiny.picture(2)]
    first, second = turn(0, answer="a cat"), Turn("And now?", [], [video], as_chat=True)
    shown, asked = row_of([first, second])
    assert asked == [
        {"role": "user", "content": "<image>a photo of"},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "<video>And now?"},
    ]
    assert shown == {"images": first.images, "videos": [video]}
    assert list(answers.stream([first, second]))
    second.answer = "the sea"
    found = answers.look([first, second])
    assert (found.words, len(found.images)) == (["the", "sea"], 3)
