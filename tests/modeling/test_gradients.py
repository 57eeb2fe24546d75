"""Gradients: what trains and what is frozen, checkpointing, several forwards before a backward, compilation."""

from contextlib import contextmanager, nullcontext

import architectures
import pytest
import tiny
import torch
import transformers
from closeness import assert_close
from families import V5_0

pytestmark = [pytest.mark.core, pytest.mark.kernels, architectures.each_family()]
OLD = int(transformers.__version__.split(".")[0]) < 5


@pytest.fixture(scope="module")
def inputs():
    return tiny.batch([9, 6, 8], [True, False, True])


@pytest.fixture
def training(model):
    model.train()
    yield model
    model.eval()
    model.zero_grad(set_to_none=True)


@contextmanager
def checkpointed(model, kwargs=None):
    """Checkpointing by its name since Transformers 5.23, or by the one before."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")(kwargs)
    yield
    getattr(model, f"{name}_checkpointing_disable")()


def backward(model, inputs, **kwargs):
    model(**inputs, **kwargs).loss.backward()
    return tiny.gradients(model)


def test_everything_in_the_adapter_trains_and_nothing_else(training, inputs):
    found = backward(training, inputs)
    assert set(found) == set(training.adapter_state_dict())
    assert all(tensor.abs().max() > 0 for tensor in found.values())
    frozen = [name for name, p in training.named_parameters() if not p.requires_grad]
    assert frozen
    assert not any(name.startswith("adapter.") for name in frozen)


def test_evaluation_mode_gives_the_same_gradients(training, inputs):
    expected = backward(training, inputs)
    training.eval()
    assert_close(backward(training, inputs), expected)


def test_text_alone_trains_the_memory_alone(arch, training, inputs):
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
    found = backward(training, text)
    assert {name for name, gradient in found.items() if gradient.any()} == arch.learns_from_text


@pytest.mark.parametrize("kwargs", [None, {"use_reentrant": True}], ids=str)
def test_checkpointing_gives_the_same_gradients(training, inputs, kwargs):
    expected = backward(training, inputs)
    calls = []
    hook = training.get_decoder().layers[0].mlp.register_forward_pre_hook(lambda *args: calls.append(1))
    with checkpointed(training, kwargs):
        found = backward(training, inputs, use_cache=False)
    hook.remove()
    assert len(calls) == 2  # once more in the backward pass: it was on
    assert_close(found, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_forwards_before_one_backward(training, inputs, checkpointing):
    other = tiny.batch([9, 6, 8], [False, True, True], seed=11) | {"pixel_values": tiny.pictures(3, seed=12)}
    parts = [backward(training, inputs), backward(training, other)]
    expected = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    with checkpointed(training) if checkpointing else nullcontext():
        (training(**inputs, use_cache=False).loss + training(**other, use_cache=False).loss).backward()
    assert_close(tiny.gradients(training), expected)


def test_nothing_stays_on_the_layers(bases, training, inputs):
    layers = training.get_decoder().layers
    before = [dict(vars(layer)) for layer in layers]
    training(**inputs)
    assert [dict(vars(layer)) for layer in layers] == before
    # outside a layer's forward its parts are the language model's own
    x = torch.randn(1, 2, tiny.TEXT_WIDTH)
    alone = tiny.language_model(bases).model.layers[0].mlp
    assert_close(tiny.first(layers[0].mlp(x)), tiny.first(alone(x)))  # experts give their router's logits, too


def test_a_step_of_an_optimizer_moves_the_adapter_alone(bases, arch, inputs):
    model = arch.build(bases).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(model.adapter_state_dict())
    assert losses[-1] < losses[0]


def test_the_whole_pass_compiles_into_one_graph(model, inputs):
    if V5_0 and hasattr(model.config.text_config, "num_experts"):
        pytest.skip("experts of Transformers 5.0 call what cannot be traced in float32, with any language model")
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        memory = model.get_visual_memory(inputs["pixel_values"], inputs["image_mask"])
        memory.pop("image_hidden_states", None)
        expected = model(**text, **memory, use_cache=False).logits
        # before Transformers 5 a mixture of experts asks which of them were hit
        whole = not (OLD and hasattr(model.config.text_config, "num_experts"))
        torch.compiler.reset()  # what other models left counts against the limit
        compiled = torch.compile(model.forward, fullgraph=whole, backend="eager")
        assert_close(compiled(**text, **memory, use_cache=False).logits, expected)
