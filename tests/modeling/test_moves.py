"""How often a training forward goes from one file of the bundle to another: what a reader must follow."""

import sys
from pathlib import Path

import architectures
import tiny

import adem_vl_hf.modeling

BUNDLE = Path(adem_vl_hf.modeling.__file__).parent
# measured: 58 and 104 before the forward was made straight
MOST = {"adem_vl": 35, "evlm": 60}


def moves(call) -> list[str]:
    """The files of the bundle in the order in which ``call`` enters or returns to them.

    Frames of other code in between (Transformers', torch's) do not count: a layer of the language model is called from
    wherever the bundle called the language model.
    """
    stack, visited = [None], []

    def follow(frame, event, argument):
        file = Path(frame.f_code.co_filename)
        if file.parent != BUNDLE or event not in ("call", "return"):
            return
        before = stack[-1]
        if event == "call":
            stack.append(file.name)
        else:
            stack.pop()
        if stack[-1] != before:
            visited.append(stack[-1])

    sys.setprofile(follow)
    try:
        call()
    finally:
        sys.setprofile(None)
    return visited


@architectures.each()
def test_a_training_forward_stays_in_few_files(arch, bases):
    model = arch.build(bases).train()
    assert len(model.language_model.get_decoder().layers) == 3
    batch = tiny.batch([7, 5], [True, True])
    visited = moves(lambda: model(**batch))
    assert len(visited) <= MOST[arch.model_type], " ".join(map(str, visited))
