"""The warnings that a run is too short, and that a loss does not fall, of a run that was resumed."""

from types import SimpleNamespace

import pytest
import tiny

from adem_vl_hf.callbacks import LearningWatch
from adem_vl_hf.recipe import peak_learning_rate


@pytest.mark.parametrize(("before", "warns"), [(6.3, False), (4.5, True)])
def test_a_resumed_run_compares_with_its_first_losses(before, warns, caplog):
    """From the resumption on alone, the loss seems flat."""
    history = [{"loss": before, "step": step} for step in range(1, 21)] + [{"eval_loss": 9.0, "step": 20}]
    state = SimpleNamespace(is_world_process_zero=True, max_steps=60, global_step=20, log_history=history)
    args = SimpleNamespace(optim="sgd", learning_rate=1e-2)
    watch = LearningWatch()
    watch.on_train_begin(args, state, None)
    for step in range(21, 61):
        state.global_step = step
        watch.on_log(args, state, None, {"loss": 4.5})
    assert ("the loss has not fallen" in caplog.text) == warns


@pytest.mark.parametrize(("steps", "said"), [(1, "1 step with a"), (2, "2 steps with a")])
def test_a_run_that_is_too_short_says_so(steps, said, caplog, bases):
    config = tiny.build(bases).config
    args = SimpleNamespace(optim="adamw_torch", learning_rate=peak_learning_rate(config))
    state = SimpleNamespace(is_world_process_zero=True, max_steps=steps, log_history=[])
    LearningWatch().on_train_begin(args, state, None, SimpleNamespace(config=config))
    assert f"{said} peak learning rate of" in caplog.text
    assert f" {'is' if steps == 1 else 'are'} too few; take at least" in caplog.text
