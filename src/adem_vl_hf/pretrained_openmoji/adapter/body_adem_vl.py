"""The model without its LM head, under the name that the library's conventions give it: ``base_model``.

Trainers that compute the loss themselves (TRL's) ask for the last hidden states there, and multiply them with the head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any


class Body:
    """Called as the model is, returns the decoder's ``last_hidden_state`` [B, T, D]; has the model's parts."""

    _tp_plan = _pp_plan = None  # asked of every base_model

    def __init__(self, model, forward: Callable[..., Any]) -> None:
        self.model_with_head = model
        self.forward = forward

    def __getattr__(self, name: str):
        return getattr(self.__dict__["model_with_head"], name)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


class BodyMixin:
    """``base_model`` of a model whose parts stand side by side, with no inner model that holds them all."""

    forward: Callable[..., Any]

    @property
    def base_model(self) -> Body:
        # the class's own forward: the instance's may be patched to call this
        return Body(self, partial(type(self).forward, self, without_head=True))
