"""The recipe on the stock Trainer: optimizer, schedule, adapter-only checkpoints, and mixed batches."""

import json

import architectures
import pytest
import tiny
import torch
from closeness import assert_equal
from safetensors.torch import load_file
from training_runs import adapter, samples, trainer

from adem_vl_hf.training import fastest_setting, train, training_arguments

pytestmark = [pytest.mark.core, pytest.mark.kernels]


def test_the_defaults_are_the_papers(tmp_path):
    arguments = training_arguments(tmp_path, samples=1000, batch_size=64, epochs=20)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.95, 0.02)
    assert arguments.learning_rate == pytest.approx(9e-3 * 64 / 256)
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.warmup_steps == 32  # 2 of 20 epochs of 16 steps
    assert arguments.max_grad_norm == 0
    assert (arguments.num_train_epochs, arguments.max_steps) == (20, -1)
    assert arguments.per_device_train_batch_size == 64
    assert "adamw" in str(arguments.optim).lower()
    gathered = training_arguments(tmp_path, samples=1000, batch_size=64, gradient_accumulation_steps=4)
    assert gathered.learning_rate == pytest.approx(9e-3)
    assert gathered.warmup_steps == 1  # a tenth of the four steps, but at least one
    own = training_arguments(tmp_path, samples=10, max_steps=50, learning_rate=1e-3, weight_decay=0.5)
    assert (own.learning_rate, own.weight_decay, own.warmup_steps, own.max_steps) == (1e-3, 0.5, 5, 50)


def test_fields_under_two_names_have_one_value(tmp_path):
    for field, own in (("per_device_train_batch_size", "batch_size"), ("num_train_epochs", "epochs")):
        with pytest.raises(ValueError, match=f"^{field}: give {own}, from which the warm-up and the learning rate"):
            training_arguments(tmp_path, samples=1000, use_cpu=True, **{field: 8})
    half = training_arguments(tmp_path, samples=1000, max_steps=100, warmup_ratio=0.5, use_cpu=True)
    assert half.get_warmup_steps(100) == 50


@pytest.mark.parametrize(("steps", "between"), [(5, 20), (75, 20), (400, 40), (100_000, 500)])
def test_a_tenth_of_a_run_is_lost_at_most(tmp_path, steps, between):
    assert training_arguments(tmp_path, samples=None, max_steps=steps, use_cpu=True).save_steps == between
    assert training_arguments(tmp_path, samples=None, max_steps=steps, save_steps=7, use_cpu=True).save_steps == 7


@architectures.each()
def test_the_stock_optimizer_decays_all_but_vectors_and_holds_the_adapter_alone(bases, arch, tmp_path):
    made, _ = trainer(bases, tmp_path, samples(), arch.build(bases), max_steps=100, learning_rate=0.1)
    made.create_optimizer_and_scheduler(num_training_steps=100)
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    state = made.model.adapter_state_dict()
    # EVLM's gates have one element each, and weight decay moves them towards closed gates
    assert decays == {key: 0.0 if tensor.dim() == 1 and len(tensor) > 1 else 0.02 for key, tensor in state.items()}
    assert set(decays.values()) == {0.02, 0.0}
    assert decays.keys() == {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert made.optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    rates = []
    for _ in range(100):
        rates.append(made.lr_scheduler.get_last_lr()[0])
        made.optimizer.step()
        made.lr_scheduler.step()
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.05)
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)  # the cosine is half way down
    assert made.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


def test_processes_that_are_launched_but_not_connected_are_refused(bases, tmp_path, monkeypatch):
    made, processor = trainer(bases, tmp_path, samples(), tiny.build(bases), max_steps=1)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it; on a CPU they connect if they are asked to
    with pytest.raises(ValueError, match="2 processes were launched, but they are not connected: .*ACCELERATE_USE_CPU"):
        train(made, processor)
    assert not list(tmp_path.glob("**/*.safetensors"))


@architectures.each()
def test_training_halves_the_loss_and_leaves_records(bases, arch, tmp_path):
    steps, saves = (300, 140) if arch is architectures.ADEM_VL else (60, 28)  # EVLM learns the four texts faster
    made, processor = trainer(
        bases, tmp_path, samples(4), arch.build(bases), batch_size=4, max_steps=steps, learning_rate=3e-2,
        save_strategy="steps", save_steps=saves, logging_steps=1,
    )  # fmt: skip
    frozen = {key: value.clone() for key, value in made.model.state_dict().items() if not key.startswith("adapter.")}
    fresh = adapter(made.model)
    facts = train(made, processor)
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert losses[0] > 5.5  # about log(320): no better than chance
    assert losses[-1] < 0.5 * losses[0]
    for key, value in made.model.state_dict().items():
        if key in frozen:
            assert torch.equal(value, frozen[key]), key
        else:
            assert not torch.equal(value, fresh[key]), key
    assert json.loads((tmp_path / "training.json").read_text()) == facts
    assert (facts["samples"], facts["steps"], facts["batch_size"], facts["learning_rate"]) == (4, steps, 4, 3e-2)
    assert facts["trained_numbers"] == sum(tensor.numel() for tensor in fresh.values())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == losses
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    # the checkpoints on the way (the last two are kept) and the end result hold the adapter alone, and load
    kept = {f"checkpoint-{2 * saves}", f"checkpoint-{steps}"}
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == kept
    for folder in (*(tmp_path / name for name in kept), tmp_path):
        saved = load_file(folder / "model.safetensors")
        assert saved.keys() == fresh.keys()
        assert_equal(adapter(arch.model_class.from_pretrained(folder)), saved)
        assert arch.processor_class.from_pretrained(folder).image_token_id == tiny.IMAGE_TOKEN_ID
    assert_equal(load_file(tmp_path / "model.safetensors"), adapter(made.model))


@architectures.each()
@pytest.mark.parametrize("images", ["some", False])
def test_samples_without_an_image_train_too(bases, arch, tmp_path, images):
    # weight decay would move tensors without a gradient
    made, processor = trainer(bases, tmp_path, samples(4, images), arch.build(bases), batch_size=4, weight_decay=0.0)
    fresh = adapter(made.model)
    facts = train(made, processor)
    assert 0 < facts["train_loss"] < 20
    changed = {key for key, tensor in adapter(made.model).items() if not torch.equal(tensor, fresh[key])}
    assert changed == (set(fresh) if images else arch.learns_from_text)


@architectures.each()
def test_bfloat16_bases_keep_a_float32_adapter(bases, arch, tmp_path):
    model = arch.model_class.from_base_pretrained(bases / "llama", bases / "clip", dtype=torch.bfloat16)
    made, processor = trainer(bases, tmp_path, samples(4), model, batch_size=4, max_steps=3, learning_rate=1e-2)
    assert train(made, processor)["train_loss"] > 0
    dtypes = {key.split(".")[0]: {p.dtype for n, p in model.named_parameters() if n.startswith(key)}
              for key in ("adapter.", "language_model.", "vision_tower.")}  # fmt: skip
    assert dtypes == {
        "adapter": {torch.float32}, "language_model": {torch.bfloat16}, "vision_tower": {torch.bfloat16}
    }  # fmt: skip
    saved = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_the_fastest_setting_is_one_a_model_takes(bases, arch):
    setting = fastest_setting()
    assert setting["dtype"] in (torch.float32, torch.bfloat16)
    model = arch.model_class.from_base_pretrained(bases / "llama", bases / "clip", **setting)
    assert model.language_model.dtype == setting["dtype"]
