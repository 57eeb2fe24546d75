"""Completes and checks the field ``lora`` of a configuration: fields of ``peft.LoraConfig``."""

import math
import re
import warnings
from typing import Any

from .field_values import check_range, check_types, shown

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the parser of regular expressions has an underscore since Python 3.11
    try:
        from re import _constants as sre  # type: ignore[attr-defined]
        from re import _parser as sre_parse  # type: ignore[attr-defined]
    except ImportError:
        import sre_constants as sre  # type: ignore[no-redef]
        import sre_parse  # type: ignore[no-redef]

# fields of peft.LoraConfig; those left out change the frozen base, or train parts of it whole
LORA_DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False, "target_modules": None}
NAMES = str | list[str] | None
LORA_TYPES: dict[str, Any] = {
    "r": int,
    "lora_alpha": float,
    "lora_dropout": float,
    "use_rslora": bool,
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "layers_to_transform": int | list[int] | None,
    "layers_pattern": NAMES,
    "rank_pattern": dict[str, int] | None,
    "alpha_pattern": dict[str, float] | None,
}
# "q_proj,v_proj", as one writes it on a command line: a list, since no layer has a comma in its name
NAMES_AND_COMMAS = re.compile(r"[\w.]+(\s*,\s*[\w.]+)+")
MOST = 2**16  # of the rank and of alpha
WAYS_OF_A_REPEAT = 6  # names of layers have some 60 characters, 2 ** 6
MOST_WAYS = 20
REPEATS = tuple(getattr(sre, name) for name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") if hasattr(sre, name))


def complete_lora(lora: dict | None) -> dict | None:
    """Complete the field ``lora`` with PEFT's present defaults.

    Args:
        lora (dict | None): fields of ``peft.LoraConfig``; None = no LoRA.

    Returns:
        The complete fields as JSON holds them, or None.

    Raises:
        ValueError: naming the field that is unknown or out of its range.
    """
    if lora is None:
        return None
    if not isinstance(lora, dict):
        raise ValueError(
            f"lora is {shown(lora)}; give a dict of fields of peft.LoraConfig, such as {{'r': 8}}, or None"
        )
    unknown = [name for name in lora if name not in LORA_TYPES]
    if unknown:
        raise ValueError(
            f"lora: the field {shown(unknown[0])} is not one of {', '.join(LORA_TYPES)}; "
            "for everything else that PEFT can do, use peft.get_peft_model on the model"
        )
    done: dict[str, Any] = {
        name: sorted(value) if isinstance(value, (set, tuple)) else value
        for name, value in {**LORA_DEFAULTS, **lora}.items()
    }
    check_types(LORA_TYPES, done, "lora: ")
    r, alpha, dropout = done["r"], done["lora_alpha"], done["lora_dropout"]
    for name, is_in_range, rule in (
        ("r", r >= 1, "an integer of at least 1"),
        ("lora_alpha", alpha > 0, "a number above 0"),
        ("lora_dropout", 0 <= dropout < 1, "a number from 0 to below 1"),
    ):
        if not is_in_range:
            raise ValueError(f"lora: {name} is {done[name]!r}; it must be {rule}")
    limit = f"MOST in {__name__}"
    for name, value in (("r", r), ("lora_alpha", alpha)):
        check_range(f"lora: {name}", value, (0, MOST), limit)
    for name, least in (("rank_pattern", 1), ("alpha_pattern", 0)):
        check_range(f"lora: {name}", list((done.get(name) or {}).values()), (least, MOST), limit)
    for name in ("target_modules", "exclude_modules"):
        value = done.get(name)
        if isinstance(value, str) and NAMES_AND_COMMAS.fullmatch(value):
            done[name] = [part.strip() for part in value.split(",")]
        elif isinstance(value, str):  # a list has names, which are compared as they stand
            _check_pattern(name, value)
    layers = done.get("layers_pattern")
    for name, patterns in (
        ("layers_pattern", [layers] if isinstance(layers, str) else layers or []),
        ("rank_pattern", done.get("rank_pattern") or {}),
        ("alpha_pattern", done.get("alpha_pattern") or {}),
    ):
        for pattern in patterns:
            _check_pattern(name, pattern)
    return done


def _check_pattern(name: str, pattern: str) -> None:
    """Refuse a regular expression that is none, or that may try for years on the name of one layer.

    The time grows exponentially with the length of the name where a part that is repeated has several ways to match
    (``(a+)+``, ``(a|aa)*``), and with a power of the length where many parts are of any length.
    """
    where = f"lora: {name} is {shown(pattern)}"
    try:
        tree = sre_parse.parse(pattern)
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{where}; it must be a regular expression ({error}), or a list of names") from error
    if len(pattern) > 2000 or _ways(tree, False) > MOST_WAYS:
        raise ValueError(
            f"{where}, which may take for ever on the name of a layer: repeat no part that holds another repeat or "
            "alternatives, and not more than three parts, or give a list of names"
        )


def _ways(tree: Any, is_repeated: bool) -> float:
    """Estimate in how many ways a pattern may try a name, as a power of two; infinite where they multiply."""
    found = 0.0
    for operation, arguments in tree:
        varies = operation in REPEATS and arguments[0] != arguments[1]
        if is_repeated and (varies or operation in (sre.BRANCH, sre.GROUPREF)):
            return math.inf
        if varies:
            found += 1 if arguments[1] == 1 else WAYS_OF_A_REPEAT
        again = is_repeated or (operation in REPEATS and arguments[1] > 1)
        if operation is sre.BRANCH:
            found += math.log2(len(arguments[1])) + max(_ways(one, again) for one in arguments[1])
            continue
        for part in arguments if isinstance(arguments, tuple) else [arguments]:
            if isinstance(part, sre_parse.SubPattern):
                found += _ways(part, again)
    return found
