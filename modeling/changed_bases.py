"""Notes what the bases are when they are loaded, and finds what was changed since, which an adapter would lose."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from .fingerprints import can_sample

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # in names, where a part is wrapped


class Sample(NamedTuple):
    """Some values of a tensor, and its shape."""

    shape: torch.Size
    values: torch.Tensor


def sample(tensor: torch.Tensor) -> Sample:
    """Take a value of every row and of every column: rows of a table of embeddings train one by one.

    Values, and no sums of them, because a cast rounds each by itself.

    Args:
        tensor (torch.Tensor): the tensor, of any shape; all but its last dimension count as rows.

    Returns:
        The values on a CPU, in the dtype of the tensor.
    """
    columns = tensor.shape[-1] if tensor.dim() else 1
    rows = tensor.numel() // columns
    number = torch.arange(max(rows, columns), device=tensor.device)
    values = tensor.detach().reshape(-1)[number % rows * columns + number % columns]
    return Sample(tensor.shape, values.to("cpu", copy=True))


class LoadedBases:
    """What the bases of a model are when it is built.

    Args:
        model (nn.Module): the model.
        tensors (Mapping[str, torch.Tensor]): the tensors of its bases, as its state dict has them.
        packed (bool): whether a library packed the language model, which may rename tensors within its layers.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor], packed: bool) -> None:
        self.packed = packed
        self.samples = {key: sample(tensor) for key, tensor in tensors.items() if can_sample(key, tensor)}
        self.writes = {key: number for key, number in _writes(model).items() if key in tensors}
        self.names = dict.fromkeys(tensors)  # in their order

    def forget(self, keys: Iterable[str]) -> None:
        """Take tensors out that are saved with the adapter from now on.

        Args:
            keys (Iterable[str]): their keys.
        """
        for key in keys:
            for notes in (self.samples, self.writes, self.names):
                notes.pop(key, None)  # type: ignore[attr-defined]

    def changed(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Find a tensor that was resized, trained or edited; a change of dtype alone is none.

        Args:
            model (nn.Module): the model.
            tensors (Mapping[str, torch.Tensor]): its tensors now.

        Returns:
            The first such key, or None.
        """
        trained = _writes(model, alone_trainable=True)
        for key, tensor in tensors.items():
            key = plain_name(key)
            if key in self.writes and trained.get(key, 0) > self.writes[key]:  # in half precision most steps round away
                return key
            if key not in self.samples or not can_sample(key, tensor):
                continue
            before, now = self.samples[key], sample(tensor)
            if now.shape == before.shape:
                if not torch.equal(now.values, before.values.to(now.values.dtype)):
                    return key
            elif len(now.shape) == len(before.shape) > 1:  # else it is flat, one process's share
                return key
        return None

    def added(self, model: nn.Module, keys: Iterable[str]) -> str | None:
        """Find a parameter that trains and was not there. What is frozen, such as a teacher, a checkpoint may lack.

        Args:
            model (nn.Module): the model.
            keys (Iterable[str]): the keys of all its tensors but those that are saved with the adapter.

        Returns:
            The first such key, or None.
        """
        trains = {plain_name(name) for name, one in model.named_parameters() if one.requires_grad}
        known = {self._place(key) for key in self.names}
        names = (plain_name(key) for key in keys)
        return next((name for name in names if name in trains and self._place(name) not in known), None)

    def removed(self, keys: Iterable[str]) -> str | None:
        """Find a tensor that is not there any more.

        Args:
            keys (Iterable[str]): the keys of all the model's tensors.

        Returns:
            The first such key, or None.
        """
        there = {self._place(plain_name(key)) for key in keys}
        return next((key for key in self.names if self._place(key) not in there), None)

    def _place(self, key: str) -> str:
        if not self.packed:
            return key
        return key.partition(".weight.")[0] if ".weight." in key else key.rpartition(".")[0]


def plain_name(key: str) -> str:
    """Take the wrappers of compiled, sharded and recomputed parts out of a name.

    Args:
        key (str): the name.
    """
    for wrapper in WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def _writes(model: nn.Module, alone_trainable: bool = False) -> dict[str, int]:
    """How often each parameter was written to in place, which every step of an optimizer does."""
    return {
        plain_name(name): parameter._version
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.is_inference() and (parameter.requires_grad or not alone_trainable)
    }
