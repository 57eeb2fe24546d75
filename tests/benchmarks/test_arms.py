"""Every comparison arm: one interface, batches answer as single rows do, the stock Trainer trains what trains."""

import peers
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from training_runs import samples

from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.training import build_trainer, train, training_arguments

# PEFT asks by that name, and versions before 5.23 know no other
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
STEPS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}
OF_HOUSE = ["memvp", "lavin", "llama_adapter"]


@pytest.fixture(scope="module", params=peers.ALL)
def arm(request, bases):
    """Name, model and processor; tests leave them as they found them."""
    return request.param, *peers.build(bases, request.param)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_does_not_depend_on_its_neighbours(arm, side):
    _, model, processor = arm
    inputs = peers.batch(processor, padding_side=side)
    found = peers.logits(model, inputs, position_ids=peers.positions(inputs))
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        alone = peers.batch(processor, slice(row, row + 1))
        assert torch.equal(inputs["input_ids"][row][kept], alone["input_ids"][0])
        assert_close(found[row][kept], peers.logits(model, alone)[0])


def test_cached_is_uncached_is_alone(arm):
    _, model, processor = arm
    prompt = peers.batch(processor, answers=False)
    length = prompt["input_ids"].shape[1]
    cached = model.generate(**prompt, **STEPS)[:, length:]
    assert torch.equal(model.generate(**prompt, **STEPS, use_cache=False)[:, length:], cached)
    for row in range(3):
        alone = peers.batch(processor, slice(row, row + 1), answers=False)
        assert torch.equal(model.generate(**alone, **STEPS)[0, alone["input_ids"].shape[1] :], cached[row])


def test_predict_answers_with_it_and_the_picture_matters(arm, tmp_path):
    name, model, processor = arm
    data = samples(4, "some")
    together = predict(model, processor, data, output=tmp_path / "4.jsonl", batch_size=4, progress=False)
    alone = predict(model, processor, data, output=tmp_path / "1.jsonl", batch_size=1, progress=False)
    assert [row["prediction"] for row in together] == [row["prediction"] for row in alone]
    inputs = peers.batch(processor)
    if name == "floor":
        assert "pixel_values" not in inputs
        return
    other = inputs | {"pixel_values": tiny.pictures(len(inputs["pixel_values"]), seed=8)}
    changed = (peers.logits(model, inputs) - peers.logits(model, other)).abs().flatten(1).amax(1) > 1e-3
    assert changed.tolist() == [True, False, True]


def test_training_mode_computes_the_same_loss(arm):
    _, model, processor = arm
    inputs = peers.batch(processor)
    with torch.no_grad():
        expected = model(**inputs).loss
        loss = model.train()(**inputs).loss
    model.eval()
    assert_close(loss, expected)
    assert expected > 0


@pytest.mark.parametrize("name", peers.TRAINED)
def test_the_stock_trainer_changes_what_trains_and_nothing_else(bases, tmp_path, name):
    model, processor = peers.build(bases, name)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    data = samples(4, "some")
    arguments = training_arguments(
        tmp_path, len(data), 4, max_steps=2, learning_rate=1e-2, weight_decay=0.0, use_cpu=True, disable_tqdm=True,
        save_strategy="no", logging_steps=1,
    )  # fmt: skip
    facts = train(build_trainer(model, processor, data, arguments), processor)
    assert 0 < facts["train_loss"] < 30
    assert facts["trained_numbers"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


@pytest.mark.parametrize("name", peers.TRAINED)
def test_on_bfloat16_bases_float32_trains(bases, name):
    model, processor = peers.fresh(bases, name, dtype=torch.bfloat16)
    peers.perturb(model, std=0.03)
    loss = model.train()(**peers.batch(processor)).loss
    loss.backward()
    dtypes = {(p.requires_grad, p.dtype) for p in model.parameters() if p.requires_grad or p.dim() > 1}
    assert dtypes - {(False, torch.float32)} == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert len(model.eval().generate(**peers.batch(processor, answers=False), max_new_tokens=2)) == 3


@pytest.mark.parametrize("name", OF_HOUSE)
def test_checkpointing_gives_the_same_gradients(bases, name):
    model, processor = peers.build(bases, name)
    inputs = peers.batch(processor)
    model.train()(**inputs).loss.backward()
    expected = tiny.gradients(model)
    assert set(expected) == {key for key, p in model.named_parameters() if p.requires_grad}
    model.gradient_checkpointing_enable()
    model(**inputs, use_cache=False).loss.backward()
    assert_close(tiny.gradients(model), expected)


@pytest.mark.parametrize("name", OF_HOUSE)
def test_saved_and_loaded_it_says_the_same(bases, tmp_path, name):
    model, processor = peers.build(bases, name)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))  # no code of the bundle travels with an arm
    loaded = type(model).from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.state_dict())
    inputs = peers.batch(processor)
    assert_close(peers.logits(loaded, inputs), peers.logits(model, inputs))
