"""Which names a configuration and the loaders know, and the error for a name that none of them knows.

Nothing that a user gives is dropped in silence: a name is used, or it is refused together with the nearest name or the
remedy. What Transformers itself takes is read from its signatures where it has them.

This file imports nothing of the bundle: Transformers 4.57 fetches what a configuration imports, and no further step.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

try:
    from transformers import PreTrainedConfig
except ImportError:  # the name before Transformers 5
    from transformers import PretrainedConfig as PreTrainedConfig

# how files are fetched from the Hub; never a part of a configuration
FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
HUB_ARGUMENTS = (*FETCHING, "revision", "subfolder")
# the same for one base alone: text_model_token, vision_model_subfolder, ...
FETCHING_OF_A_BASE = tuple(f"{base}_{name}" for base in ("text_model", "vision_model") for name in FETCHING)
HUB_ARGUMENTS_OF_A_BASE = tuple(f"{base}_{name}" for base in ("text_model", "vision_model") for name in HUB_ARGUMENTS)
# how the language model is loaded; never a part of a configuration either
PLACEMENT = ("device_map", "max_memory", "offload_folder", "offload_buffers", "quantization_config")
BASE_ARGUMENTS = ("dtype", "torch_dtype", *PLACEMENT)
OF_BASES = ("language_model", "vision_tower", "text_model_kwargs", "vision_model_kwargs")
# arguments of the Auto classes and pipelines that change nothing about an adapter-only checkpoint; but
# use_safetensors=False is refused
IGNORED_ARGUMENTS = (
    "_from_auto", "_from_pipeline", "_commit_hash", "trust_remote_code", "adapter_kwargs", "use_safetensors",
    "weights_only", "low_cpu_mem_usage", "disable_mmap", "resume_download",
)  # fmt: skip
# what Transformers' ``from_pretrained`` of models takes besides its signature, in one version or another
KEYWORDS_OF_FROM_PRETRAINED = (
    *HUB_ARGUMENTS, *BASE_ARGUMENTS, *IGNORED_ARGUMENTS, "state_dict", "output_loading_info", "generation_config",
    "attn_implementation", "experts_implementation", "variant", "adapter_name", "gguf_file", "distributed_config",
    "device_mesh", "tp_plan", "tp_size", "use_kernels", "kernel_config", "allow_all_kernels", "key_mapping",
    "tqdm_class", "offload_state_dict",
)  # fmt: skip
# what Transformers keeps in a configuration besides the signature of its class
FIELDS_IN_NO_SIGNATURE = (
    "model_type", "name_or_path", "attn_implementation", "experts_implementation", "auto_map", "custom_pipelines",
    "quantization_config", "distributed_config", "fusion_config", "per_layer_config", "tie_last_hidden_states",
    "transformers_version", "transformers_weights", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id",
)  # fmt: skip
# what its version 4 had there
FIELDS_OF_VERSION_4 = (
    "add_cross_attention", "cross_attention_hidden_size", "finetuning_task", "gradient_checkpointing", "is_decoder",
    "prefix", "pruned_heads", "return_legacy_cache", "sep_token_id", "task_specific_params", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "torchscript", "use_bfloat16",
)  # fmt: skip
# names that other libraries, or older versions, have for something that is spelt differently here
REMEDIES = {
    "load_in_4bit": "give quantization_config=BitsAndBytesConfig(load_in_4bit=True)",
    "load_in_8bit": "give quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
    "device": "give device_map='cuda' (or another device), or move the model with .to(device)",
    "use_flash_attention_2": "give attn_implementation='flash_attention_2'",
    "use_auth_token": "give token=...",
}


class ArgumentError(TypeError):
    """Says that a call has an argument that is unknown, or of no use. The message names it."""


def named_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments of a function that have a name of their own.

    Args:
        function (Callable[..., Any]): the function, or a bound method.

    Returns:
        The names in the order of the signature.
    """
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(name for name, one in inspect.signature(function).parameters.items() if one.kind not in kinds)


@cache
def library_fields() -> frozenset[str]:
    """The fields that Transformers itself knows in every configuration."""
    members = inspect.getmembers(PreTrainedConfig)
    settable = {name for name, member in members if isinstance(member, property) and member.fset is not None}
    names = {*named_parameters(PreTrainedConfig.__init__), *settable}
    return frozenset(names - {"self"} | {*FIELDS_IN_NO_SIGNATURE, *FIELDS_OF_VERSION_4})


@cache
def generation_fields() -> frozenset[str]:
    """The settings of ``generate``, which configurations of older versions hold too."""
    return frozenset(GenerationConfig().to_dict()) - library_fields()


@cache
def loading_arguments() -> frozenset[str]:
    """The arguments of Transformers' ``from_pretrained`` of models."""
    return frozenset(named_parameters(PreTrainedModel.from_pretrained)) | {*KEYWORDS_OF_FROM_PRETRAINED}


def take(names: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """Take arguments out of a dictionary.

    Args:
        names (Iterable[str]): the names to take.
        given (dict[str, Any]): where they are taken out.

    Returns:
        Those that were there and are not None.
    """
    return {name: value for name in names if (value := given.pop(name, None)) is not None}


def all_hub_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the Hub arguments, for both bases and for one alone, from among others.

    Args:
        given (Mapping[str, Any]): the arguments of a loader, which stay as they are.

    Returns:
        Those that say how files are fetched.
    """
    return {name: value for name, value in given.items() if name in (*HUB_ARGUMENTS, *HUB_ARGUMENTS_OF_A_BASE)}


def recorded_place(base: str, config: Any) -> dict[str, Any]:
    """Read where a base lies in its folder or repository from the configuration of a model.

    Args:
        base (str): ``"text_model"`` or ``"vision_model"``.
        config (Any): the configuration.

    Returns:
        ``revision`` and ``subfolder``, each where it is recorded.
    """
    places = {name: getattr(config, f"{base}_{name}", None) for name in ("revision", "subfolder")}
    return {name: place for name, place in places.items() if place}


def hub_arguments_of(base: str, given: Mapping[str, Any], names: Iterable[str] = HUB_ARGUMENTS) -> dict[str, Any]:
    """The Hub arguments for one of the two bases.

    Args:
        base (str): ``"text_model"`` or ``"vision_model"``.
        given (Mapping[str, Any]): arguments for both bases (``token``) and for this one alone (``text_model_token``),
            which count more.
        names (Iterable[str]): which of the arguments to look for.

    Returns:
        The arguments under the names that ``from_pretrained`` has for them.
    """
    found = {}
    for name in names:
        own = given.get(f"{base}_{name}")
        value = given.get(name) if own is None else own
        if value is not None:
            found[name] = value
    return found


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the known name that an unknown one is most like.

    Args:
        name (str): the unknown name.
        known (Iterable[str]): the names that there are.
        cutoff (float): how similar it has to be, from 0 to 1.

    Returns:
        The name; None where none is so similar.
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def hint(name: str, known: Iterable[str], remedies: Mapping[str, str] = REMEDIES, cutoff: float = 0.6) -> str | None:
    """What to write in place of an unknown name.

    Args:
        name (str): the unknown name.
        known (Iterable[str]): the names that there are.
        remedies (Mapping[str, str]): what to do about some names.
        cutoff (float): how similar the nearest name has to be, from 0 to 1.

    Returns:
        The remedy, or the nearest name; None where there is neither.
    """
    if name in remedies:
        return remedies[name]
    near = nearest(name, known, cutoff)
    return None if near is None else f"did you mean {near!r}?"


def refuse_unknown(
    where: str, given: Iterable[str], known: Collection[str], remedies: Mapping[str, str] | None = None
) -> None:
    """Check the names that were given.

    Args:
        where (str): whose names they are, for the error.
        given (Iterable[str]): the names.
        known (Collection[str]): the names that there are.
        remedies (Mapping[str, str] | None): what to do about names that are known to be taken for others, besides
            ``REMEDIES``.

    Raises:
        TypeError: for the first name that is not known, with the nearest one or the remedy.
    """
    for name in given:
        if name not in known:
            advice = hint(name, sorted(known), {**REMEDIES, **(remedies or {})})
            raise ArgumentError(f"{where} does not know {name!r}" + (f"; {advice}" if advice else ""))


def check_fresh(where: str, config_class: Any, arguments: Iterable[str], given: Iterable[str]) -> None:
    """Refuse what ``from_base_pretrained`` has no use for, before anything is loaded.

    Args:
        where (str): the loader, for the error.
        config_class (Any): the model's class of configuration.
        arguments (Iterable[str]): the loader's named arguments.
        given (Iterable[str]): the names besides these.

    Raises:
        TypeError: for the first name that is neither an argument nor a field, with the nearest one or the remedy.
    """
    of_bases = {name for name in config_class.field_names if name.startswith(("text_", "vision_model_", "vision_conf"))}
    fields = {*config_class.field_names, *library_fields(), "torch_dtype"} - of_bases
    known = {*arguments, *fields, *HUB_ARGUMENTS_OF_A_BASE}
    if unknown := [name for name in given if name not in known]:
        remedies = config_class.remedies() | dict.fromkeys(of_bases, "it follows from the bases that are given")
        for name in loading_arguments() - fields:
            remedies[name] = (
                f"give it to the base it is for: text_model_kwargs={{{name!r}: ...}} or vision_model_kwargs"
            )
        refuse_unknown(where, unknown, known, remedies)


def check_leftovers(where: str, config_class: Any, left: Iterable[str], config: Any) -> None:
    """Refuse what was given to ``from_pretrained`` and is neither an argument nor a field to override.

    Args:
        where (str): the loader, for the error.
        config_class (Any): the model's class of configuration.
        left (Iterable[str]): the names that no field of the configuration took.
        config (Any): the configuration where it was given, else None.

    Raises:
        TypeError: for the first name, with the nearest one or the remedy.
    """
    for name in left:
        near = {*config_class.field_names, *OF_BASES, *FETCHING_OF_A_BASE} - {name}
        remedies = config_class.remedies()
        if config is not None:
            says_otherwise = "the configuration that is given says otherwise: change the field there"
            remedies |= dict.fromkeys({*config_class.field_names, *library_fields()}, says_otherwise)
        refuse_unknown(where, [name], near, remedies)


def check_use(checkpoint: str, model_args: tuple, loading: Mapping[str, Any]) -> None:
    """Refuse arguments of Transformers' ``from_pretrained`` that an adapter-only checkpoint cannot follow.

    Args:
        checkpoint (str): the checkpoint, for the error.
        model_args (tuple): positional arguments for the model's constructor.
        loading (Mapping[str, Any]): arguments of Transformers' ``from_pretrained``.

    Raises:
        TypeError: for the first one.
    """
    if model_args:
        raise ArgumentError(
            f"{checkpoint} holds the adapter alone; give loaded bases by name (language_model=..., vision_tower=...)"
        )
    if loading.get("use_safetensors") is False:
        raise ArgumentError(f"use_safetensors=False: the weights of {checkpoint} are read from safetensors alone")
    used = {*HUB_ARGUMENTS, *BASE_ARGUMENTS, *IGNORED_ARGUMENTS}
    used |= {"attn_implementation", "generation_config", "output_loading_info"}
    for name, value in loading.items():
        if name not in used and value not in (None, False):
            raise ArgumentError(
                f"{checkpoint} holds the adapter alone, which has no use for {name}; what is meant for a base goes "
                "into text_model_kwargs or vision_model_kwargs"
            )


def check_loaded(kind: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that say how a base is loaded where a loaded one is given.

    Args:
        kind (str): which base, for the error.
        arguments (Mapping[str, Any]): the arguments that were given.

    Raises:
        TypeError: naming the first one.
    """
    if arguments:
        raise ArgumentError(
            f"{next(iter(arguments))} says how a {kind} is loaded, and a loaded one is given: leave it out"
        )


def one_dtype(given: Mapping[str, Any]) -> torch.dtype | str | None:
    """The dtype that was asked for, under its present name or as ``torch_dtype``, which means the same.

    Args:
        given (Mapping[str, Any]): arguments, perhaps with either name or both.

    Returns:
        The dtype, or None where none was given.

    Raises:
        TypeError: the two say different things, or one is no floating-point dtype.
    """
    dtype, older = given.get("dtype"), given.get("torch_dtype")
    for one in (dtype, older):
        if one is not None and not _is_dtype(one):
            raise ArgumentError(
                f"dtype={one!r} is no floating-point dtype; give torch.float32, torch.bfloat16 or torch.float16, one "
                "of their names, or 'auto'"
            )
    if dtype is None or older is None:
        return older if dtype is None else dtype
    if str(dtype).removeprefix("torch.") != str(older).removeprefix("torch."):
        raise ArgumentError(f"dtype={dtype} and torch_dtype={older} are two names of one argument; give dtype alone")
    return dtype


def _is_dtype(given: Any) -> bool:
    found = getattr(torch, given, None) if isinstance(given, str) else given
    return given == "auto" or (isinstance(found, torch.dtype) and found.is_floating_point)
