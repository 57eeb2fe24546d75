"""Against the authors' code: features, hidden states, logits, loss and gradients from their own adapter file."""

import pytest
import tiny
import torch
from closeness import assert_close

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.hub.convert_official import _our_name
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = [pytest.mark.core, pytest.mark.kernels]


@pytest.fixture(scope="module")
def converted(golden):
    return AdemVLForConditionalGeneration.from_pretrained(golden.checkpoint)


@pytest.fixture(scope="module")
def evaluated(golden, converted):
    """One pass in evaluation mode with labels: outputs, the output of every decoder layer, gradients."""
    states = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: states.append(output))
        for layer in converted.get_decoder().layers
    ]
    out = converted.eval()(**golden.inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    out.loss.backward()
    states = [state[0] if isinstance(state, tuple) else state for state in states]
    return out, [out.hidden_states[0], *states], tiny.gradients(converted)


def test_vision_features(golden, converted):
    with torch.no_grad():
        features = converted.get_image_features(golden.inputs["pixel_values"]).pooler_output
    assert_close(features, golden.expected["vision_features"])


def test_every_hidden_state(golden, evaluated):
    states = evaluated[1]
    assert len(states) == golden.settings["layers"] + 1
    for index, state in enumerate(states):
        assert_close(state, golden.expected[f"hidden_states.{index}"])


def test_logits_and_loss(golden, evaluated):
    out = evaluated[0]
    assert_close(out.logits, golden.expected["logits"])
    assert out.loss.item() == pytest.approx(golden.expected["loss"].item(), abs=1e-5)
    assert out.loss.item() == pytest.approx(golden.settings["loss"], abs=1e-5)


def expected_gradients(golden):
    found = {name.removeprefix("grad."): t for name, t in golden.expected.items() if name.startswith("grad.")}
    return {_our_name(name): tensor for name, tensor in found.items()}


def assert_same_gradients(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert tensor.abs().max() > 0
        error = (found[name] - tensor).norm() / tensor.norm()
        assert error < 1e-4, f"{name}: {error}"


def test_the_gradient_of_every_trainable_tensor(golden, evaluated):
    assert_same_gradients(evaluated[2], expected_gradients(golden))


def test_training_mode_computes_the_same_from_the_supervised_positions_alone(golden, converted):
    converted.train()
    out = converted(**golden.inputs)
    converted.eval()
    assert out.logits is None
    assert out.loss.item() == pytest.approx(golden.expected["loss"].item(), abs=1e-5)
    out.loss.backward()
    assert_same_gradients(tiny.gradients(converted), expected_gradients(golden))


def test_an_attention_mask_changes_nothing_before_the_padding(golden, converted):
    inputs = golden.inputs
    lengths = [(row != NOT_SUPERVISED).nonzero().max() + 1 for row in inputs["labels"]]
    mask = torch.zeros_like(inputs["input_ids"])
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = 1
    with torch.no_grad():
        logits = converted(**inputs, attention_mask=mask).logits
    kept = mask.bool()
    assert not kept.all()
    assert_close(logits[kept], golden.expected["logits"][kept])


def test_the_adapter_shows(golden, converted):
    """What the comparisons above are worth: without the picture, the logits are far from the golden ones."""
    inputs = dict(golden.inputs) | {"image_mask": torch.zeros(4, dtype=torch.bool)}
    with torch.no_grad():
        logits = converted(**inputs).logits
    assert (logits - golden.expected["logits"]).abs().max() > 1e-3
