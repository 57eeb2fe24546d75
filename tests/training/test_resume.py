"""Stopped runs that continue with the same bits, and evaluation during training, which keeps the best model."""

import shutil

import architectures
import pytest
import torch
from closeness import assert_close, assert_equal
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from training_runs import Interrupted, StopAt, adapter, samples, trainer

from adem_vl_hf.training import train

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("arch", "fields"),
    [
        (architectures.ADEM_VL, {}),
        pytest.param(architectures.ADEM_VL, {"vision_adapter_dropout": 0.1}, marks=pytest.mark.slow),
        (architectures.EVLM, {"moe_replicas": 2}),
    ],
    ids=str, indirect=["arch"],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_bits(bases, arch, tmp_path, fields):
    def run(folder, stop, resume=False):
        callback = StopAt(stop)
        made, processor = trainer(
            bases, folder, samples(7), arch.build(bases, **fields), max_steps=8,
            callbacks=[callback], save_strategy="steps", save_steps=3, learning_rate=1e-2,
        )  # fmt: skip
        try:
            train(made, processor, resume=resume)
        except Interrupted:
            assert not (folder / "model.safetensors").exists()
        return adapter(made.model), callback.steps

    whole, steps = run(tmp_path / "whole", stop=None, resume=True)  # without a checkpoint it begins at the start
    assert steps == list(range(1, 9))
    half, steps = run(tmp_path / "cut", stop=5)
    assert steps == [1, 2, 3, 4, 5]
    resumed, steps = run(tmp_path / "cut", stop=None, resume=True)
    assert steps == [4, 5, 6, 7, 8]  # in the middle of an epoch of four
    assert_equal(resumed, whole)
    assert_equal(load_file(tmp_path / "cut" / "model.safetensors"), whole)
    assert any(not torch.equal(half[key], tensor) for key, tensor in whole.items())
    record = (tmp_path / "cut" / "training.json").read_bytes()
    again, steps = run(tmp_path / "cut", stop=None, resume=True)  # it has ended: nothing is left to do
    assert steps == []
    assert_equal(again, whole)
    assert (tmp_path / "cut" / "training.json").read_bytes() == record


@architectures.each()
def test_a_run_does_not_go_on_under_other_settings(bases, arch, tmp_path):
    name, value, another = arch.setting
    made, processor = trainer(bases, tmp_path, samples(4), arch.build(bases), save_strategy="steps", save_steps=1)
    train(made, processor)
    other, processor = trainer(bases, tmp_path, samples(4), arch.build(bases, **{name: another}))
    saved = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(ValueError, match=rf"checkpoint-2 was trained with {name}={value} and this run has {another}"):
        train(other, processor, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == saved


@architectures.each()
@pytest.mark.parametrize(("base", "kind"), [("llama", "language model"), ("clip", "vision tower")])
def test_a_run_does_not_go_on_over_another_frozen_model(bases, arch, base, kind, tmp_path):
    made, processor = trainer(bases, tmp_path, samples(4), arch.build(bases), save_strategy="steps", save_steps=1)
    train(made, processor)
    others = tmp_path / "others"
    shutil.copytree(bases, others)
    weights = load_file(others / base / "model.safetensors")
    weights = {name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(weights, others / base / "model.safetensors", metadata={"format": "pt"})
    other, processor = trainer(others, tmp_path, samples(4), arch.build(others))
    with pytest.raises(ValueError, match=rf"checkpoint-2 was trained on another {kind} than .*{base} now is"):
        train(other, processor, resume=True)


def test_a_resumed_run_says_that_it_keeps_the_learning_rate_of_its_checkpoint(bases, tmp_path, caplog):
    def run(resume, **arguments):
        made, processor = trainer(
            bases, tmp_path, samples(4), architectures.ADEM_VL.build(bases), save_strategy="steps", save_steps=1,
            **{"learning_rate": 1e-2, "weight_decay": 0.1, "lr_scheduler_type": "constant", **arguments},
        )  # fmt: skip
        callbacks = list(made.callback_handler.callbacks)
        facts = train(made, processor, resume=resume)
        assert made.callback_handler.callbacks == callbacks  # so that another call does not find them twice
        return facts, made.optimizer.param_groups[0]["lr"]

    run(False, max_steps=2)
    run(True, max_steps=3)
    assert "goes on with" not in caplog.text
    facts, rate = run(True, max_steps=4, learning_rate=3e-3, weight_decay=0.2)
    assert "the learning rate of its checkpoint, 0.01, and not with 0.003; to change it, begin another" in caplog.text
    assert "the weight decay of its checkpoint, 0.1, and not with 0.2" in caplog.text
    assert facts["learning_rate"] == rate == 1e-2
    assert facts["weight_decay"] == 0.1
    assert facts["steps"] == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 3), ("data_seed", 3), ("per_device_train_batch_size", 1), ("gradient_accumulation_steps", 2),
     ("number_of_samples", 6)],
)  # fmt: skip
def test_a_resumed_run_says_that_its_samples_come_in_another_order(bases, name, value, tmp_path, caplog):
    def run(resume, number=4, **arguments):
        made, processor = trainer(bases, tmp_path, samples(number), architectures.ADEM_VL.build(bases),
                                  save_strategy="steps", save_steps=1, **{"max_steps": 2, **arguments})  # fmt: skip
        train(made, processor, resume=resume)

    run(False)
    run(True, max_steps=3, learning_rate=1e-3)  # what else differs says nothing about the order
    assert "another order" not in caplog.text
    given = {"number_of_samples": "number", "per_device_train_batch_size": "batch_size"}
    run(True, **{"max_steps": 4, given.get(name, name): value})
    (line,) = [record.getMessage() for record in caplog.records if "another order" in record.getMessage()]
    assert f"checkpoint-3 was saved with {name}=" in line
    assert f"and this run has {value}: it goes on" in line


@architectures.each()
def test_the_model_chosen_by_evaluation_loss_is_kept(bases, arch, tmp_path):
    made, processor = trainer(
        bases, tmp_path, samples(4), arch.build(bases), eval_dataset=samples(5, images="some"), max_steps=6,
        learning_rate=3e-2, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        # this keeps the worst model, so that it is not the last one
        load_best_model_at_end=True, greater_is_better=True,
    )  # fmt: skip
    train(made, processor)
    losses = {entry["step"]: entry["eval_loss"] for entry in made.state.log_history if "eval_loss" in entry}
    assert list(losses) == [2, 4, 6]
    assert torch.tensor(list(losses.values())).isfinite().all()
    best = max(losses, key=losses.get)
    assert best != 6
    assert_equal(adapter(made.model), load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors"))
    assert_close(made.evaluate()["eval_loss"], losses[best])


@architectures.each()
def test_what_no_checkpoint_could_hold_and_what_cannot_train_are_refused_before_the_run(bases, arch, tmp_path):
    model = arch.build(bases)
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight was added to the model"):
        trainer(bases, tmp_path, samples(4), model)
    with pytest.raises(ValueError, match="nothing in the model trains: .* freezes the adapter"):
        trainer(bases, tmp_path, samples(4), arch.build(bases).requires_grad_(False))


@architectures.each()
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_a_run_of_a_peft_model_goes_on_with_the_same_settings_only(bases, arch, tmp_path):
    def run(folder, steps, r=4, wrap=True, **more):
        torch.manual_seed(0)
        model = arch.build(bases)
        if wrap:
            targets = r"language_model\..*\.q_proj"
            model = get_peft_model(model, LoraConfig(r=r, target_modules=targets, modules_to_save=["adapter"]))
        settings = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant", "warmup_steps": 0}
        made, processor = trainer(bases, folder, samples(8), model, max_steps=steps, learning_rate=1e-2, **settings)
        train(made, processor, **more)
        return {name: x.detach().clone() for name, x in made.model.named_parameters() if x.requires_grad}

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "cut", 2)
    assert not (tmp_path / "cut" / "checkpoint-2" / "config.json").exists()
    with pytest.raises(ValueError, match="checkpoint-2 was trained with r=4 and this run has 8; resume with the same"):
        run(tmp_path / "cut", 4, r=8, resume=True)
    with pytest.raises(ValueError, match="checkpoint-2 holds an adapter of PEFT .* this run has none"):
        run(tmp_path / "cut", 4, wrap=False, resume=True)
    assert_equal(run(tmp_path / "cut", 4, resume=True), whole)
