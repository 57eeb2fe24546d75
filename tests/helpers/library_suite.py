"""Transformers' own test-suites, as modules that can be imported.

`make test-slow` fetches them from the source distribution of the pinned Transformers (``.venv/transformers-tests``). It
holds the suites of models and processors; those of generation and export are in the repository alone, and run too
where this folder is a copy of its ``tests/``.
"""

import importlib
import sys
import types
from pathlib import Path

import pytest
import transformers

SUITE = Path(sys.prefix) / "transformers-tests" / "tests"
SOURCE = SUITE.parent / f"transformers-{transformers.__version__}.tar.gz"
PACKAGE = "transformers_tests"
# what is empty in the place of what
IN_THE_REPOSITORY_ALONE = {
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {"output_hidden_states": True, "return_dict": False}},
}


def suite(name: str):
    """A module of the suites; the module that asks for it is skipped where those of this version were not fetched."""
    if not SOURCE.is_file():
        pytest.skip("make test-slow fetches the tests of the newest Transformers", allow_module_level=True)
    if PACKAGE not in sys.modules:
        _open()
    return importlib.import_module(f"{PACKAGE}.{name}")


def _open() -> None:
    """Make the folder a package; an empty class stands where the source distribution lacks a module."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(SUITE)]
    sys.modules[PACKAGE] = package
    for name, contents in IN_THE_REPOSITORY_ALONE.items():
        if not (SUITE / f"{name.replace('.', '/')}.py").is_file():
            folder = f"{PACKAGE}.{name.partition('.')[0]}"
            sys.modules.setdefault(folder, types.ModuleType(folder))
            module = types.ModuleType(f"{PACKAGE}.{name}")
            vars(module).update(contents)
            sys.modules[f"{PACKAGE}.{name}"] = module
    # a script of the repository: it answers with the file that stands for a picture of the network
    names = types.ModuleType("fetch_hub_objects_for_ci")
    vars(names)["url_to_local_path"] = lambda url: str(
        Path(__file__).parent.parent / "fixtures" / "suite" / Path(url).name
    )
    sys.modules[names.__name__] = names
