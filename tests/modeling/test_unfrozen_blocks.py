"""Blocks of the tower that train: saved with the adapter, and found again."""

import evlm
import pytest
import torch
from closeness import assert_close, assert_equal
from safetensors.torch import load_file

from adem_vl_hf import EvlmForConditionalGeneration

pytestmark = [pytest.mark.core, pytest.mark.kernels]


def test_they_train_and_nothing_else_of_the_bases(bases):
    model = evlm.build(bases, train_vision_blocks=1, dtype=torch.bfloat16).train()
    assert model.vision_tower.dtype == torch.float32
    model(**evlm.batch()).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("adapter.")}
    assert trained
    assert all("layers.2." in name for name in trained)  # the last of three
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained or name.startswith("adapter."))


@torch.no_grad()
def test_a_checkpoint_holds_them_under_names_of_its_own(bases, tmp_path):
    model = evlm.build(bases, train_vision_blocks=2)
    for block in model.unfrozen_vision_blocks().values():
        for parameter in block.parameters():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    names = {name.split(".")[2] for name in saved if name.startswith("adapter.vision_blocks.")}
    assert names == {"1", "2"}
    assert all(name.startswith("adapter.") for name in saved)
    again = EvlmForConditionalGeneration.from_pretrained(tmp_path)
    assert_equal(again.state_dict(), model.state_dict())
    inputs = evlm.batch()
    assert_close(again(**inputs).logits, model(**inputs).logits)
    frozen = evlm.build(bases)
    assert (frozen(**inputs).logits - model(**inputs).logits).abs().max() > 1e-2


@pytest.mark.filterwarnings("error")
def test_a_trained_adapter_goes_on_with_blocks_of_the_tower(bases, tmp_path):
    """The paper's stages: the cross-attention first, then the tower's last blocks with it."""
    inputs = evlm.batch()
    evlm.build(bases).save_pretrained(tmp_path / "first")
    model = EvlmForConditionalGeneration.from_pretrained(tmp_path / "first", dtype=torch.bfloat16)
    model.unfreeze_vision_blocks(1).train()
    assert model.vision_tower.dtype == torch.float32
    trained = [p for name, p in model.named_parameters() if p.requires_grad and "layers.2." in name]
    model(**inputs).loss.backward()
    with torch.no_grad():
        for parameter in trained:
            parameter -= parameter.grad / parameter.grad.abs().max()
    assert trained
    model.eval().save_pretrained(tmp_path / "second")
    assert all(name.startswith("adapter.") for name in load_file(tmp_path / "second" / "model.safetensors"))
    again = EvlmForConditionalGeneration.from_pretrained(tmp_path / "second", dtype=torch.bfloat16)
    assert again.config.train_vision_blocks == 1
    assert_equal(again.state_dict(), model.state_dict())
    with torch.no_grad():
        assert_close(again(**inputs).logits, model(**inputs).logits)
    for number, message in ((0, "0 blocks are fewer than the 1 that train"), (4, "more than the tower's 3 blocks")):
        with pytest.raises(ValueError, match=message):
            again.unfreeze_vision_blocks(number)
    assert again.config.train_vision_blocks == 1
