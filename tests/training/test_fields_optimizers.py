"""Optimizers, schedules of the learning rate, and the numbers that go with them."""

import architectures
import pytest
import torch
from closeness import assert_equal
from field_runs import EACH_STEP, assert_frozen, distance, frozen, known, logged, name, stock, trained
from training_runs import adapter, samples
from transformers.training_args import OptimizerNames

pytestmark = pytest.mark.slow

# of PyTorch, Transformers and bitsandbytes; the others are of packages that Transformers asks for by name
HERE = set(
    "adamw_torch adamw_torch_fused adafactor ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit "
    "lion_32bit paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit "
    "paged_lion_8bit rmsprop rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit".split()
)


@architectures.each()
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("optimizer", [one.value for one in OptimizerNames if one.value in HERE])
def test_optim(bases, arch, tmp_path, optimizer):
    """Every optimizer moves the whole adapter and nothing else."""
    made = stock(bases, arch, tmp_path, train=False, optim=optimizer, optim_target_modules="all-linear")
    before, start = frozen(made.model), trained(made)
    made.train()
    assert all(not torch.equal(tensor, start[key]) for key, tensor in trained(made).items())
    assert_frozen(made.model, before)


@architectures.each()
def test_optim_of_a_missing_package(bases, arch, tmp_path):
    """The package is named before a step."""
    model = arch.build(bases)
    before, start = frozen(model), adapter(model)
    for optimizer in [one.value for one in OptimizerNames if one.value not in HERE]:
        made = stock(
            bases, arch, tmp_path, train=False, model=model, optim=optimizer, optim_target_modules="all-linear"
        )
        with pytest.raises((ImportError, ValueError), match="install|import"):
            made.train()
        assert made.state.global_step == 0
    assert_equal(adapter(model), start)
    assert_frozen(model, before)


@architectures.each()
def test_an_8_bit_optimizer_keeps_its_state_in_8_bits(bases, arch, tmp_path):
    model = arch.build(bases, **arch.large)
    made = stock(bases, arch, tmp_path, model=model, optim="adamw_bnb_8bit")
    state = [part for parts in made.optimizer.state.values() for part in parts.values() if torch.is_tensor(part)]
    assert torch.uint8 in {tensor.dtype for tensor in state}


@architectures.each()
@pytest.mark.parametrize(
    "fields",
    known([
        {"learning_rate": 2e-2}, {"weight_decay": 0.5}, {"adam_beta1": 0.5}, {"adam_beta2": 0.5},
        {"adam_epsilon": 1e-2}, {"max_grad_norm": 1e-3}, {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 2}, {"per_device_train_batch_size": 4},
    ]),
    ids=name,
)  # fmt: skip
def test_numbers_that_change_what_is_learned(bases, arch, plain, tmp_path, fields):
    assert distance(trained(stock(bases, arch, tmp_path, **fields)), plain) > 1e-4


@architectures.each()
def test_max_grad_norm(bases, arch, tmp_path):
    """With plain descent, a step is the gradient times the rate."""
    start = trained(stock(bases, arch, tmp_path, train=False))
    moved = {}
    for limit in (0.0, 0.01):
        made = stock(
            bases, arch, tmp_path, data=samples(8), optim="sgd", lr_scheduler_type="constant", max_grad_norm=limit,
            max_steps=1,
        )  # fmt: skip
        step = torch.cat([(tensor - start[key]).flatten() for key, tensor in trained(made).items()]).norm().item()
        moved[limit] = step, logged(made, "grad_norm")[0]
    assert moved[0.0][1] == moved[0.01][1] > 0.1  # the norm before it is clipped
    assert moved[0.0][0] == pytest.approx(1e-2 * moved[0.0][1], rel=1e-3)
    assert moved[0.01][0] == pytest.approx(1e-2 * 0.01, rel=1e-3)


SCHEDULES = {
    "linear": (None, [0, 1, 2 / 3, 1 / 3]),
    "cosine": (None, [0, 1, 0.75, 0.25]),
    "cosine_with_restarts": ({"num_cycles": 2}, [0, 1, 0.25, 0.75]),
    "polynomial": ({"lr_end": 0.0, "power": 2.0}, [0, 1, 4 / 9, 1 / 9]),
    "constant": (None, [1, 1, 1, 1]),
    "constant_with_warmup": (None, [0, 1, 1, 1]),
    "inverse_sqrt": ({"timescale": 2}, [0, 1, (2 / 3) ** 0.5, 0.5**0.5]),
    "cosine_with_min_lr": ({"min_lr": 5e-3}, [0, 1, 0.875, 0.625]),
    "cosine_warmup_with_min_lr": ({"min_lr": 5e-3}, None),
    "warmup_stable_decay": ({"num_decay_steps": 2}, [0, 1, 1, 0.5]),
    "reduce_lr_on_plateau": ({"patience": 0, "threshold": 10.0}, None),
    "greedy": (None, None),
}


# a schedule knows nothing of the model: EVLM follows one of them
@pytest.mark.parametrize(
    ("arch", "schedule"),
    [*((architectures.ADEM_VL, schedule) for schedule in SCHEDULES), (architectures.EVLM, "cosine")],
    ids=str, indirect=["arch"], scope="module",
)  # fmt: skip
def test_lr_scheduler_type(bases, arch, tmp_path, schedule):
    from transformers.trainer_utils import SchedulerType

    if schedule not in {one.value for one in SchedulerType}:
        return
    settings, expected = SCHEDULES[schedule]
    evaluated = EACH_STEP if schedule in ("reduce_lr_on_plateau", "greedy") else {}
    made = stock(
        bases, arch, tmp_path, max_steps=4, lr_scheduler_type=schedule, lr_scheduler_kwargs=settings, warmup_steps=1,
        **evaluated,
    )  # fmt: skip
    rates = [rate / 1e-2 for rate in logged(made, "learning_rate")]
    if expected is not None:
        assert rates == pytest.approx(expected, abs=1e-6)
    elif schedule == "reduce_lr_on_plateau":  # the loss never falls by a factor of ten
        assert rates[-1] < rates[0] == 1
    else:
        assert all(0 < rate <= 1 for rate in rates)


@architectures.each()
def test_a_part_of_all_steps_warms_up(bases, arch, tmp_path):
    made = stock(bases, arch, tmp_path, max_steps=4, warmup_steps=0.5, lr_scheduler_type="constant_with_warmup")
    assert logged(made, "learning_rate") == pytest.approx([0, 5e-3, 1e-2, 1e-2])


@architectures.each()
def test_num_train_epochs_and_max_steps(bases, arch, tmp_path):
    assert stock(bases, arch, tmp_path, max_steps=-1, num_train_epochs=1.5).state.global_step == 6
    assert stock(bases, arch, tmp_path, max_steps=2, num_train_epochs=5).state.global_step == 2
