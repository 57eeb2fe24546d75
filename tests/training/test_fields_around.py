"""What people put around a ``Trainer``: callbacks, losses, ``model_init``, searches, optimizers of their own."""

import functools

import architectures
import pytest
import torch
from closeness import assert_equal
from field_runs import EACH_STEP, assert_frozen, distance, frozen, logged, stock, trained
from pages import fences
from scripts import ROOT
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.optimization import Adafactor, AdafactorSchedule

from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = pytest.mark.slow


class Rate(TrainerCallback):
    """Sets the learning rate before each step."""

    def __init__(self, rate):
        self.rate = rate

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        for group in optimizer.param_groups:
            group["lr"] = self.rate


@architectures.each()
def test_callbacks(bases, arch, plain, tmp_path):
    start = trained(stock(bases, arch, tmp_path, train=False))
    assert_equal(trained(stock(bases, arch, tmp_path, around={"callbacks": [Rate(0.0)]})), start)
    assert distance(trained(stock(bases, arch, tmp_path, around={"callbacks": [Rate(1e-3)]})), plain) > 1e-4
    # the loss rises with these steps
    stopped = stock(
        bases, arch, tmp_path, around={"callbacks": [EarlyStoppingCallback(1)]}, max_steps=9, learning_rate=1.0,
        lr_scheduler_type="constant", load_best_model_at_end=True, save_strategy="steps", save_steps=1, **EACH_STEP,
    )  # fmt: skip
    losses = logged(stopped, "eval_loss")
    assert stopped.state.global_step == len(losses) < 9
    assert min(losses) == losses[-2]
    assert stopped.evaluate()["eval_loss"] == pytest.approx(losses[-2], rel=1e-5)


def own_loss(outputs, labels, num_items_in_batch=None):
    logits = outputs["logits"][:, :-1].flatten(0, 1).float()
    total = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=NOT_SUPERVISED, reduction="sum")
    return total / num_items_in_batch


@architectures.each()
@pytest.mark.parametrize("fields", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_compute_loss_func(bases, arch, tmp_path, fields):
    """The model's own loss, written by hand, trains the same."""
    expected = stock(bases, arch, tmp_path, **fields)
    made = stock(bases, arch, tmp_path, around={"compute_loss_func": own_loss}, **fields)
    assert logged(made, "loss") == pytest.approx(logged(expected, "loss"), rel=1e-5)
    assert distance(trained(made), trained(expected)) < 1e-5


@architectures.each()
def test_model_init(bases, arch, plain, tmp_path):
    made = stock(bases, arch, tmp_path, around={"model_init": lambda: arch.build(bases)})
    assert_equal(trained(made), plain)
    made.train()  # from the beginning again
    assert_equal(trained(made), plain)


@architectures.each()
def test_hyperparameter_search(bases, arch, plain, tmp_path):
    rates = []

    def space(trial):
        rates.append(trial.suggest_categorical("learning_rate", [1e-2, 1e-4]))
        return {"learning_rate": rates[-1]}

    made = stock(bases, arch, tmp_path, train=False, around={"model_init": lambda: arch.build(bases)}, **EACH_STEP)
    import optuna

    sampler = optuna.samplers.GridSampler({"learning_rate": [1e-2, 1e-4]})
    best = made.hyperparameter_search(space, n_trials=2, direction="minimize", backend="optuna", sampler=sampler)
    assert set(rates) == {1e-2, 1e-4}
    assert best.hyperparameters == {"learning_rate": 1e-2}
    losses = {}
    for rate in rates:
        run = stock(bases, arch, tmp_path, learning_rate=rate)
        losses[rate] = run.evaluate()["eval_loss"]
    assert best.objective == pytest.approx(min(losses.values()), rel=1e-5)
    assert min(losses, key=losses.get) == 1e-2


@architectures.each()
def test_auto_find_batch_size(bases, arch, tmp_path):
    """The model has memory for two rows; the run is the one with batches of two."""
    model = arch.build(bases)
    forward = model.forward

    @functools.wraps(forward)
    def limited(*args, **kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(*args, **kwargs)

    model.forward = limited
    made = stock(bases, arch, tmp_path, model=model, per_device_train_batch_size=4, auto_find_batch_size=True)
    assert made._train_batch_size == 2
    assert_equal(trained(made), trained(stock(bases, arch, tmp_path)))


def of_adapter(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@architectures.each()
def test_optimizers_of_ones_own(bases, arch, plain, tmp_path):
    model = arch.build(bases)
    before, start = frozen(model), trained(stock(bases, arch, tmp_path, train=False))
    adafactor = Adafactor(of_adapter(model), relative_step=True, scale_parameter=True, warmup_init=True, lr=None)
    made = stock(bases, arch, tmp_path, model=model, around={"optimizers": (adafactor, AdafactorSchedule(adafactor))})
    assert distance(trained(made), start) > 0
    assert_frozen(model, before)
    model = arch.build(bases)  # with the frozen parameters, too: they get no gradient
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    made = stock(bases, arch, tmp_path, model=model, around={"optimizers": (sgd, None)})
    assert distance(trained(made), start) > 1e-3
    assert_frozen(model, before)
    own = {"optimizer_cls_and_kwargs": (torch.optim.Adamax, {"lr": 1e-2})}
    assert distance(trained(stock(bases, arch, tmp_path, around=own)), plain) > 1e-4


@architectures.each()
def test_muon(bases, arch, tmp_path):
    """PyTorch's trains matrices alone and says so; the page combines it with AdamW, and such a run resumes."""
    if not hasattr(torch.optim, "Muon"):  # before PyTorch 2.9
        return
    alone = stock(
        bases, arch, tmp_path, train=False, around={"optimizer_cls_and_kwargs": (torch.optim.Muon, {"lr": 1e-2})}
    )
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        alone.train()
    assert alone.state.global_step == 0
    names = {}
    page = (ROOT / "docs" / "training_fields.md").read_text()
    (recipe,) = (snippet for snippet in fences(page, "python") if "class MuonAndAdamW" in snippet)
    exec(recipe.partition("\ntrainer = ")[0], names)

    def run(folder, model, train=True, **fields):
        optimizer = names["MuonAndAdamW"](of_adapter(model), lr=1e-2, weight_decay=0.02)
        return stock(
            bases, arch, folder, train=train, model=model, around={"optimizers": (optimizer, None)}, max_steps=4,
            save_strategy="steps", save_steps=2, **fields,
        )  # fmt: skip

    model = arch.build(bases)
    before, start = frozen(model), trained(alone)
    made = run(tmp_path / "whole", model)
    rates = logged(made, "learning_rate")
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert all(not torch.equal(tensor, start[key]) for key, tensor in trained(made).items())
    assert_frozen(model, before)
    resumed = run(tmp_path / "again", arch.build(bases), train=False)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_equal(trained(resumed), trained(made))
