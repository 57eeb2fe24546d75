"""Language models that come quantised: what a GGUF file is called, and what was quantised how.

bitsandbytes and its like replace the language model's linear layers by packed ones. A GGUF file is unpacked into a
dense model when it loads: gradients go through every layer on their way to the adapter, and the kernels that
Transformers has for packed GGUF blocks have no backward.
"""

import os
from pathlib import Path

import transformers


def split_gguf(name: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Where a language model is and the name of its GGUF file there.

    ``folder/file.gguf`` becomes ``("folder", "file.gguf")``, ``owner/repository/file.gguf`` on the Hub becomes
    ``("owner/repository", "file.gguf")``, and any other name stays as it is, with None.
    """
    path, name = Path(name), os.fspath(name)
    if not name.lower().endswith(".gguf") or path.is_dir():
        return name, None
    parts = name.split("/")
    if len(parts) > 2 and not (path.is_file() or path.is_absolute() or name.startswith((".", "~"))):
        return "/".join(parts[:2]), "/".join(parts[2:])
    return str(path.parent), path.name


def gguf_arguments(file: str, arguments: dict) -> dict:
    """The arguments under which ``from_pretrained`` loads this GGUF file as a dense model."""
    config_class = getattr(transformers, "GgufConfig", None)  # older versions know nothing but dense models
    if config_class is not None:
        arguments = {"quantization_config": config_class(dequantize=True), **arguments}
    return {**arguments, "gguf_file": file}


def quantization_method(config) -> str | None:
    """How the model of this configuration is quantised: ``"bitsandbytes"``, ``"gptq"``, ...; None if it is not."""
    given = getattr(config, "quantization_config", None)
    method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
    return getattr(method, "value", method)


def from_gguf(config) -> bool:
    """Whether the model of this configuration was read from a GGUF file: a dense model of rounded numbers."""
    return quantization_method(config) == "gguf" or str(getattr(config, "_name_or_path", "")).lower().endswith(".gguf")


def base_name(base) -> str | None:
    """Where a loaded model says it came from, the GGUF file included where it says which."""
    name = getattr(base, "name_or_path", None) or None
    file = getattr(getattr(base.config, "quantization_config", None), "gguf_file", None)
    return str(Path(name) / file) if name and file and not name.endswith(".gguf") else name


def keep_trainable(language_model) -> None:
    """Have 4-bit layers of bitsandbytes compute on a CPU in the way that has a backward.

    On a CPU with AVX512-BF16 a ``Linear4bit`` that is used without gradients (for an answer, for an evaluation between
    two steps) packs its weights anew for a kernel without a backward, and keeps them so: from then on gradients are
    silently zero or wrong, and its scales are rounded.
    """
    for module in language_model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                module.state_dict()  # which packs them back


def check_can_save(language_model) -> None:
    """Packed weights belong to the library that packed them: refuse to write them into a checkpoint of ours.

    Raises:
        ValueError: the language model is quantised.
    """
    method = quantization_method(language_model.config)
    if method not in (None, "gguf"):
        raise ValueError(
            f"the language model is quantised ({method}), and its weights cannot be saved with the adapter: save the "
            "adapter alone (save_base=False, with config.text_model_name_or_path naming the language model)"
        )
