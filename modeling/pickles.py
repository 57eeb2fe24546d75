"""What a model needs to go into another process by pickle: the hooks of Transformers that return hidden states.

Since Transformers 5.2 a tower's hidden states come from hooks, which the library installs in the first forward as local
functions. No pickle takes those, and ``torch.compile`` cannot trace how they are installed, so that they are installed
before. The library notes by class what they collect, when a model of the class is constructed, which a pickle does not
do.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .vision import record_hidden_states

_noted: set[type] = set()  # classes that were constructed after a pickle, in this process


class PickledMixin:
    """Leaves the library's hooks behind, and lets it install them again in the new process.

    The model that is pickled or copied loses them, too, until its next forward: no other thread may use it meanwhile.
    """

    def __getstate__(self) -> Any:
        for part in self.modules():  # type: ignore[attr-defined]
            part.__dict__.pop("_output_capturing_hooks_installed", None)
            _remove_local_hooks(part)
        return super().__getstate__()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        for part in self.modules():  # type: ignore[attr-defined]
            if isinstance(part, PreTrainedModel) and type(part) not in _noted and not isinstance(part, PickledMixin):
                _noted.add(type(part))
                with torch.device("meta"):
                    type(part)(part.config)
        record_hidden_states(self.vision_tower)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(self.__getstate__(), memo))
        record_hidden_states(self.vision_tower)  # type: ignore[attr-defined]  # this one has lost its hooks, too
        return copied


def _remove_local_hooks(part: nn.Module) -> None:
    """Remove those forward hooks of Transformers that no pickle takes. The next forward installs them again."""
    for number, hook in list(part._forward_hooks.items()):
        if getattr(hook, "__module__", "").startswith("transformers.") and "<locals>" in hook.__qualname__:
            del part._forward_hooks[number]
