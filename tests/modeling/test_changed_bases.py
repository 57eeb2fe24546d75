"""What an adapter-only checkpoint would lose is found: trained, edited, added and removed parts of the bases."""

import warnings

import architectures
import pytest
import torch
from closeness import assert_equal
from safetensors.torch import load_file
from torch import nn

pytestmark = architectures.each()


@pytest.fixture
def built(bases, arch):
    return arch.build(bases)


def assert_saved_whole(arch, model, folder, key):
    with pytest.warns(UserWarning, match=rf"{key} is not what was loaded: .* holds every weight"):
        model.save_pretrained(folder)
    assert_equal(arch.model_class.from_pretrained(folder).state_dict(), model.state_dict())


def assert_saved_as_adapter(model, folder, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save_pretrained(folder, **how)
    assert load_file(folder / "model.safetensors").keys() == model.adapter_state_dict().keys()


@pytest.mark.parametrize("rows", [[7], [50, 51]])
def test_a_few_trained_words_are_saved(arch, built, tmp_path, rows):
    table = built.get_input_embeddings().weight.requires_grad_(True)
    optimizer = torch.optim.SGD([table], lr=0.1)
    built.get_input_embeddings()(torch.tensor([rows])).sum().backward()
    optimizer.step()
    assert_saved_whole(arch, built, tmp_path, r"embed_tokens\.weight")


@torch.no_grad()
def test_an_edited_column_is_saved(arch, built, tmp_path):
    matrix = built.language_model.model.layers[1].self_attn.o_proj.weight
    matrix[:, 5] = 0  # as a head that is cut off; frozen
    assert_saved_whole(arch, built, tmp_path, r"o_proj\.weight")


def test_a_step_that_moves_a_single_value_is_found(arch, built, tmp_path):
    matrix = built.language_model.model.layers[1].self_attn.o_proj.weight.requires_grad_(True)
    step = torch.zeros_like(matrix)
    step[3, 4] = 1.0  # as in half precision, where most values are rounded back
    matrix.grad = step
    torch.optim.SGD([matrix], lr=0.1).step()
    assert_saved_whole(arch, built, tmp_path, r"o_proj\.weight")


def test_what_may_train_and_did_not_is_not_saved(bases, arch, built, tmp_path):
    built.requires_grad_(True)
    assert_saved_as_adapter(built, tmp_path / "float32")
    assert_saved_as_adapter(built.to(torch.bfloat16), tmp_path / "bfloat16")
    with torch.inference_mode():
        made = arch.build(bases)
    assert_saved_as_adapter(made, tmp_path / "inference")


def test_a_compiled_part_is_the_part_that_was_loaded(built, tmp_path):
    built.vision_tower = torch.compile(built.vision_tower)
    built.language_model.lm_head = torch.compile(built.language_model.lm_head)
    assert_saved_as_adapter(built, tmp_path)


def add_head(model):
    model.extra = nn.Linear(32, 2)


def replace_head(model):
    model.language_model.lm_head = nn.Sequential(model.language_model.lm_head, nn.Linear(20, 20))


def parametrize(model):
    nn.utils.parametrizations.weight_norm(model.language_model.model.layers[0].self_attn.q_proj)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_head, r"extra\.weight was added .* build a model without it: .*save them yourself"),
        (replace_head, r"language_model\.lm_head\.1\.weight was added"),
        (parametrize, r"q_proj\.weight was taken out"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_loaded_model_cannot_have_is_refused(built, tmp_path, change, message, packed):
    built._loaded_bases.packed = packed  # as of a quantised language model
    change(built)
    with pytest.raises(ValueError, match=message):
        built.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert_saved_as_adapter(built, tmp_path / "adapter", save_base=False)


def test_a_frozen_module_may_hang_on_the_model(built, tmp_path):
    built.teacher = nn.Linear(4, 4).requires_grad_(False)
    assert_saved_as_adapter(built, tmp_path)


def test_a_layer_that_was_taken_out_is_named(built, tmp_path):
    del built.language_model.model.layers[2]
    with pytest.raises(ValueError, match=r"layers\.2\.\S+ was taken out .* build a model with it"):
        built.save_pretrained(tmp_path)


def test_buffers_of_ones_own_and_a_part_of_the_state_dict_are_no_change(built, tmp_path):
    built.loss_of_classes = nn.CrossEntropyLoss(weight=torch.ones(2))
    assert_saved_as_adapter(built, tmp_path / "buffer")
    some = {name: parameter.detach() for name, parameter in built.named_parameters() if parameter.requires_grad}
    assert_saved_as_adapter(built, tmp_path / "some", state_dict=some)
