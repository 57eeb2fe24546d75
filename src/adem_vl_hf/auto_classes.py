"""Registration of this package's classes with the Auto classes of Transformers, without importing Transformers.

Importing Transformers takes seconds, so ``import adem_vl_hf`` leaves that to whoever needs it. The modules of
Transformers that hold the Auto classes' tables get this package's entries as soon as they have been imported, or at
once where they were imported before. In the same way ``Trainer`` gets the callback that checks its arguments.

The entries are names, and a class is imported when it is looked up. It cannot be imported when the entry is made: our
models are built from parts of Transformers (``modeling_layers``) that import the Auto classes themselves.
"""

import sys
from collections import UserDict
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

AUTO_MODULES = tuple(f"transformers.models.auto.{kind}_auto" for kind in ("configuration", "modeling", "processing"))
TRAINER = "transformers.trainer"
CLASSES = {"adem_vl": "AdemVL", "evlm": "Evlm"}  # model type -> what the names of its classes begin with
MODEL_TABLES = (
    "MODEL_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_VISION_2_SEQ_MAPPING",  # before Transformers 5
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",  # since Transformers 5: the pipeline any-to-any looks there
)


class Registered(UserDict):
    """What was registered in a table of Transformers; ``module:Class``, as a key or value, stands for the class."""

    def __contains__(self, key: object) -> bool:
        return self._stored(key) in self.data

    def __getitem__(self, key: Any) -> Any:
        return _resolved(self.data[self._stored(key)])

    def __iter__(self) -> Iterator[Any]:
        return map(_resolved, self.data)

    def _stored(self, key: Any) -> Any:
        """A class itself, where somebody registered it, or else its name."""
        is_class = isinstance(key, type) and key not in self.data
        return f"{key.__module__}:{key.__qualname__}" if is_class else key


def _resolved(entry: Any) -> Any:
    return resolve_name(entry) if isinstance(entry, str) and ":" in entry else entry


def register(auto: ModuleType) -> None:
    """Enter this package's classes in the tables of Transformers that a module holds.

    Args:
        auto (ModuleType): one of ``AUTO_MODULES``.
    """
    for model_type, prefix in CLASSES.items():
        bundle = f"{__package__}.modeling"
        config = f"{bundle}.configuration_{model_type}:{prefix}Config"
        model = f"{bundle}.modeling_{model_type}:{prefix}ForConditionalGeneration"
        entries = {
            "CONFIG_MAPPING": (model_type, config),
            "PROCESSOR_MAPPING": (config, f"{bundle}.processing_{model_type}:{prefix}Processor"),
            **dict.fromkeys(MODEL_TABLES, (config, model)),
        }
        for name, (key, value) in entries.items():
            table = getattr(auto, name, None)
            if table is not None:
                if not isinstance(table._extra_content, Registered):
                    table._extra_content = Registered(table._extra_content)
                table.register(key, value, exist_ok=True)


def model_type_of(model: Any) -> str | None:
    """Tell which of this package's models an object is.

    Args:
        model (Any): A model, or anything else.

    Returns:
        Its ``model_type``, or None if it is none of ours.
    """
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if found in CLASSES else None


def complete_trainer(trainer: ModuleType) -> None:
    """Have every ``Trainer`` of one of our models write our model card, name classes, and refuse what it cannot keep.

    Args:
        trainer (ModuleType): ``transformers.trainer``.
    """
    from .hub.cards import take_over_cards
    from .named_classes import NamesClasses
    from .training_fields import CheckArguments

    take_over_cards(trainer)

    for callback in (CheckArguments, NamesClasses):
        if callback not in trainer.DEFAULT_CALLBACKS:
            trainer.DEFAULT_CALLBACKS.append(callback)


def add_card_to_pushes(base: ModuleType) -> None:
    """Have ``push_to_hub`` of our models write our model card.

    Args:
        base (ModuleType): ``modeling_base`` of the bundle, as this package's module.
    """

    def write_card(folder: str, repo_id: str) -> None:
        from .hub.cards import replace_stock_card

        replace_stock_card(folder, repo_id)

    base.FrozenBasesForConditionalGeneration.card_writer = staticmethod(write_card)


AFTER_IMPORT = {
    **dict.fromkeys(AUTO_MODULES, register),
    TRAINER: complete_trainer,
    f"{__package__}.modeling.modeling_base": add_card_to_pushes,
}


class AfterImport(MetaPathFinder):
    """Finds the modules of ``AFTER_IMPORT`` as Python does, and calls their function after each has been executed."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in AFTER_IMPORT else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                AFTER_IMPORT[name](module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Call the functions of ``AFTER_IMPORT`` for every module that has been imported, and for the others later."""
    if not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())
        for name, function in AFTER_IMPORT.items():
            if name in sys.modules:
                function(import_module(name))  # import_module waits where another thread is importing it
