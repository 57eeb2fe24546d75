"""Values and names in the files of a checkpoint that are refused in a message of a few lines."""

import json

import architectures
import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.core


@architectures.each()
@pytest.mark.parametrize("prompt", [5, ["a picture of"], "\ud83d"])
def test_a_prompt_that_is_no_text(bases, arch, tmp_path, prompt):
    arch.processor(bases, arch.build(bases)).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompt": prompt}))
    with pytest.raises(ValueError, match=r"processor_config\.json: prompt is .*; it must be a text or null"):
        arch.processor_class.from_pretrained(tmp_path)


@architectures.each()
def test_the_name_of_a_tensor_is_cut(bases, arch, tmp_path):
    arch.build(bases).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for tensor, reason in ((torch.zeros(1), "unexpected adapter.x"), (torch.zeros(1, dtype=torch.int8), "type I8")):
        save_file(tensors | {"adapter." + "x" * 1_000_000: tensor}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=reason) as caught:
            arch.model_class.from_pretrained(tmp_path)
        assert str(file) in str(caught.value)
        assert len(str(caught.value)) < 1000
