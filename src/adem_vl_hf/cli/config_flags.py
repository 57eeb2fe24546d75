"""The fields of the models' configurations as flags of the command line: ``--media-tokens 4`` sets ``media_tokens``.

The flags are made from the configurations' source: a new field has its flag.
"""

import argparse
from typing import Any

from ..papers import PAPERS
from .arguments import key_value, true_or_false
from .config_source import Field, read_fields

# the fields without a flag, each with its reason
NO_FLAG = {
    "text_config": "the language model brings it",
    "vision_config": "the vision tower brings it",
    "text_model_name_or_path": "--language-model",
    "text_model_revision": "--language-model-revision",
    "text_model_subfolder": "--language-model-subfolder",
    "text_model_fingerprint": "computed when the model is built",
    "vision_model_name_or_path": "--vision-tower",
    "vision_model_revision": "--vision-tower-revision",
    "vision_model_subfolder": "--vision-tower-subfolder",
    "vision_model_fingerprint": "computed when the model is built",
}
# type of a field -> how argparse reads its flag
READING: dict[str, dict[str, Any]] = {
    "int": {"type": int, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
    "str": {},
    "bool": {"type": true_or_false, "metavar": "true|false"},
    "list[int]": {"type": int, "metavar": "N", "nargs": "+"},
    "dict[str, Any]": {"type": key_value, "metavar": "KEY=VALUE", "nargs": "+"},
}


def flag_fields(model: str) -> dict[str, Field]:
    """Return the fields of a model's configuration that have a flag.

    Args:
        model (str): The model type.

    Returns:
        The fields by name.
    """
    return {name: field for name, field in {**read_fields("base"), **read_fields(model)}.items() if name not in NO_FLAG}


def add_config_flags(parser: argparse.ArgumentParser, models: tuple[str, ...] = tuple(PAPERS)) -> None:
    """Add a group of flags for what all models have in common, and one for each model.

    Args:
        parser (argparse.ArgumentParser): The parser of the command.
        models (tuple[str, ...]): The types of the models that the command makes.
    """
    common = set.intersection(*(set(flag_fields(model)) for model in PAPERS))
    group = parser.add_argument_group("model")
    for name in flag_fields(models[0]):
        if name in common:
            _add_flag(group, name, {model: flag_fields(model)[name] for model in models})
    for model in models:
        group = parser.add_argument_group(PAPERS[model].name)
        for name, field in flag_fields(model).items():
            if name not in common:
                _add_flag(group, name, {model: field})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(field: Field) -> str:
    """The first type of the annotation: ``list[int]`` of ``list[int] | int | None``."""
    return field.type.split(" | ")[0]


def _add_flag(group: argparse._ArgumentGroup, name: str, fields: dict[str, Field]) -> None:
    """Add one flag for a field that one or several models have, which may differ in its type and meaning."""
    kinds = {_kind(field) for field in fields.values()}
    kind = "list[int]" if "list[int]" in kinds else kinds.pop()
    texts = {model: _help(field) for model, field in fields.items()}
    if len(set(texts.values())) == 1:
        (text,) = set(texts.values())
    else:
        text = "; ".join(f"{PAPERS[model].name}: {text}" for model, text in texts.items())
    (choices,) = {field.choices for field in fields.values()}
    group.add_argument(_flag(name), dest=name, default=None, choices=choices, help=text, **READING[kind])


def _help(field: Field) -> str:
    text = field.text.replace("``", "").replace("%", "%%").removesuffix(".")
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return text if default is None else f"{text} (default: {default})"


def config_fields(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """Return the fields that the flags set.

    Args:
        args (argparse.Namespace): The parsed arguments.
        model (str): The type of the model.

    Returns:
        Keyword arguments for its configuration.

    Raises:
        ValueError: A flag belongs to another model, or has several values where the model takes one.
    """
    own = flag_fields(model)
    given = {}
    for other in PAPERS:
        for name in flag_fields(other):
            value = getattr(args, name, None)
            if value is None:
                continue
            if name not in own:
                raise ValueError(f"{_flag(name)} belongs to {PAPERS[other].name}; --model is {model}")
            given[name] = dict(value) if _kind(own[name]).startswith("dict") else value
            if isinstance(value, list) and _kind(own[name]) == "int":
                if len(value) > 1:
                    raise ValueError(f"{_flag(name)}: {PAPERS[model].name} takes one, not {len(value)}")
                given[name] = value[0]
    return given
