"""AdemVLConfig: the paper's defaults, round trips, every ablation switch, and errors that name the field."""

import copy
import itertools

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

from adem_vl_hf import AdemVLConfig
from adem_vl_hf.modeling.configuration_adem_vl import KERNELS, PLACES

pytestmark = pytest.mark.core
ALLOWED_PLACES = [
    ("attn_in", "attn_in"), ("attn_in", "attn_out"), ("attn_out", "attn_out"),
    ("mlp_in", "mlp_in"), ("mlp_in", "mlp_out"), ("mlp_out", "mlp_out"),
]  # fmt: skip
SWITCHES = [
    {"kernel": kernel} for kernel in KERNELS
] + [
    {"query_from": query_from, "add_to": add_to} for query_from, add_to in ALLOWED_PLACES
] + [
    {"visual_token_counts": counts} for counts in ([256], [64], [16], [64, 16], [256, 16], [256, 64, 16])
] + [
    {"pooling": "max"}, {"drop_ratio": 0.0}, {"drop_ratio": 0.5}, {"use_cls_token": False},
    {"input_visual_tokens": 64}, {"input_visual_tokens": 256, "use_cls_token": False},
    {"vision_adapter_dim": 0}, {"vision_feature_layer": -1}, {"vision_feature_layer": 12},
    {"vision_backend": "open_clip"}, {"projector_dim": 64}, {"fusion_scale": 1.0}, {"visual_scale": 0.1},
    {"vision_adapter_scale": 0.5}, {"vision_adapter_dropout": 0.0}, {"image_token_id": 5},
    {"text_model_name_or_path": "a/llama", "text_model_revision": "abc", "vision_model_name_or_path": "a/clip"},
]  # fmt: skip


def test_the_defaults_are_the_papers():
    config = AdemVLConfig()
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (4096, 32)
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1024, 24)
    assert config.visual_token_counts == [256, 64]
    assert (config.fusion_scale, config.visual_scale, config.drop_ratio) == (0.1, 0.01, 0.1)
    assert (config.query_from, config.add_to, config.kernel, config.pooling) == ("mlp_in", "mlp_out", "silu", "avg")
    assert (config.projector_dim, config.vision_adapter_dim, config.vision_adapter_scale) == (128, 12, 0.1)
    assert (config.use_cls_token, config.input_visual_tokens, config.vision_feature_layer) == (True, 0, -2)


def test_derived_sizes():
    config = AdemVLConfig(input_visual_tokens=64)
    assert (config.grid, config.memory_size, config.image_tokens, config.num_vision_adapters) == (16, 320, 65, 23)
    assert AdemVLConfig(vision_feature_layer=3).num_vision_adapters == 3
    assert AdemVLConfig(vision_feature_layer=-1).num_vision_adapters == 24
    assert AdemVLConfig(use_cls_token=False).image_tokens == 0
    assert not AdemVLConfig(text_model_name_or_path="a/b").has_external_bases
    assert AdemVLConfig(text_model_name_or_path="a/b", vision_model_name_or_path="c/d").has_external_bases
    # another grid: its whole and half its side
    assert AdemVLConfig(vision_config=CLIPVisionConfig(image_size=96, patch_size=8)).visual_token_counts == [144, 36]


def plain(config):
    """All fields but those that say where a config was saved and by what."""
    added = ("auto_map", "transformers_version", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in added}


@pytest.mark.parametrize("fields", SWITCHES, ids=str)
def test_every_switch_survives_a_round_trip(fields, tmp_path):
    config = AdemVLConfig(**fields)
    config.save_pretrained(tmp_path)
    for read in (
        AdemVLConfig.from_dict(config.to_dict()),
        AdemVLConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        copy.deepcopy(config),
    ):
        assert type(read) is AdemVLConfig
        assert plain(read) == plain(config)
        assert {name: getattr(read, name) for name in fields} == fields
        assert read.text_config.to_dict() == config.text_config.to_dict()


def test_one_scale_may_be_a_number():
    assert AdemVLConfig(visual_token_counts=64).visual_token_counts == [64]


def test_bases_configs_are_taken_as_dicts_and_as_objects_and_left_as_they_were():
    text = LlamaConfig(hidden_size=64, num_attention_heads=4, attn_implementation="sdpa")
    before = text._attn_implementation
    config = AdemVLConfig(text_config=text, vision_config=CLIPVisionConfig().to_dict())
    assert config.text_config.hidden_size == 64
    assert config.text_config is not text
    assert text._attn_implementation == before
    assert type(config.vision_config) is CLIPVisionConfig
    assert type(AdemVLConfig(text_config={"model_type": "qwen2"}).text_config).__name__ == "Qwen2Config"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"visual_token_counts": []}, "visual_token_counts is empty"),
        ({"visual_token_counts": [256, 60]}, "visual_token_counts: 60 does not fit the tower's 16 x 16"),
        ({"visual_token_counts": [289]}, "visual_token_counts: 289"),
        ({"visual_token_counts": [0]}, "visual_token_counts: 0"),
        ({"visual_token_counts": [64.0]}, r"visual_token_counts is \[64\.0\]"),
        ({"input_visual_tokens": 10}, "input_visual_tokens: 10"),
        ({"input_visual_tokens": -4}, "input_visual_tokens: -4"),
        ({"pooling": "mean"}, "pooling is 'mean'; it must be one of avg, max"),
        ({"kernel": "gelu"}, "kernel is 'gelu'; it must be one of none, softmax"),
        ({"query_from": "mlp"}, "query_from is 'mlp'"),
        ({"add_to": "out"}, "add_to is 'out'"),
        ({"vision_backend": "timm"}, "vision_backend is 'timm'"),
        ({"drop_ratio": 1.0}, r"drop_ratio is 1\.0"),
        ({"drop_ratio": -0.1}, "drop_ratio is -0.1"),
        ({"projector_dim": 0}, "projector_dim is 0; it must be from 1"),
        ({"vision_adapter_dim": -1}, "vision_adapter_dim is -1; it must be from 0"),
        ({"vision_adapter_dropout": 1.5}, "vision_adapter_dropout is 1.5"),
        ({"vision_feature_layer": 0}, "vision_feature_layer=0"),
        ({"vision_feature_layer": 25}, "vision_feature_layer=25 is outside the tower's 24 blocks"),
        ({"vision_feature_layer": -25}, "vision_feature_layer=-25"),
        ({"image_token_id": 32000}, "image_token_id=32000 is outside the language model's vocabulary of 32000"),
        ({"image_token_id": -1}, "image_token_id=-1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        AdemVLConfig(**fields)


@pytest.mark.parametrize("places", list(itertools.product(PLACES, PLACES)), ids="-".join)
def test_six_places_are_possible(places):
    query_from, add_to = places
    if places in ALLOWED_PLACES:
        assert AdemVLConfig(query_from=query_from, add_to=add_to).add_to == add_to
    else:
        with pytest.raises(ValueError, match=f"query_from='{query_from}'") as error:
            AdemVLConfig(query_from=query_from, add_to=add_to)
        assert f"add_to='{add_to}'" in str(error.value)
