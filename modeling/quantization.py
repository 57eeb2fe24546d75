"""Language models of rounded numbers: GGUF files, which are read as dense models, and those that a library packed."""

import os
from pathlib import Path
from typing import Any

import transformers
from torch import nn


def split_gguf(name: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Say where a language model is, and the name of its GGUF file there.

    Args:
        name (str | os.PathLike[str]): ``folder/file.gguf``, or ``owner/repository/file.gguf`` on the Hub, or the name
            of a dense model.

    Returns:
        The folder or repository, and the file; the name as it is, and None, for a dense model.
    """
    path, name = Path(name), os.fspath(name)
    if not name.lower().endswith(".gguf") or path.is_dir():
        return name, None
    parts = name.split("/")
    if len(parts) > 2 and not (path.is_file() or path.is_absolute() or name.startswith((".", "~"))):
        return "/".join(parts[:2]), "/".join(parts[2:])
    return str(path.parent), path.name


def gguf_arguments(file: str, arguments: dict) -> dict:
    """Make the arguments under which ``from_pretrained`` loads a GGUF file as a dense model.

    Args:
        file (str): the name of the file.
        arguments (dict): the other arguments.

    Returns:
        All of them.
    """
    config_class = getattr(transformers, "GgufConfig", None)  # older versions know nothing but dense models
    if config_class is not None:
        arguments = {"quantization_config": config_class(dequantize=True), **arguments}
    return {**arguments, "gguf_file": file}


def quantization_method(config: Any) -> str | None:
    """Say how a model is quantised.

    Args:
        config (Any): its configuration.

    Returns:
        ``"bitsandbytes"``, ``"gptq"``, ...; None if it is not.
    """
    given = getattr(config, "quantization_config", None)
    method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
    return getattr(method, "value", method)


def from_gguf(config: Any) -> bool:
    """Say whether a model was read from a GGUF file: a dense model of rounded numbers.

    Args:
        config (Any): its configuration.
    """
    return quantization_method(config) == "gguf" or str(getattr(config, "_name_or_path", "")).lower().endswith(".gguf")


def keep_trainable(language_model: nn.Module) -> None:
    """Have 4-bit layers of bitsandbytes compute on a CPU in the way that has a backward.

    On a CPU with AVX512-BF16 a ``Linear4bit`` that is used without gradients (for an answer, for an evaluation between
    two steps) packs its weights anew for a kernel without a backward, and keeps them so: from then on gradients are
    silently zero or wrong, and its scales are rounded.

    Args:
        language_model (nn.Module): the language model, quantised or not.
    """
    for module in language_model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                module.state_dict()  # which packs them back


def check_can_save(language_model: nn.Module) -> None:
    """Packed weights belong to the library that packed them: refuse to write them into a checkpoint of ours.

    Args:
        language_model (nn.Module): the language model.

    Raises:
        ValueError: the language model is quantised.
    """
    method = quantization_method(language_model.config)
    if method not in (None, "gguf"):
        raise ValueError(
            f"the language model is quantised ({method}), and its weights cannot be saved with the adapter: save the "
            "adapter alone (save_base=False, with config.text_model_name_or_path naming the language model)"
        )
