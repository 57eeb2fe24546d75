"""A name that nobody knows is an error with the nearest one or the remedy, wherever it is given; nothing is dropped."""

import copy
import json
import warnings

import architectures
import pytest
import torch
from new_process import run_python
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoTokenizer, pipeline
from transformers import __version__ as version

from adem_vl_hf import AdemVLConfig, EvlmConfig
from adem_vl_hf.loading import build_model, load_checkpoint
from adem_vl_hf.modeling.arguments import generation_fields, library_fields, loading_arguments

pytestmark = architectures.each()
# what a user may write, and what the error says about it: for every way in
WRONG = {
    "frame_embedings": "did you mean 'frame_embeddings'",
    "vision_backnd": "did you mean 'vision_backend'",
    "load_in_4bit": r"give quantization_config=BitsAndBytesConfig\(load_in_4bit=True\)",
    "device": "give device_map=",
    "use_flash_attention_2": "give attn_implementation='flash_attention_2'",
    "use_auth_token": "give token=",
    "max_new_tokens": "it is an option of generate",
    "qqqqqqqq": "does not know 'qqqqqqqq'",
}
NEAREST = {
    "adem_vl": {"kernl": "kernel", "projecter_dim": "projector_dim", "fusion_scal": "fusion_scale"},
    "evlm": {"media_token": "media_tokens", "level_fusions": "level_fusion", "moe_top": "moe_top_k"},
}
OF_THE_OTHER = {"adem_vl": ("media_tokens", "EvlmConfig"), "evlm": ("kernel", "AdemVLConfig")}
# fields of Transformers itself, from 4.57 to 5.24, as its files have them
OF_THE_LIBRARY = {
    "id2label": {"0": "a"}, "label2id": {"a": 0}, "num_labels": 1, "torch_dtype": "float32", "return_dict": True,
    "output_attentions": False, "output_hidden_states": True, "tie_word_embeddings": False, "is_decoder": False,
    "architectures": ["A"], "_name_or_path": "x", "_commit_hash": "0", "attn_implementation": "eager", "auto_map": {},
    "custom_pipelines": {}, "transformers_version": version, "problem_type": None, "pruned_heads": {},
    "use_cache": True, "max_length": 20, "num_beams": 4, "do_sample": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 3, "torchscript": False, "chunk_size_feed_forward": 0, "task_specific_params": None,
    "tokenizer_class": None, "_attn_implementation_autoset": True, "experts_implementation": None,
    "finetuning_task": None, "prefix": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(bases, arch, model, tmp_path_factory):
    """A checkpoint with its processor."""
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    arch.processor(bases, model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A checkpoint that holds every weight."""
    folder = tmp_path_factory.mktemp("whole")
    model.save_pretrained(folder, save_base=True)
    return folder


@pytest.fixture
def ways_in(arch, saved, whole):
    """Everything that takes fields, by name; where bases are named there are none, so that nothing can be loaded."""
    return {
        "constructor": arch.config_class,
        "for_model": lambda **given: AutoConfig.for_model(arch.model_type, **given),
        "config": lambda **given: arch.config_class.from_pretrained(saved, **given),
        "from_dict": lambda **given: arch.config_class.from_dict({}, **given),
        "fresh": lambda **given: arch.model_class.from_base_pretrained("no/llm", "no/tower", **given),
        "build": lambda **given: build_model("no/llm", "no/tower", arch.model_type, **given),
        "model": lambda **given: arch.model_class.from_pretrained(saved, **given),
        "model of every weight": lambda **given: arch.model_class.from_pretrained(whole, **given),
        "AutoModel": lambda **given: AutoModel.from_pretrained(saved, **given),
        "checkpoint": lambda **given: load_checkpoint(saved, **given),
    }


def test_a_name_that_nobody_knows_is_refused_everywhere(arch, ways_in):
    nearest = {name: f"did you mean '{near}'" for name, near in NEAREST[arch.model_type].items()}
    other, owner = OF_THE_OTHER[arch.model_type]
    for way, make in ways_in.items():
        for name, message in {**WRONG, **nearest, other: f"it is a field of {owner}"}.items():
            if way in ("config", "AutoModel") and name == "use_auth_token" and version < "5":
                continue  # version 4 makes a token of it, with a warning
            with pytest.raises(TypeError, match=f"does not know '{name}'") as error:
                make(**{name: 4})
            assert error.match(message), (way, name)


@pytest.mark.slow
def test_the_other_model_is_named_though_it_was_not_imported(arch):
    other, owner = OF_THE_OTHER[arch.model_type]
    code = f"from adem_vl_hf import {arch.config_class.__name__} as Config; Config({other}=4)"
    done = run_python(code)
    assert (
        f"ArgumentError: {arch.config_class.__name__} does not know '{other}'; it is a field of {owner}" in done.stderr
    )


def test_auto_config_refuses_what_looks_like_a_field_and_takes_what_others_need(arch, saved):
    """The Auto classes of tokenizers read the configuration with the tokenizer's own arguments."""
    for name, near in NEAREST[arch.model_type].items():
        with pytest.raises(TypeError, match=f"did you mean '{near}'"):
            AutoConfig.from_pretrained(saved, **{name: 4})
    with pytest.raises(TypeError, match="give quantization_config"):
        AutoConfig.from_pretrained(saved, load_in_4bit=True)
    config = AutoConfig.from_pretrained(saved, padding_side="left", add_prefix_space=True, frame_embeddings=2)
    assert config.frame_embeddings == 2
    assert AutoTokenizer.from_pretrained(saved, padding_side="left", model_max_length=7).padding_side == "left"


def test_arguments_by_other_names(bases, arch, saved):
    """Of the loaders: what is meant for a base, and what follows from the bases."""
    fresh = arch.model_class.from_base_pretrained
    with pytest.raises(TypeError, match="'text_model_kwarg'; did you mean 'text_model_kwargs'"):
        fresh("no/llm", "no/tower", text_model_kwarg={})
    with pytest.raises(TypeError, match="'text_model_kwarg'; did you mean 'text_model_kwargs'"):
        arch.model_class.from_pretrained(saved, text_model_kwarg={})
    with pytest.raises(TypeError, match=r"text_model_kwargs=\{'trust_remote_code': \.\.\.\}"):
        fresh("no/llm", "no/tower", trust_remote_code=True)
    with pytest.raises(TypeError, match="'text_model_name_or_path'; it follows from the bases"):
        fresh("no/llm", "no/tower", text_model_name_or_path="other/llm")
    with pytest.raises(TypeError, match="holds the adapter alone, which has no use for variant.*text_model_kwargs"):
        arch.model_class.from_pretrained(saved, variant="fp16")
    with pytest.raises(TypeError, match="holds the adapter alone; give loaded bases by name"):
        arch.model_class.from_pretrained(saved, None)
    with pytest.raises(TypeError, match="'token'; it is an argument of the loaders"):
        arch.config_class(token="secret")


def test_arguments_for_a_base_that_is_loaded_already(bases, arch, model, saved, whole):
    loaded = {"language_model": model.language_model, "vision_tower": model.vision_tower}
    with pytest.raises(TypeError, match="device_map says how a language model is loaded, and a loaded one is given"):
        arch.model_class.from_base_pretrained(*loaded.values(), device_map="cpu")
    with pytest.raises(TypeError, match="variant says how a vision tower is loaded"):
        arch.model_class.from_pretrained(saved, **loaded, vision_model_kwargs={"variant": "fp16"})
    with pytest.raises(TypeError, match="holds every weight itself, and has no use for language_model"):
        arch.model_class.from_pretrained(whole, **loaded)


def test_a_field_of_a_newer_version_is_kept_with_a_warning(arch, saved, tmp_path):
    fields = json.loads((saved / "config.json").read_text()) | {"of_tomorrow": [1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    ways = {
        "from_pretrained": lambda: arch.config_class.from_pretrained(tmp_path),
        "AutoConfig": lambda: AutoConfig.from_pretrained(tmp_path),
        "from_dict": lambda: arch.config_class.from_dict(fields),
        "from_dict without model_type": lambda: arch.config_class.from_dict(
            {name: value for name, value in fields.items() if name != "model_type"}
        ),
        "from_json_file": lambda: arch.config_class.from_json_file(tmp_path / "config.json"),
        "its own dictionary": lambda: arch.config_class(**fields),
    }
    for way, read in ways.items():
        with pytest.warns(UserWarning, match=f"{arch.config_class.__name__} does not know: of_tomorrow; they are kept"):
            config = read()
        assert config.of_tomorrow == [1, 2], way
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # it is said when a file is read, not again
        again = copy.deepcopy(config)
        again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["of_tomorrow"] == [1, 2]
    with pytest.warns(UserWarning, match="of_tomorrow"):
        assert arch.config_class.from_pretrained(tmp_path, of_tomorrow=3).of_tomorrow == 3


def test_a_checkpoint_of_a_newer_version_works(arch, model, saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fields = json.loads((saved / "config.json").read_text()) | {"of_tomorrow": True}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.warns(UserWarning, match="of_tomorrow"):
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["of_tomorrow"] is True


def test_what_transformers_itself_writes_is_read_in_silence(arch, tmp_path):
    fields = arch.config_class().to_dict() | OF_THE_LIBRARY
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for config in (arch.config_class.from_pretrained(tmp_path), arch.config_class.from_dict(fields)):
            assert config.id2label == {0: "a"}
            assert config.output_hidden_states
        of_a_call = {name: value for name, value in OF_THE_LIBRARY.items() if name not in generation_fields()}
        assert arch.config_class(**of_a_call).dtype == torch.float32


def test_the_names_of_the_library_are_not_ours(arch):
    """Else a field of a model would be taken for one of Transformers', and a misspelt one could be, too."""
    for one in (AdemVLConfig, EvlmConfig):
        own = set(one.field_names)
        assert not own & (library_fields() | generation_fields() | loading_arguments())
    assert {"variant", "ignore_mismatched_sizes", "state_dict", "token"} <= loading_arguments()
    assert {"return_dict", "id2label", "num_labels", "output_attentions", "tie_word_embeddings"} <= library_fields()


def test_overrides_are_checked_with_the_other_fields(arch, saved, whole):
    for folder in (saved, whole):
        with pytest.raises(ValueError, match="frame_embeddings is -1"):
            arch.model_class.from_pretrained(folder, frame_embeddings=-1)
    name, before, changed = arch.setting
    for load in (arch.model_class, AutoModel):
        assert getattr(load.from_pretrained(saved, **{name: changed}).config, name) == changed
    assert getattr(arch.model_class.from_pretrained(whole, **{name: changed}).config, name) == changed
    # with a configuration that is given, an override would be in vain
    config = AutoConfig.from_pretrained(saved)
    assert getattr(arch.model_class.from_pretrained(saved, config=config, **{name: before}).config, name) == before
    with pytest.raises(TypeError, match=f"'{name}'; the configuration that is given says otherwise"):
        arch.model_class.from_pretrained(saved, config=config, **{name: changed})
    with pytest.raises(TypeError, match="does not know 'qqqqqqqq'"):
        arch.model_class.from_pretrained(saved, config=config, qqqqqqqq=1)


def test_pipelines_pass_arguments_and_overrides(arch, saved):
    name, _, changed = arch.setting
    settings = {"low_cpu_mem_usage": True, "attn_implementation": "eager", name: changed}
    made = pipeline("image-text-to-text", model=str(saved), model_kwargs=settings, dtype=torch.float32)
    assert getattr(made.model.config, name) == changed
    assert made.model.language_model.config._attn_implementation == "eager"
    with pytest.raises(TypeError, match="give quantization_config"):
        pipeline("image-text-to-text", model=str(saved), model_kwargs={"load_in_4bit": True})


def test_a_processor_takes_no_name_that_it_does_not_know(bases, arch, model):
    processor = arch.processor(bases, model)
    with pytest.raises(TypeError, match="image_toknes"):
        arch.processor_class(processor.image_processor, processor.tokenizer, image_toknes=9)


def test_one_dtype_under_two_names(bases, arch, saved, whole):
    two = str(bases / "llama"), str(bases / "clip")
    for load in (
        lambda **given: arch.model_class.from_base_pretrained(*two, **given),
        lambda **given: build_model(*two, arch.model_type, **given)[0],
        lambda **given: arch.model_class.from_pretrained(saved, **given),
        lambda **given: AutoModel.from_pretrained(saved, **given),
        lambda **given: load_checkpoint(saved, **given)[0],
        lambda **given: arch.model_class.from_pretrained(whole, **given),
    ):
        for given in ({"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}):
            assert load(**given).language_model.dtype == torch.bfloat16
        assert load(dtype="bfloat16", torch_dtype=torch.bfloat16).language_model.dtype == torch.bfloat16
        with pytest.raises(TypeError, match="two names of one argument; give dtype alone"):
            load(dtype="bfloat16", torch_dtype="float16")
        for wrong in ("bf16", "int8", torch.int64, 16):
            with pytest.raises(TypeError, match="is no floating-point dtype; give torch.float32, "):
                load(dtype=wrong)
    assert arch.config_class(torch_dtype="float16").dtype == arch.config_class(dtype="float16").dtype == torch.float16
    assert arch.config_class.from_pretrained(saved, torch_dtype="float16").dtype == torch.float16
    with pytest.raises(TypeError, match="two names of one argument"):
        arch.config_class(dtype="bfloat16", torch_dtype="float16")
