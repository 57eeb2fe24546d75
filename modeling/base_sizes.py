"""Refuses a frozen model whose configuration asks for more than its files hold, before the memory for it is taken.

The folder of a frozen model may come from anywhere. Its configuration alone decides how much is allocated, and a weight
that its files do not have would be drawn at random first and missed afterwards.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers.utils import cached_file

from .arguments import HUB_ARGUMENTS, PreTrainedConfig, take
from .field_values import check_kernels, check_sizes
from .reading import errors_naming

# numbers for each byte of the files: none of a plain weight takes less than one byte, and a tied table counts twice
PLAIN, PACKED = 2, 32  # packed weights take a bit and more, and are counted again where a library packs them
ALWAYS_NUMBERS = 2**24  # tables that a model computes for itself, such as those of positions
ALWAYS_TENSORS, BYTES_OF_A_TENSOR = 2**11, 256  # a file spends more than this on each of its tensors, on average
WEIGHTS = "*.safetensors"


def read_base_config(name: str, hub: Mapping[str, Any], gguf_file: str | None = None) -> dict[str, Any]:
    """Read the configuration of a frozen model as it was saved, and check its sizes.

    Args:
        name (str): The folder or the Hub id.
        hub (Mapping[str, Any]): Arguments, of which the Hub arguments are used.
        gguf_file (str | None): The GGUF file there that has the configuration. None means ``config.json``.

    Returns:
        dict[str, Any]: The fields by name.

    Raises:
        OSError: It cannot be reached.
        ValueError: It is damaged, a size is beyond ``SIZES``, or it names code of a repository.
    """
    gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
    file = f"{name}/{gguf_file or 'config.json'}"
    with errors_naming(file):
        fields = PreTrainedConfig.get_config_dict(name, **take(HUB_ARGUMENTS, dict(hub)), **gguf)[0]
        check_sizes(f"{file}: ", fields)
        check_kernels(fields, file)
    return fields


@contextmanager
def no_larger_than_its_files(
    name: str, hub: Mapping[str, Any], file: str | None = None, packed: bool = False, buffers: bool = True
) -> Iterator[None]:
    """Count what a model registers while it is built in the body of the ``with`` statement, in this thread.

    Args:
        name (str): The folder or the Hub id of the model.
        hub (Mapping[str, Any]): Arguments, of which the Hub arguments are used.
        file (str | None): The file there that has the weights. None means all safetensors files.
        packed (bool): Whether a byte of the files may hold several numbers.
        buffers (bool): Whether buffers are counted. Some adapters have large ones that no file holds.

    Yields:
        None: Nothing.

    Raises:
        ValueError: The model has more numbers, or more tensors, than its files can hold.
    """
    thread = threading.get_ident()
    seen: set[tuple[int, str]] = set()
    held: int | None = None
    numbers = 0

    def count(module: nn.Module, field: str, tensor: Any) -> None:
        nonlocal held, numbers
        if tensor is None or threading.get_ident() != thread or (id(module), field) in seen:
            return  # a weight that was read takes the place of the one that was there
        if held is None:  # by now the files are here
            held = _bytes_of_files(name, hub, file)
        seen.add((id(module), field))
        numbers += tensor.numel()
        for what, asked, most in (
            ("numbers", numbers, ALWAYS_NUMBERS + held * (PACKED if packed else PLAIN)),
            ("tensors", len(seen), ALWAYS_TENSORS + held // BYTES_OF_A_TENSOR),
        ):
            if asked > most:
                raise ValueError(
                    f"{name}: its configuration asks for more than {asked - 1:,} {what}, and its files with weights "
                    f"have {held:,} bytes; one of them is damaged, or belongs to another model"
                )

    of_buffers = [register_module_buffer_registration_hook(count)] if buffers else []
    hooks = [register_module_parameter_registration_hook(count), *of_buffers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _bytes_of_files(name: str, hub: Mapping[str, Any], file: str | None) -> int:
    """Add up the files with weights of a model that was fetched a moment ago."""
    from_cache = {**take(HUB_ARGUMENTS, dict(hub)), "force_download": False, "local_files_only": True}
    found = Path(cached_file(name, file or "config.json", **from_cache))
    return sum(path.stat().st_size for path in ([found] if file else found.parent.glob(WEIGHTS)))
