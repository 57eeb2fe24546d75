"""Each field of a model's configuration is a flag, with the field's type, values and meaning."""

import inspect
import sys

import pytest

from adem_vl_hf import AdemVLConfig, EvlmConfig
from adem_vl_hf.cli.config_flags import NO_FLAG, config_fields, flag_fields
from adem_vl_hf.cli.config_source import read_fields
from adem_vl_hf.cli.parser import build_parser
from adem_vl_hf.papers import PAPERS

CONFIGS = {config.model_type: config for config in (AdemVLConfig, EvlmConfig)}
BASE = AdemVLConfig.__mro__[1]


def flags(command: str) -> dict:
    """The arguments of a command by their names in the parsed result."""
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    return {action.dest: action for action in commands.choices[command]._actions}


def parse(*argv: str, model: str = "adem_vl") -> dict:
    """The fields that a command line of ``train`` gives."""
    args = build_parser().parse_args(["train", "--output-dir", "x", "--model", model, *argv])
    return config_fields(args, model)


@pytest.mark.parametrize("model", CONFIGS)
def test_each_field_is_a_flag(model):
    config = CONFIGS[model]
    fields = set(config.field_names)
    assert set(flag_fields(model)) == fields - set(NO_FLAG)
    assert set(NO_FLAG) <= fields
    assert all(NO_FLAG.values())
    train = flags("train")
    for name in flag_fields(model):
        assert train[name].option_strings == [f"--{name.replace('_', '-')}"]
        assert train[name].help
        assert train[name].choices == config.choices.get(name)
    assert set(config.choices) <= set(flag_fields(model))


def test_no_flag_sets_a_field_that_is_none():
    known = set.union(*(set(config.field_names) for config in CONFIGS.values()))
    groups = [group for group in _groups("train") if group.title in ("model", *(p.name for p in PAPERS.values()))]
    assert len(groups) == 3
    assert {action.dest for group in groups for action in group._group_actions} == known - set(NO_FLAG)
    converted = {action.dest for group in _groups("convert")[2:] for action in group._group_actions}
    assert converted == set(AdemVLConfig.field_names) - set(NO_FLAG)


def _groups(command: str) -> list:
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    return commands.choices[command]._action_groups


@pytest.mark.parametrize(("name", "config"), [("base", BASE), *CONFIGS.items()], ids=["base", *CONFIGS])
def test_the_source_is_read_as_python_reads_it(name, config):
    names = vars(sys.modules[config.__module__])
    inherited = {} if config is BASE else BASE.choices
    fields = read_fields(name)
    parameters = list(inspect.signature(config.__init__).parameters.values())[1:-1]  # without self and **kwargs
    assert list(fields) == [parameter.name for parameter in parameters]
    for parameter in parameters:
        field = fields[parameter.name]
        assert (eval(field.type, names), field.default) == (parameter.annotation, parameter.default)
        assert field.text in " ".join(config.__doc__.split())
        assert len(field.text) > 10
        assert field.choices == (None if parameter.name in inherited else config.choices.get(parameter.name))


def test_values_have_the_fields_types():
    given = parse("--visual-token-counts", "4", "1", "--kernel", "relu", "--drop-ratio", "0.5", "--projector-dim", "8",
                  "--use-cls-token", "false", "--vision-feature-layer", "-1", "--image-token-id", "4")  # fmt: skip
    assert given == {
        "visual_token_counts": [4, 1], "kernel": "relu", "drop_ratio": 0.5, "projector_dim": 8, "use_cls_token": False,
        "vision_feature_layer": -1, "image_token_id": 4,
    }  # fmt: skip
    given = parse("--level-map", "0", "0", "1", "--vision-feature-layer", "-2", "-1", "--cross-attention-head-dim", "8",
                  model="evlm")  # fmt: skip
    assert given == {"level_map": [0, 0, 1], "vision_feature_layer": [-2, -1], "cross_attention_head_dim": 8}


def test_lora_is_given_as_pairs():
    lora = parse("--lora", "r=4", "lora_alpha=8", 'target_modules=["q_proj", "v_proj"]', "layers_pattern=h")["lora"]
    assert lora == {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "layers_pattern": "h"}
    assert AdemVLConfig(lora=lora).lora["target_modules"] == ["q_proj", "v_proj"]


def test_names_of_layers_for_lora_may_be_joined_by_commas():
    lora = parse("--lora", "target_modules=q_proj,v_proj", "exclude_modules=lm_head, embed.tokens")["lora"]
    complete = AdemVLConfig(lora=lora).lora
    assert complete["target_modules"] == ["q_proj", "v_proj"]
    assert complete["exclude_modules"] == ["lm_head", "embed.tokens"]
    pattern = r"layers\.(0|1)\..*(q|v)_proj"
    assert AdemVLConfig(lora={"target_modules": pattern}).lora["target_modules"] == pattern


def test_a_repeated_flag_adds_its_values():
    parsed = build_parser().parse_args(["train", "--output-dir", "x", "--set", "a=1", "--set", "b=2", "c=3"])
    assert parsed.set == [("a", 1), ("b", 2), ("c", 3)]
    assert build_parser().parse_args(["train", "--output-dir", "x", "--data", "a", "--data", "b"]).data == ["a", "b"]
    assert build_parser().parse_args(["train", "--output-dir", "x"]).data == ["openmoji"]
