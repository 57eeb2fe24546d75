"""The published numbers of trained parameters, from the configuration alone; and those that really get a gradient."""

import pytest
import torch
from transformers import LlamaConfig

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration
from adem_vl_hf.counting import count_adapter_parameters, count_as_published

LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
UNUSED = 2 * 1024 * 12  # the authors' adapter beside the tower's last block, on which no feature depends


@pytest.mark.parametrize(
    ("fields", "as_published", "trained"),
    [
        ({}, 4_530_432, 4_505_856),  # 7B: 4.5M
        ({"text_config": LlamaConfig(**LLAMA_13B)}, 5_449_984, 5_425_408),  # 13B: 5.5M
        # the paper's ablation, row by row: 3.4M, 4.0M, 4.5M
        ({"visual_token_counts": [256], "use_cls_token": False}, 3_346_560, 3_321_984),
        ({"visual_token_counts": [256], "use_cls_token": True}, 4_006_144, 3_981_568),
        ({"visual_token_counts": [256, 64], "use_cls_token": True}, 4_530_432, 4_505_856),
        ({"vision_feature_layer": -1}, 4_530_432, 4_530_432),  # features of the last block use its adapter
        ({"vision_adapter_dim": 0}, 4_530_432 - 24 * UNUSED, 4_530_432 - 24 * UNUSED),
    ],
)
def test_published_and_trained(fields, as_published, trained):
    config = AdemVLConfig(**fields)
    assert (count_as_published(config), count_adapter_parameters(config)) == (as_published, trained)


@pytest.mark.parametrize("width", [576, 896, 2048, 3200])
@pytest.mark.parametrize("use_cls_token", [True, False])
@pytest.mark.parametrize("counts", [[256, 64], [256, 64, 16], [64]])
def test_any_width_follows_the_formula(width, use_cls_token, counts):
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    text_config = LlamaConfig(hidden_size=width, **heads)
    config = AdemVLConfig(text_config=text_config, visual_token_counts=counts, use_cls_token=use_cls_token)
    projector = 1024 * 128 + 128 + 128 * width + width
    expected = 2 * sum(counts) * width + (1 + use_cls_token) * projector + 24 * UNUSED
    assert count_as_published(config) == expected


def test_the_whole_model_at_7b_trains_exactly_these():
    with torch.device("meta"):
        model = AdemVLForConditionalGeneration(AdemVLConfig())
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 4_505_856
    assert all(name.startswith("adapter.") for name in trained)
    assert all(name in trained for name in model.adapter_state_dict())
    # nothing in the adapter grows with the number of decoder layers
    assert sum(p.numel() for p in model.language_model.parameters()) == 6_738_415_616
