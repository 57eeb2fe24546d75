"""Reads the fields of the models' configurations from their source, for the command line.

Importing a configuration imports Transformers, which takes seconds. The source says as much in milliseconds: the
constructor's signature has the fields with their types and defaults, the docstring of the class has their meanings, and
the attribute ``choices`` has the values of those that take one of a few.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .. import modeling

# an argument of a docstring in Google's style, after the indentation of the docstring itself has been removed
ENTRY = re.compile(r"^    (\w+) \(.*?\): (.+(?:\n {5,}.+)*)", re.MULTILINE)


class Field(NamedTuple):
    """A field of a configuration.

    Args:
        type (str): The annotation in the signature.
        default (Any): The default.
        text (str): What the docstring of the class says about it.
        choices (tuple[str, ...] | None): The values that it can take. None means any of its type.
    """

    type: str
    default: Any
    text: str
    choices: tuple[str, ...] | None


@cache
def read_fields(name: str) -> dict[str, Field]:
    """Read the fields that a configuration adds to those of its base class.

    Args:
        name (str): The end of the name of its file: "base", or the type of a model.

    Returns:
        The fields by name, in the order of the signature.
    """
    file = Path(modeling.__path__[0]) / f"configuration_{name}.py"
    module = ast.parse(file.read_text(encoding="utf-8"))
    (config,) = (node for node in module.body if isinstance(node, ast.ClassDef))
    texts = dict(ENTRY.findall(ast.get_docstring(config) or ""))
    choices = _choices(module, config)
    (constructor,) = (node for node in config.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = constructor.args.args[1:]  # without self
    return {
        argument.arg: Field(
            ast.unparse(argument.annotation) if argument.annotation else "",
            ast.literal_eval(default),
            " ".join(texts.get(argument.arg, "").split()),
            choices.get(argument.arg),
        )
        for argument, default in zip(arguments, constructor.args.defaults, strict=True)
    }


def _choices(module: ast.Module, config: ast.ClassDef) -> dict[str, tuple[str, ...]]:
    """Return the values of each field that ``choices`` lists. It refers to tuples of the module by their names."""
    tuples = {
        target.id: ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Name) and all(isinstance(value, ast.Constant) for value in node.value.elts)
    }
    (listed,) = (
        node.value
        for node in config.body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "choices"
        and isinstance(node.value, ast.Dict)
    )
    return {
        ast.literal_eval(name): tuples[ast.unparse(values)]
        for name, values in zip(listed.keys, listed.values, strict=True)
        if name is not None  # what another dictionary adds
    }
