"""Blocks of the tower that train: saved with the adapter, and found again."""

import evlm
import torch
from safetensors.torch import load_file

from adem_vl_hf import EvlmForConditionalGeneration


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
    inputs = evlm.batch()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    frozen = evlm.build(bases)
    assert not torch.equal(frozen(**inputs).logits, model(**inputs).logits)
