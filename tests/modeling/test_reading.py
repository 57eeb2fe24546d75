"""Errors about files name the file; errors about the caller or the machine stay as they are."""

import pytest

from adem_vl_hf.modeling.reading import errors_naming

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("You are using `from_pretrained` with a meta device context manager"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("no memory"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_about_the_file_passes(error):
    with pytest.raises(type(error)) as raised, errors_naming("model.safetensors"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [RuntimeError("bad magic"), KeyError("x"), RecursionError(), TypeError("float")])
def test_what_is_about_the_file_names_it(error):
    with pytest.raises(ValueError, match=r"^model\.safetensors cannot be used \("), errors_naming("model.safetensors"):
        raise error
