"""``torch.export`` traces a forward pass with the visual memory as an input."""

import pytest
import tiny
import torch
from architectures import BOTH
from closeness import assert_close
from torch import nn

pytestmark = pytest.mark.parametrize("arch", BOTH, ids=str, indirect=True, scope="module")


class Forward(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, memory):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **memory).logits


def inputs_and_memory(model):
    inputs = tiny.batch([6, 6], [True, True])
    memory = dict(model.get_visual_memory(inputs["pixel_values"], inputs["image_mask"]))
    memory.pop("image_hidden_states", None)  # an output of ADEM-VL
    return inputs["input_ids"], inputs["attention_mask"], memory


@torch.no_grad()
@pytest.mark.slow
def test_a_forward_pass_is_exported(model):
    ids, mask, memory = inputs_and_memory(model)
    exported = torch.export.export(Forward(model), (ids, mask, memory), strict=False).module()
    assert_close(exported(ids, mask, memory), Forward(model)(ids, mask, memory))
    _, _, other = inputs_and_memory(model)
    other = {name: value if value is None else value.flip(0) for name, value in other.items()}  # other images
    assert_close(exported(ids, mask, other), Forward(model)(ids, mask, other))
