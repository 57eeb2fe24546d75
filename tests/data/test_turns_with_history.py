"""What a turn that is asked alone is shown: the images of the turns before it, and its own, but none of later ones."""

import pytest
from PIL import Image

from adem_vl_hf.data.columns import sample_of
from adem_vl_hf.data.sample import images_of
from adem_vl_hf.data.turns import each_turn

RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))


def chat(*questions, **shown):
    messages = []
    for question in questions:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]
    return sample_of({"id": "c", "messages": messages, **shown}, 0)


@pytest.mark.parametrize(
    ("sample", "numbers"),
    [
        (chat("hello", "<image>what is it?", image=RED), [0, 1]),
        (chat("<image>one?", "<image>two?", images=[RED, BLUE]), [1, 2]),
        (chat("hello", "<image><image>both?", "and now?", images=[RED, BLUE]), [0, 2, 2]),
        (chat("one?", "two?", image=RED), [1, 1]),  # without marks everything is shown at the beginning
    ],
)
def test_a_turn_with_its_history_is_shown_nothing_of_later_turns(sample, numbers):
    told = each_turn(sample, "history")
    assert [len(images_of(turn).images) for turn in told] == numbers
