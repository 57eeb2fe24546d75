"""Adapters of PEFT in a folder of their own or beside a checkpoint, which ``from_pretrained`` loads with the model.

Transformers' models do so, too: ``AutoModel.from_pretrained(folder_of_peft)`` loads the model that the adapter was
trained on, and puts the adapter into it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from .reading import errors_naming

# how an Auto class passes on that it was given an adapter of PEFT, and gave the model of that instead
OF_AUTO_CLASS = "_adapter_model_path"
PREFIX = "base_model.model."  # of the names in a file of PEFT


class Found(NamedTuple):
    """A checkpoint, and the adapter of PEFT that belongs to it.

    Args:
        checkpoint (str): the folder or Hub id of the checkpoint.
        adapter (str | None): the folder or Hub id of the adapter of PEFT; None = there is none.
        fetching (dict[str, Any]): how the adapter is fetched: ``token``, ``revision`` and so on.
    """

    checkpoint: str
    adapter: str | None = None
    fetching: dict[str, Any] = {}

    def as_arguments(self) -> dict[str, Any]:
        """The adapter as Transformers' own ``from_pretrained`` is told of it.

        Returns:
            Its arguments; none where there is no adapter.
        """
        return {} if self.adapter is None else {"adapter_kwargs": {**self.fetching, OF_AUTO_CLASS: self.adapter}}

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
        model.load_adapter(self.adapter, adapter_kwargs=dict(self.fetching))
        from peft import load_peft_weights, set_peft_model_state_dict

        # Transformers 5.0 makes the layers and leaves them as they were drawn
        weights = load_peft_weights(self.adapter, device="cpu", **self.fetching)
        own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
        set_peft_model_state_dict(model, own, adapter_name="default")


def find_peft_adapter(name: str, subfolder: str, adapter_kwargs: Mapping[str, Any] | None) -> Found:
    """Find the adapter of PEFT that is to be loaded.

    Args:
        name (str): what ``from_pretrained`` was given: a folder or a Hub id.
        subfolder (str): the folder inside.
        adapter_kwargs (Mapping[str, Any] | None): as the Auto classes pass it on.

    Returns:
        The checkpoint, which is another folder if this one holds the adapter of PEFT alone, and that adapter.

    Raises:
        ValueError: the adapter does not say which model it belongs to.
    """
    fetching = dict(adapter_kwargs or {})
    if (given := fetching.pop(OF_AUTO_CLASS, None)) is not None:
        return Found(name, str(given), fetching)
    folder = Path(name, subfolder)
    file = folder / ADAPTER_CONFIG_NAME
    if not file.is_file():
        return Found(name)
    if (folder / CONFIG_NAME).is_file():
        return Found(name, str(folder), fetching)
    with errors_naming(str(file)):
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{folder} holds an adapter of PEFT that does not name its model: load the model first, and then "
            f"PeftModel.from_pretrained(model, {str(folder)!r})"
        )
    return Found(base, str(folder), fetching)
