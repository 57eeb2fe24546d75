"""Adapters of PEFT in a folder of their own or beside a checkpoint, which ``from_pretrained`` loads with the model.

Transformers' models do so, too: ``AutoModel.from_pretrained(folder_of_peft)`` loads the model that the adapter was
trained on, and puts the adapter into it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    cached_file,
    is_peft_available,
)

from .arguments import HUB_ARGUMENTS, take
from .base_sizes import no_larger_than_its_files
from .field_values import check_range, check_types, shown
from .lora_fields import LORA_TYPES, MOST, complete_lora
from .reading import errors_naming

# how an Auto class passes on that it was given an adapter of PEFT, and gave the model of that instead
OF_AUTO_CLASS = "_adapter_model_path"
PREFIX = "base_model.model."  # of the names in a file of PEFT
RANKS = re.compile(r"(\w+_)?(r|rank)")  # names of the fields that say how much each layer gets
MOST_LAYERS, MOST_ROUNDS = 512, 1000  # layers after a replication, rounds of a decomposition to begin with


class Found(NamedTuple):
    """A checkpoint, and the adapter of PEFT that belongs to it.

    Args:
        checkpoint (str): the folder or Hub id of the checkpoint.
        adapter (str | None): the folder of the adapter of PEFT, whose files are checked; None = there is none.
        others (dict[str, Any]): what else PEFT is told in loading it.
    """

    checkpoint: str
    adapter: str | None = None
    others: dict[str, Any] = {}

    def as_arguments(self) -> dict[str, Any]:
        """The adapter as Transformers' own ``from_pretrained`` is told of it.

        Returns:
            Its arguments; none where there is no adapter.
        """
        return {} if self.adapter is None else {"adapter_kwargs": {**self.others, OF_AUTO_CLASS: self.adapter}}

    def put_into(self, model: Any) -> None:
        """Put the adapter into the model, if there is one.

        Args:
            model (Any): the model of the checkpoint.

        Raises:
            ImportError: PEFT is not installed.
            ValueError: the adapter does not fit the model.
        """
        if self.adapter is None:
            return
        # PEFT allocates what the configuration asks for before it looks into the file
        within = no_larger_than_its_files(self.adapter, {}, ADAPTER_SAFE_WEIGHTS_NAME, buffers=False)
        with errors_naming(f"the adapter of PEFT in {self.adapter}"), within:
            model.load_adapter(self.adapter, adapter_kwargs=dict(self.others))
            from peft import load_peft_weights, set_peft_model_state_dict

            # Transformers 5.0 makes the layers and leaves them as they were drawn
            weights = load_peft_weights(self.adapter, device="cpu", **self.others)
            own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
            set_peft_model_state_dict(model, own, adapter_name="default")


def find_peft_adapter(
    name: str, subfolder: str, adapter_kwargs: Mapping[str, Any] | None, hub: Mapping[str, Any]
) -> Found:
    """Find the adapter of PEFT that is to be loaded.

    Args:
        name (str): what ``from_pretrained`` was given: a folder or a Hub id.
        subfolder (str): the folder inside.
        adapter_kwargs (Mapping[str, Any] | None): as the Auto classes pass it on.
        hub (Mapping[str, Any]): Hub arguments, by which a checkpoint on the Hub is fetched.

    Returns:
        The checkpoint, which is another folder if this one holds the adapter of PEFT alone, and that adapter.

    Raises:
        OSError: the files of the adapter cannot be reached.
        ValueError: the adapter does not say which model it belongs to, or its files are refused.
    """
    others = dict(adapter_kwargs or {})
    if (given := others.pop(OF_AUTO_CLASS, None)) is not None:
        return _checked(name, str(given), others)
    folder = Path(name, subfolder)
    if not Path(name).is_dir():  # on the Hub, where Transformers would find the adapter by itself, and check nothing
        where = take(HUB_ARGUMENTS, dict(hub))
        quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
        quiet = {f"_raise_exceptions_for_{what}": value for what, value in quiet.items()}
        with errors_naming(f"{name}/{CONFIG_NAME}"):  # a name that can be none has no such file either
            beside = cached_file(name, ADAPTER_CONFIG_NAME, **where, **quiet)
        return Found(name) if beside is None else _checked(name, name, where | others)
    file = folder / ADAPTER_CONFIG_NAME
    if not file.is_file():
        return Found(name)
    if (folder / CONFIG_NAME).is_file():
        return _checked(name, str(folder), others)
    base = _read(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{folder} holds an adapter of PEFT that does not name its model: load the model first, and then "
            f"PeftModel.from_pretrained(model, {str(folder)!r})"
        )
    return _checked(base, str(folder), others)


def _checked(checkpoint: str, adapter: str, others: dict[str, Any]) -> Found:
    """Fetch an adapter, and refuse what would hang, run code or take all memory before PEFT reads anything of it.

    PEFT is given the folder of the files that were checked, which no later push to the Hub changes.
    """
    where = take(HUB_ARGUMENTS, others)
    if not is_peft_available():  # a model with every weight loads without the adapter then, as in Transformers
        return Found(checkpoint, adapter, others | where)
    file = cached_file(adapter, ADAPTER_CONFIG_NAME, **where)
    with errors_naming(file):
        _check_fields(_read(file))
    # a pipe, which would be waited for, is not found here either
    weights = cached_file(adapter, ADAPTER_SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **where)
    if weights is None:
        raise ValueError(
            f"{adapter} holds no file {ADAPTER_SAFE_WEIGHTS_NAME}, where the weights of its adapter of PEFT belong; "
            "they are never read from a pickle"
        )
    with errors_naming(weights):
        for name, tensor in load_file(weights).items():
            if tensor.is_floating_point() and not tensor.float().isfinite().all():
                raise ValueError(f"{shown(name)} holds NaN or infinity; fetch or save it again")
    return Found(checkpoint, str(Path(file).parent), others)


def _read(file: str | Path) -> dict[str, Any]:
    """Read the configuration of an adapter."""
    with errors_naming(file):
        saved = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError(f"it holds {shown(saved)} instead of an object in curly brackets")
        return saved


def _check_fields(saved: dict[str, Any]) -> None:
    """Check the fields of an adapter of PEFT; those of LoRA as the field ``lora`` of a configuration is checked."""
    from peft import PeftType

    kind = saved.get("peft_type")
    if kind not in [one.value for one in PeftType]:
        raise ValueError(f"peft_type is {shown(kind)}, which is no adapter that the installed PEFT knows")
    for name in ("megatron_config", "adapters"):
        if saved.get(name):
            raise ValueError(f"{name} is {shown(saved[name])}, which loads code or adapters unchecked; remove it")
    given = {name: value for name, value in saved.items() if value is not None}
    if kind == "LORA":
        complete_lora({name: value for name, value in given.items() if name in LORA_TYPES})
    for name, value in given.items():
        if name.endswith("modules"):
            complete_lora({"target_modules": value})
        elif name.endswith("pattern"):
            complete_lora({"layers_pattern": list(value) if isinstance(value, dict) else value})
        elif RANKS.fullmatch(name):
            check_range(name, value, (0, MOST), f"MOST in {complete_lora.__module__}")
    check_types({"layer_replication": list[list[int]] | None, "loftq_config": dict[str, Any] | None}, saved)
    layers = sum(max(0, end - start) for start, end in given.get("layer_replication", ()))
    check_range("layer_replication: the number of layers", layers, (0, MOST_LAYERS), f"MOST_LAYERS in {__name__}")
    rounds = [given.get("psoft_svd_lowrank_niter"), given.get("loftq_config", {}).get("loftq_iter")]
    rounds += [int(number[:9]) for number in re.findall(r"\d+", str(given.get("init_lora_weights")))]  # pissa_niter_16
    check_range("the number of rounds to begin with", rounds, (0, MOST_ROUNDS), f"MOST_ROUNDS in {__name__}")
