"""Checkpoints appear whole or not at all, and a run goes on from the newest that is complete."""

import contextlib
import json
import logging
import os
import shutil
import signal

import pytest
import tiny
import torch
from closeness import assert_equal
from safetensors.torch import load_file
from training_runs import Interrupted, StopAt, adapter, processor_of, samples, trainer
from transformers import Trainer, TrainerCallback

from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.training import train, training_arguments
from adem_vl_hf.whole_checkpoints import checkpoints, lack_of, rotate, tidy

pytestmark = pytest.mark.core
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2, "logging_steps": 1}


def run(bases, folder, resume=True, callbacks=None, **settings):
    made, processor = trainer(
        bases, folder, samples(7), tiny.build(bases), callbacks=callbacks, **{**STEPS, **settings}
    )
    with contextlib.suppress(Interrupted):
        train(made, processor, resume=resume)
    return made


@pytest.fixture(scope="module")
def whole(bases, tmp_path_factory):
    """A run of six steps with the checkpoints 2, 4 and 6, and its adapter."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    made = run(bases, folder, save_total_limit=None)
    return folder, adapter(made.model)


def cut(whole, folder):
    """The run as it is after its checkpoint 4."""
    shutil.copytree(whole[0] / "checkpoint-2", folder / "checkpoint-2")
    shutil.copytree(whole[0] / "checkpoint-4", folder / "checkpoint-4")
    return folder


DAMAGES = {
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "no scheduler": lambda folder: (folder / "scheduler.pt").unlink(),
    "no random state": lambda folder: (folder / "rng_state.pth").unlink(),
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half the optimizer": lambda folder: halve(folder / "optimizer.pt"),
    "half the state": lambda folder: halve(folder / "trainer_state.json"),
    "half the weights": lambda folder: halve(folder / "model.safetensors"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("manifest", [True, False], ids=["noted", "of a stock Trainer"])
def test_a_damaged_checkpoint_is_known(whole, tmp_path, damage, manifest):
    folder = cut(whole, tmp_path) / "checkpoint-4"
    if not manifest:
        (folder / "complete.json").unlink()
    assert lack_of(folder, 0, 1) is None
    DAMAGES[damage](folder)
    assert lack_of(folder, 0, 1)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", '{"files": []}', '{"files": {}, "processes": 1}', '{"files": {"config.json": 3}, "processes": 1}',
     '{"processes": 1, "filfs": {}}', '{"files": {"config.json": [1, "x"]}, "processes": "x"}', "[" * 10**5],
)  # fmt: skip
def test_a_damaged_note_of_the_files_is_known(whole, tmp_path, text):
    folder = cut(whole, tmp_path) / "checkpoint-4"
    (folder / "complete.json").write_text(text)
    assert "complete.json" in lack_of(folder, 0, 1)


def test_a_changed_byte_is_known(whole, tmp_path):
    path = cut(whole, tmp_path) / "checkpoint-4" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert lack_of(path.parent, 0, 1) == "optimizer.pt is not what was saved"


def test_a_run_goes_on_from_the_newest_complete_checkpoint(bases, whole, tmp_path, caplog):
    folder = cut(whole, tmp_path)
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-5")
    (folder / "checkpoint-5" / "optimizer.pt").unlink()
    (folder / "checkpoint-9").mkdir()  # as a stock Trainer leaves it
    (folder / "_checkpoint-6.saving").mkdir()
    steps = StopAt(None)
    with caplog.at_level(logging.WARNING, logger="adem_vl_hf"):
        made = run(bases, folder, callbacks=[steps])
    assert steps.steps == [5, 6]
    assert_equal(adapter(made.model), whole[1])
    assert "checkpoint-5, which cannot be resumed from: optimizer.pt is missing" in caplog.text
    assert "checkpoint-9, which cannot be resumed from: trainer_state.json is missing" in caplog.text
    assert not list(folder.glob("_*"))
    assert max(checkpoints(folder)) == 6
    assert len(checkpoints(folder)) == 2


@pytest.mark.slow
def test_without_a_complete_checkpoint_the_run_begins_again(bases, whole, tmp_path, caplog):
    (tmp_path / "checkpoint-2").mkdir()
    steps = StopAt(None)
    made = run(bases, tmp_path, callbacks=[steps])
    assert steps.steps == [1, 2, 3, 4, 5, 6]
    assert_equal(adapter(made.model), whole[1])
    assert lack_of(tmp_path / "checkpoint-6", 0, 1) is None


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_half_a_save_is_never_seen(bases, whole, tmp_path, monkeypatch, name):
    save = torch.save

    def stop(content, file, *args, **kwargs):
        if str(file).endswith(f"checkpoint-4/{name}"):
            assert sorted(checkpoints(tmp_path)) == [2]
            raise Killed
        save(content, file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop)
        patch.setattr("adem_vl_hf.whole_checkpoints.shutil.rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            run(bases, tmp_path)
    assert sorted(checkpoints(tmp_path)) == [2]
    assert (tmp_path / "_checkpoint-4.saving" / "checkpoint-4" / "model.safetensors").is_file()
    made = run(bases, tmp_path)
    assert_equal(adapter(made.model), whole[1])
    assert not list(tmp_path.glob("_*"))


@pytest.mark.slow
def test_a_stock_trainer_goes_on_from_the_newest_complete_checkpoint_too(bases, tmp_path):
    def stock(folder, stop=None):
        model = tiny.build(bases)
        processor = processor_of(bases, model)
        arguments = training_arguments(folder, 7, 2, use_cpu=True, disable_tqdm=True, **STEPS)
        made = Trainer(model=model, args=arguments, train_dataset=samples(7), data_collator=AdemVLCollator(processor),
                       processing_class=processor, callbacks=[StopAt(stop)])  # fmt: skip
        with contextlib.suppress(Interrupted):
            train(made, processor, resume=True)
        return adapter(made.model)

    expected = stock(tmp_path / "whole")
    stock(tmp_path / "cut", stop=5)
    (tmp_path / "cut" / "checkpoint-4" / "scheduler.pt").unlink()
    assert_equal(stock(tmp_path / "cut"), expected)


@pytest.mark.slow
def test_what_was_saved_without_the_optimizer_is_not_resumed(bases, tmp_path):
    run(bases, tmp_path, save_only_model=True, max_steps=2)
    with pytest.raises(ValueError, match="save_only_model=True leaves out the optimizer"):
        run(bases, tmp_path, save_only_model=True, max_steps=4)


def test_rotation_keeps_the_last_and_the_best(tmp_path):
    for step in (2, 4, 6, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate(tmp_path, None, 6, None)
    assert sorted(checkpoints(tmp_path)) == [2, 4, 6, 10]
    rotate(tmp_path, 3, 6, None)  # 10 is of a run that was given up
    assert sorted(checkpoints(tmp_path)) == [2, 4, 6]
    rotate(tmp_path, 1, 6, str(tmp_path / "checkpoint-2"))
    assert sorted(checkpoints(tmp_path)) == [2, 6]
    (tmp_path / "checkpoint-2").rename(tmp_path / "_checkpoint-2.replaced")
    (tmp_path / "_checkpoint-3.deleted").mkdir()
    (tmp_path / "_checkpoint-6.replaced").mkdir()
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]


class Breaks(TrainerCallback):
    """Puts NaN into a parameter, as a step that is too large does; or asks the process to end."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.what(model)


def spoil(model):
    with torch.no_grad():
        next(iter(model.adapter.parameters())).fill_(float("nan"))


def test_a_loss_that_is_nan_stops_the_run_and_names_the_samples(bases, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 4, with the samples '\d'\. The run stops"):
        run(bases, tmp_path, callbacks=[Breaks(3, spoil)])
    assert sorted(checkpoints(tmp_path)) == [2]
    assert not (tmp_path / "model.safetensors").exists()
    assert lack_of(tmp_path / "checkpoint-2", 0, 1) is None


def test_a_gradient_that_is_nan_stops_the_run(bases, tmp_path):
    def hook(model):
        _name, parameter = next(iter(model.adapter.named_parameters()))
        parameter.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(FloatingPointError, match=r"the gradient of .*adapter\..* is NaN or infinite in step 3"):
        run(bases, tmp_path, callbacks=[Breaks(2, hook)])
    assert sorted(checkpoints(tmp_path)) == [2]


def test_an_adapter_that_is_nan_is_not_saved(bases, tmp_path):
    class Late(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 4:
                spoil(model)

    with pytest.raises(FloatingPointError, match="holds NaN or infinity after step 4"):
        run(bases, tmp_path, callbacks=[Late()], save_total_limit=1)
    assert sorted(checkpoints(tmp_path)) == [2]
    assert not list(tmp_path.glob("_*"))


def test_a_loss_that_explodes_is_said_once(caplog):
    from adem_vl_hf.callbacks import LearningWatch

    watch = LearningWatch()
    for index, loss in enumerate([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 30.0, 40.0]):
        watch._compare_with_median(loss, index, 1e-3)
        watch.losses.append(loss)
    assert [record.getMessage()[:52] for record in caplog.records] == [
        "the loss has exploded: 30.000 at step 6, where the m"
    ]


def test_sigterm_saves_a_last_checkpoint(bases, whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(bases, tmp_path, callbacks=[Breaks(2, lambda model: os.kill(os.getpid(), signal.SIGTERM))])
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert sorted(checkpoints(tmp_path)) == [2, 3]
    assert not (tmp_path / "model.safetensors").exists()
    made = run(bases, tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["resumed_at_step"] == 3
    assert_equal(adapter(made.model), whole[1])
    assert_equal(load_file(tmp_path / "model.safetensors"), whole[1])


def test_a_run_that_died_after_its_last_step_takes_no_other(bases, whole, tmp_path):
    """The last checkpoint is in the middle of an epoch of four steps, after which a stock ``Trainer`` would go on."""
    shutil.copytree(whole[0] / "checkpoint-6", tmp_path / "checkpoint-6")
    steps = StopAt(None)
    run(bases, tmp_path, callbacks=[steps])
    assert steps.steps == []
    assert_equal(load_file(tmp_path / "model.safetensors"), whole[1])


def test_half_a_line_of_the_log_is_removed(bases, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    run(bases, tmp_path, max_steps=1)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()][:2] == [1, 1]


@pytest.mark.parametrize(
    ("before", "kept"),
    [('{"step": 1, "loss": 2.5}\n{"step": 2, "lo', '{"step": 1, "loss": 2.5}\n'), ('{"st', ""), ("", ""),
     ("my notes\nin two lines", "my notes\nin two lines\n"), ('{"step": 1}\n', '{"step": 1}\n')],
)  # fmt: skip
def test_the_log_goes_on_after_half_a_line_of_its_own_and_loses_nothing_of_others(bases, before, kept, tmp_path):
    (tmp_path / "log.jsonl").write_text(before)
    run(bases, tmp_path, resume=False, max_steps=1)
    log = (tmp_path / "log.jsonl").read_text()
    assert log.startswith(kept)
    assert log[len(kept) :].startswith('{"step": 1, ')
