"""EvlmConfig: the paper's numbers, the map of the levels, and what is refused."""

import pytest
import tiny
from transformers import AutoConfig

from adem_vl_hf import EvlmConfig

TEXT = {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 1000}
EVA = {"hidden_size": 1792, "num_hidden_layers": 64, "num_attention_heads": 16, "image_size": 224, "patch_size": 14}
SMALL = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 300}


def small(**fields) -> EvlmConfig:
    return EvlmConfig(text_config=SMALL, vision_config=tiny.clip_config(num_hidden_layers=6), **fields)


def test_the_defaults_are_the_papers():
    config = EvlmConfig(text_config=TEXT, vision_config=EVA)
    assert config.vision_feature_layer == [29, 34, 39, 44, 49, 54, 59, 64]  # 8 of the last 40
    assert config.level_map == [i // 5 for i in range(40)]
    assert (config.cross_attention_dim, config.ffn_dim) == (1024, 2560)
    assert (config.media_tokens, config.image_tokens, config.num_cross_attention_layers) == (16, 16, 40)


def test_it_goes_through_json(tmp_path):
    config = small(vision_feature_layer=[-4, -2, -1], level_map=[2, 2, 1, 1, 0, 0], moe_replicas=2, frame_embeddings=8)
    assert config.vision_feature_layer == [3, 5, 6]
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, EvlmConfig)
    assert {**again.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert EvlmConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_levels_fit_a_shallow_tower():
    assert small().vision_feature_layer == [3, 4, 5, 6]
    assert small().level_map == [0, 0, 1, 2, 2, 3]
    assert small(vision_feature_layer=-1).level_map == [0] * 6
    assert small(cross_attention_interval=4).num_cross_attention_layers == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_feature_layer": [3, 7]}, "vision_feature_layer=\\[3, 7\\] goes beyond the tower's 6 blocks"),
        ({"vision_feature_layer": []}, "goes beyond the tower's 6 blocks"),
        ({"vision_feature_layer": [4, 2]}, "is not in ascending order"),
        ({"vision_feature_layer": [-1, 6]}, "names a level twice"),
        ({"level_map": [0] * 5}, "level_map=.* must name, for each of the 6 cross-attention layers"),
        ({"level_map": [4] * 6}, "a level from 0 to 3"),
        ({"level_fusion": "concatenate", "level_map": [1] * 6}, "a level from 0 to 0"),
        ({"moe_replicas": 1, "moe_slices": 3, "moe_top_k": 4}, "moe_top_k=4 is more than the 3 experts"),
        ({"media_tokens": -1}, "media_tokens is -1"),
        ({"mask_mode": "everything"}, "mask_mode is 'everything'; it must be one of previous_image, all_frames"),
        ({"level_fusion": "sum"}, "level_fusion is 'sum'"),
        ({"cross_attention_interval": 0}, "cross_attention_interval is 0"),
        ({"ffn_ratio": 0}, "ffn_ratio is 0"),
        ({"train_vision_blocks": 7}, "train_vision_blocks=7 is more than the tower's 6 blocks"),
        ({"image_token_id": 300}, "outside the language model's vocabulary of 300"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)
