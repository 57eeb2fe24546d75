"""Checks the values of a configuration's fields, so that a wrong one is refused by its name where it enters.

Types follow from the annotations of the constructor, and ranges from a table of the class (``ranges``). A
``config.json`` may come from anywhere: a text in the place of a number, NaN, or a billion layers must neither compute
nonsense nor take the memory of the machine.
"""

import math
import re
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

Range = tuple[float, float]

WIDTH: Range = (1, 2**20)
# of the frozen parts' own configurations: patterns of the names of sizes, and what such a size may be
SIZES: dict[str, Range] = {
    r"num_(hidden_|decoder_)?layers|n_layers?|depth": (1, 512),
    r"(num|n)_\w*experts\w*": (0, 2**16),
    r"(num|n)_\w*(heads|groups|channels|register_tokens)\w*": (0, 4096),
    r"shared_intermediate_size": (0, 2**20),  # 0 = there is none
    r"hidden_size|\w*intermediate_size|head_dim|projection_dim|patch_size|image_size|n_embd|d_model|ffn_dim": WIDTH,
    r"vocab_size|max_position_embeddings|n_positions": (1, 2**26),
    r"num_labels": (0, 2**20),
}
# what each of the two has to have
NEEDED = {
    "text_config": ("hidden_size", "num_hidden_layers", "vocab_size"),
    "vision_config": ("hidden_size", "num_hidden_layers", "image_size", "patch_size"),
}
FINGERPRINT: dict[str, Any] = {"config": str, "tensors": dict[str, list[float]], "gguf": bool}
# settings of generate that a model is called with before anybody looks at them
NUMBERS, COUNTS = float | None, int | None
GENERATION: dict[str, Any] = {
    **dict.fromkeys(("do_sample", "use_cache", "output_attentions", "output_hidden_states"), bool | None),
    **dict.fromkeys(("output_scores", "output_logits", "return_dict_in_generate", "renormalize_logits"), bool | None),
    "early_stopping": bool | str | None,
    **dict.fromkeys(("max_new_tokens", "max_length", "min_length", "min_new_tokens", "num_beams", "top_k"), COUNTS),
    **dict.fromkeys(("num_return_sequences", "num_beam_groups", "no_repeat_ngram_size"), COUNTS),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty", "typical_p"), NUMBERS),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "decoder_start_token_id"), COUNTS),
    "eos_token_id": int | list[int] | None,
    "max_time": NUMBERS,
    "cache_implementation": str | None,
    "bad_words_ids": list[list[int]] | None,
    "suppress_tokens": list[int] | None,
    "begin_suppress_tokens": list[int] | None,
    "stop_strings": str | list[str] | None,
}
WORDS = {
    int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", type(None): "null",
    dict: "an object in curly brackets",
}  # fmt: skip


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of the type that an annotation asks for.

    A truth value is no number, NaN and infinity are none either, and half of a surrogate pair is no text.

    Args:
        value (Any): The value.
        hint (Any): The annotation: a class, ``list[...]``, ``dict[..., ...]``, a union of these, or ``Any``.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, (list, tuple)) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        of_name, of_value = inner
        return isinstance(value, Mapping) and all(fits(n, of_name) and fits(v, of_value) for n, v in value.items())
    if hint is Any:
        return True
    if hint is str:
        return isinstance(value, str) and not has_lone_surrogate(value)
    if hint in (int, float):
        if not isinstance(value, (int, hint)) or isinstance(value, bool):
            return False
        try:
            return math.isfinite(value)
        except OverflowError:  # a whole number of more than 308 digits
            return False
    return isinstance(value, hint)


def has_lone_surrogate(text: str) -> bool:
    """Say whether a text has half of a surrogate pair, as of an emoji that was cut; no tokenizer and no file takes it.

    Args:
        text (str): The text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# fields that name the code of attention or of experts, as the library saves and reads them
OF_KERNELS = ("attn_implementation", "attn_implementation_internal", "experts_implementation")


def check_kernels(saved: Mapping[str, Any], where: str) -> None:
    """Refuse a saved configuration that names attention or experts by a repository, whose code would be run.

    Args:
        saved (Mapping[str, Any]): what was saved, of the model and its parts.
        where (str): the file, for the error.

    Raises:
        ValueError: it names a repository.
    """
    for fields in (saved, *(part for part in saved.values() if isinstance(part, Mapping))):
        for name, value in fields.items():
            if str(name).endswith(OF_KERNELS) and "/" in str(value):
                raise ValueError(
                    f"{where}: {name} is {shown(value)}, a repository whose code would be run; remove it, and give "
                    "attn_implementation to from_pretrained if you trust it"
                )


def described(hint: Any) -> str:
    """Say what an annotation asks for.

    Args:
        hint (Any): The annotation, as for ``fits``.

    Returns:
        str: The description in words.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        lists_last = sorted(inner, key=lambda one: get_origin(one) is list)  # else "or null" may be of an entry
        return " or ".join(dict.fromkeys(map(described, lists_last)))
    if origin is list:
        return f"a list, each entry {described(inner[0])}"
    if origin is dict:
        return WORDS[dict] if inner[1] is Any else f"{WORDS[dict]}, each value {described(inner[1])}"
    return WORDS.get(hint) or str(getattr(hint, "__name__", hint))


def shown(value: Any) -> str:
    """Write a value for an error message, in one short line.

    Args:
        value (Any): The value.

    Returns:
        str: Its ``repr``, cut after 80 characters.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; a list inside itself
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_types(hints: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Check that values have the types that annotations ask for.

    Args:
        hints (Mapping[str, Any]): The annotations by name.
        values (Mapping[str, Any]): The values by name. Names without an annotation are passed over.
        prefix (str): Stands before a name in the error.

    Raises:
        ValueError: A value is of another type. The message names the field and what is allowed.
    """
    for name, hint in hints.items():
        if name in values and not fits(values[name], hint):
            raise ValueError(f"{prefix}{name} is {shown(values[name])}; it must be {described(hint)}")


def check_range(name: str, value: Any, allowed: Range, raised_by: str) -> None:
    """Check that a number, or each number of a list, is in its range. Anything else is passed over.

    Args:
        name (str): The name of the field.
        value (Any): Its value.
        allowed (Range): The least and the greatest number.
        raised_by (str): What has to be changed where more is really meant.

    Raises:
        ValueError: A number is out of its range. The message says how to raise the limit.
    """
    least, most = allowed
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, (int, float)) and not least <= one <= most:
            remedy = f" (if more is meant, raise {raised_by})" if one > most else ""
            raise ValueError(f"{name} is {shown(one)}; it must be from {least:,} to {most:,}{remedy}")


def constructor_hints(config_class: Any, base: Any) -> dict[str, Any]:
    """Collect the annotations of all fields of a configuration.

    Args:
        config_class (Any): The class of the configuration.
        base (Any): The class that all such configurations have in common.

    Returns:
        dict[str, Any]: The annotations by field.
    """
    found: dict[str, Any] = {}
    for one in reversed([one for one in config_class.__mro__ if issubclass(one, base)]):
        found |= get_type_hints(one.__init__)
    return {name: hint for name, hint in found.items() if name not in ("return", "kwargs")}


def check_sizes(prefix: str, fields: Mapping[str, Any]) -> None:
    """Check the sizes in the configuration of a frozen part, also those inside other values, before anything is made.

    Args:
        prefix (str): Stands before a name in the error.
        fields (Mapping[str, Any]): The fields by name.

    Raises:
        ValueError: A size is no number, or beyond ``SIZES``.
    """
    for name, value in fields.items():
        if isinstance(value, Mapping):
            check_sizes(f"{prefix}{name}.", value)
            continue
        pattern = next((one for one in SIZES if isinstance(name, str) and re.fullmatch(one, name)), None)
        if pattern is None or value is None:
            continue
        if not fits(value, int | list[int | None]):
            raise ValueError(f"{prefix}{name} is {shown(value)}; it must be a whole number")
        check_range(f"{prefix}{name}", value, SIZES[pattern], f"SIZES[{pattern!r}] in {__name__}")


def check_needed(part: str, config: Any) -> None:
    """Check that the configuration of a frozen part has the sizes that everything else follows from.

    Args:
        part (str): "text_config" or "vision_config".
        config (Any): The configuration.

    Raises:
        ValueError: A size is missing or no number.
    """
    check_sizes(f"{part}.", vars(config))
    for name in NEEDED[part]:
        value = getattr(config, name, None)
        square = int | list[int] if name in ("image_size", "patch_size") else int
        if not fits(value, square) or value == []:
            raise ValueError(f"{part}.{name} is {shown(value)}; it must be a whole number of at least 1")


def check_generation(config: Any) -> None:
    """Check the types of the settings of ``generate`` that a file holds.

    Args:
        config (Any): The ``GenerationConfig``.

    Raises:
        ValueError: A setting is of another type. The message names it.
    """
    check_types(GENERATION, vars(config))


def check_fingerprint(name: str, value: Any) -> None:
    """Check what a configuration recorded of a frozen part.

    Args:
        name (str): The name of the field.
        value (Any): The record, or None.

    Raises:
        ValueError: An entry is missing or of another type.
    """
    if value:
        check_types(FINGERPRINT, value, f"{name}: ")
        if missing := [key for key in ("config", "tensors") if key not in value]:
            raise ValueError(f"{name} has no {missing[0]!r}; it must be what base_fingerprint returns, or null")
