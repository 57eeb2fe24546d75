"""The warning that a loss does not fall, of a run that was resumed."""

from types import SimpleNamespace

import pytest

from adem_vl_hf.callbacks import LearningWatch


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
