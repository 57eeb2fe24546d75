"""Reads the file of an adapter: its header is compared with the configuration before anything is allocated."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.utils import cached_file

FILE = "model.safetensors"
PICKLES = ("pytorch_model.bin", "adapter_model.bin")
# as safetensors spells them; numbers of any other kind are no weights, and casting them would hide that
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

LONGEST = 300  # characters of a problem in a message

Shapes = dict[str, tuple[int, ...]]


def adapter_file(name: str, where: dict[str, Any]) -> str:
    """Find the file of an adapter.

    Args:
        name (str): The checkpoint, a folder or a Hub id.
        where (dict[str, Any]): Hub arguments.

    Returns:
        str: The path of the file.

    Raises:
        ValueError: There is none.
    """
    for pickle in PICKLES:
        if (Path(name) / pickle).is_file() and not (Path(name) / FILE).is_file():
            raise ValueError(f"{name} holds {pickle}, a pickle; adapters are read from {FILE} only")
    try:
        return cached_file(name, FILE, **where)
    except OSError as error:
        raise ValueError(f"{name} holds no {FILE}, where the adapter's weights belong: {error}") from error


def read_shapes(path: str) -> Shapes:
    """Read the shapes of the tensors in a file from its header.

    Args:
        path (str): The path of the file.

    Returns:
        Shapes: The shape of each tensor by its key.

    Raises:
        ValueError: The file is no safetensors file, is cut short, or holds a tensor that is not of floating point.
    """
    shapes: Shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_slice(key)
                if tensor.get_dtype() not in FLOATS:
                    raise ValueError(
                        f"{path}: {_short(key)} is of the type {tensor.get_dtype()}; the weights of an adapter are "
                        f"{', '.join(FLOATS.values())}, so save it with one of these"
                    )
                shapes[key] = tuple(tensor.get_shape())
    except (SafetensorError, OverflowError) as error:
        raise _no_safetensors(path, error) from error
    return shapes


def check_adapter_shapes(path: str, adapter_class: type[nn.Module], config: Any) -> None:
    """Compare the shapes in a file with those that the configuration asks for, without allocating anything.

    What trains inside the bases is left out: its shapes are known when the bases are loaded.

    Args:
        path (str): The path of the file.
        adapter_class (type[nn.Module]): The class of the adapter.
        config (Any): The model's configuration.

    Raises:
        ValueError: A shape differs, or the file cannot be read.
    """
    found = read_shapes(path)
    with torch.device("meta"):
        adapter = adapter_class(config)
    wanted = {f"adapter.{key}": tuple(tensor.shape) for key, tensor in adapter.state_dict().items()}
    refuse(path, differing(found, wanted))


def read_adapter(path: str, wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read an adapter by an exact check of keys, shapes and values.

    Args:
        path (str): The path of the file.
        wanted (dict[str, torch.Tensor]): The tensors of the model that are to be read, by their keys.

    Returns:
        dict[str, torch.Tensor]: The tensors.

    Raises:
        ValueError: The file is damaged, or is not the adapter of this model. The message names the tensors.
    """
    found = read_shapes(path)
    problems = [f"missing {key}" for key in wanted if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in wanted]
    problems += differing(found, {key: tuple(tensor.shape) for key, tensor in wanted.items()})
    refuse(path, problems)
    try:
        given = load_file(path)
    except SafetensorError as error:
        raise _no_safetensors(path, error) from error
    refuse(path, [f"{key} holds NaN or infinity" for key in given if not given[key].isfinite().all()])
    return given


def differing(found: Shapes, wanted: Shapes) -> list[str]:
    """List the tensors whose shapes differ.

    Args:
        found (Shapes): The shapes in the file.
        wanted (Shapes): The shapes that the configuration asks for.

    Returns:
        list[str]: A description of each tensor that is in both and differs.
    """
    both = (key for key in wanted if key in found and found[key] != wanted[key])
    return [f"{key} is {found[key]} where the config needs {wanted[key]}" for key in both]


def refuse(path: str, problems: list[str]) -> None:
    """Raise an error if there are problems.

    Args:
        path (str): The path of the file.
        problems (list[str]): A description of each.

    Raises:
        ValueError: There is one. The message has the first five.
    """
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        first = "; ".join(map(_short, problems[:5]))
        raise ValueError(f"{path} is not the adapter that its config.json describes: {first}{more}")


def _short(text: Any) -> str:
    """Leave out the middle of a long text: the names of tensors are as long as whoever saved them wants."""
    text = str(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def _no_safetensors(path: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a readable safetensors file ({_short(error)}); adapters are never read from pickles, "
        "and a file cut short has to be fetched or saved again"
    )
