"""Fields of what surrounds a step: precision, checkpointing, seeds, logs, checkpoints, resuming, the Hub."""

import json
import logging
import os
import signal
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import architectures
import pytest
import torch
import transformers
from closeness import assert_equal
from datasets import Dataset
from field_runs import EACH_STEP, KNOWN, distance, known, logged, name, stock, trained
from huggingface_hub import HfApi
from safetensors.torch import load_file
from training_runs import samples
from transformers import EarlyStoppingCallback, TrainerCallback

pytestmark = pytest.mark.slow


@architectures.each()
@pytest.mark.parametrize(
    "fields",
    known([
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"offload": True}},
        {"auto_find_batch_size": True}, {"accelerator_config": {"split_batches": True, "non_blocking": True}},
        {"torch_empty_cache_steps": 1, "use_cache": True, "average_tokens_across_devices": False, "tf32": False,
         "label_names": ["labels"], "skip_memory_metrics": False, "enable_jit_checkpoint": True},
        {"ddp_find_unused_parameters": True, "ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": True, "ddp_timeout": 60,
         "ddp_static_graph": True, "do_train": True, "do_eval": True, "do_predict": True, "local_rank": -1},
        {"log_level": "error", "log_level_replica": "error", "log_on_each_node": False, "run_name": "a run",
         "save_on_each_node": True, "save_strategy": "epoch"},
        {"project": "a project", "trackio_space_id": "a/space", "trackio_bucket_id": "a/bucket",
         "trackio_static_space_id": "a/space"},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3,
         "dataloader_pin_memory": False},
        {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"},
    ]),
    ids=name,
)  # fmt: skip
def test_fields_that_leave_the_weights_as_they_are(bases, arch, plain, tmp_path, fields):
    verbosity = transformers.logging.get_verbosity()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        made = stock(bases, arch, tmp_path, **fields)
    finally:
        transformers.logging.set_verbosity(verbosity)
        signal.signal(signal.SIGTERM, handler)
    assert_equal(trained(made), plain)


@architectures.each()
@pytest.mark.parametrize(
    "fields", known([{"seed": 5}, {"data_seed": 5}, {"train_sampling_strategy": "sequential"}, {"bf16": True},
                     {"accelerator_config": {"use_seedable_sampler": False}}, {"neftune_noise_alpha": 5.0}]), ids=name,
)  # fmt: skip
def test_fields_that_change_the_weights(bases, arch, plain, tmp_path, fields):
    made = stock(bases, arch, tmp_path, **fields)
    assert distance(trained(made), plain) > 1e-4
    again = stock(bases, arch, tmp_path, **fields)
    assert_equal(trained(again), trained(made))


@architectures.each()
def test_noise_goes_with_the_run(bases, arch, tmp_path):
    """NEFTune's noise is in training alone, and for text that comes as ids."""
    made = stock(bases, arch, tmp_path, neftune_noise_alpha=5.0, **EACH_STEP)
    embed = made.model.get_input_embeddings()
    assert not hasattr(embed, "neftune_noise_alpha")
    assert not embed._forward_hooks
    assert made.evaluate()["eval_loss"] == pytest.approx(logged(made, "eval_loss")[-1], rel=1e-6)


@architectures.each()
def test_full_determinism(bases, arch, plain, tmp_path, monkeypatch):
    for variable in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    try:
        made = stock(bases, arch, tmp_path, full_determinism=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert distance(trained(made), plain) < 1e-6


@architectures.each()
def test_underflow_overflow(bases, arch, plain, tmp_path):
    if arch is not architectures.EVLM:  # for which it is refused
        assert_equal(trained(stock(bases, arch, tmp_path, debug="underflow_overflow")), plain)


def test_torch_compile_by_mode_and_backend(bases, arch, tmp_path):
    """What it computes; both models are compiled in ``test_compiled_training.py``."""
    plain = stock(bases, arch, tmp_path, max_steps=1)
    made = stock(bases, arch, tmp_path, max_steps=1, torch_compile_mode="default", torch_compile_backend="eager")
    assert made.args.torch_compile
    assert distance(trained(made), trained(plain)) < 1e-5  # measured after three steps: 1e-7


@architectures.each()
def test_use_cpu(bases, arch, tmp_path):
    made = stock(bases, arch, tmp_path, train=False)
    assert {parameter.device.type for parameter in made.model.parameters()} == {"cpu"}
    assert made.args.device.type == "cpu"


@architectures.each()
def test_an_epoch_without_its_short_batch(bases, arch, tmp_path):
    one = {"per_device_train_batch_size": 3, "max_steps": -1, "num_train_epochs": 1}
    assert stock(bases, arch, tmp_path, **one).state.global_step == 3
    assert stock(bases, arch, tmp_path, dataloader_drop_last=True, **one).state.global_step == 2


@architectures.each()
def test_batches_out_of_order(bases, arch, tmp_path):
    if "dataloader_in_order" in KNOWN:
        made = stock(bases, arch, tmp_path, train=False, dataloader_num_workers=2, dataloader_in_order=False)
        rows = [row for batch in made.get_train_dataloader() for row in batch["labels"].tolist()]
        assert len(rows) == 8


@architectures.each()
def test_unused_columns(bases, arch, tmp_path):
    rows = Dataset.from_list([{"image": one["image"], "text": one["answer"]} for one in samples(4)])
    for data in (samples(4), rows):
        made = stock(bases, arch, tmp_path, train=False, data=data, remove_unused_columns=True)
        with pytest.raises(ValueError, match="remove_unused_columns=False"):
            made.train()
        assert made.state.global_step == 0


@architectures.each()
def test_fields_for_several_processes_ask_for_them(bases, arch, tmp_path):
    with pytest.raises(ValueError, match="only works in distributed training"):
        stock(bases, arch, tmp_path, train=False, fsdp=True, fsdp_config={"fsdp_version": 2})
    with pytest.raises(ValueError, match="init_process_group"):
        stock(bases, arch, tmp_path, train=False, ddp_backend="gloo")


@architectures.each()
def test_logging(bases, arch, tmp_path):
    assert len(logged(stock(bases, arch, tmp_path, logging_steps=2), "loss")) == 1
    assert len(logged(stock(bases, arch, tmp_path, logging_steps=3, logging_first_step=True), "loss")) == 2
    assert len(logged(stock(bases, arch, tmp_path, logging_strategy="no"), "loss")) == 0
    whole = stock(bases, arch, tmp_path, logging_strategy="epoch", max_steps=-1, num_train_epochs=2)
    assert len(logged(whole, "loss")) == 2
    assert logged(stock(bases, arch, tmp_path, skip_memory_metrics=False), "train_mem_cpu_alloc_delta")


@architectures.each()
def test_disable_tqdm(bases, arch, tmp_path, capsys):
    stock(bases, arch, tmp_path)
    assert "3/3" not in capsys.readouterr().err
    stock(bases, arch, tmp_path, disable_tqdm=False)
    assert "3/3" in capsys.readouterr().err


@architectures.each()
def test_log_level(bases, arch, tmp_path):
    verbosity = transformers.logging.get_verbosity()
    try:
        stock(bases, arch, tmp_path, train=False, log_level="info")
        assert transformers.logging.get_verbosity() == logging.INFO
    finally:
        transformers.logging.set_verbosity(verbosity)


@architectures.each()
def test_a_loss_that_is_not_a_number(bases, arch, tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        steps.append(1)
        return outputs["logits"].sum() * (float("nan") if len(steps) == 2 else 0.0)

    for filtered in (True, False):
        steps = []
        made = stock(bases, arch, tmp_path, logging_nan_inf_filter=filtered, around={"compute_loss_func": loss})
        losses = torch.tensor(logged(made, "loss"))
        assert losses[0].isfinite()
        assert bool(losses[1].isfinite()) is filtered


@architectures.each()
def test_the_number_of_tokens_seen(bases, arch, tmp_path):
    """One batch has every row, so that the longest row says how long all are with padding."""
    one = {"per_device_train_batch_size": 8, "max_steps": 1}
    made = stock(bases, arch, tmp_path, train=False)
    batch = made.data_collator(samples(8, "some"))
    for kind, number in (("all", batch["input_ids"].numel()), ("non_padding", int(batch["attention_mask"].sum()))):
        counted = stock(bases, arch, tmp_path, include_num_input_tokens_seen=kind, **one)
        assert logged(counted, "num_input_tokens_seen")[0] == number
    assert batch["attention_mask"].sum() < batch["input_ids"].numel()


class Recorded(list):
    """Samples, and which of them were read."""

    def __init__(self, made):
        super().__init__(made)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


@architectures.each()
@pytest.mark.parametrize("skip", [True, False])
def test_ignore_data_skip_and_resume_from_checkpoint(bases, arch, tmp_path, skip):
    fields = {"train_sampling_strategy": "sequential"} if "train_sampling_strategy" in KNOWN else {}
    stock(bases, arch, tmp_path, max_steps=2, save_strategy="steps", save_steps=2, **fields)
    data = Recorded(samples(8, "some"))
    made = stock(bases, arch, tmp_path, train=False, data=data, max_steps=4, ignore_data_skip=skip, **fields)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert made.state.global_step == 4
    assert data.read[:2] == ([0, 1] if skip else [4, 5])


@architectures.each()
@pytest.mark.parametrize("restore", [True, False])
def test_restore_callback_states_from_checkpoint(bases, arch, tmp_path, restore):
    best = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, **EACH_STEP}
    stock(bases, arch, tmp_path, max_steps=1, around={"callbacks": [EarlyStoppingCallback(3)]}, **best)
    made = stock(
        bases, arch, tmp_path, train=False, around={"callbacks": [EarlyStoppingCallback(1)]}, max_steps=2,
        restore_callback_states_from_checkpoint=restore, **best,
    )  # fmt: skip
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    found = [one for one in made.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    assert [one.early_stopping_patience for one in found] == [3 if restore else 1]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@architectures.each()
def test_which_checkpoints_are_saved(bases, arch, tmp_path):
    stock(bases, arch, tmp_path / "steps", save_strategy="steps", save_steps=2)
    assert checkpoints(tmp_path / "steps") == ["checkpoint-2", "checkpoint-3"]  # and the last
    stock(bases, arch, tmp_path / "limit", save_strategy="steps", save_steps=1, save_total_limit=1)
    assert checkpoints(tmp_path / "limit") == ["checkpoint-3"]
    stock(bases, arch, tmp_path / "epoch", save_strategy="epoch", max_steps=-1, num_train_epochs=1)
    assert checkpoints(tmp_path / "epoch") == ["checkpoint-4"]
    # the loss rises with these steps, so that the first is the best
    stock(bases, arch, tmp_path / "best", save_strategy="best", metric_for_best_model="loss", learning_rate=1.0,
          lr_scheduler_type="constant", max_steps=2, **EACH_STEP)  # fmt: skip
    assert checkpoints(tmp_path / "best") == ["checkpoint-1"]


@architectures.each()
def test_save_only_model(bases, arch, tmp_path):
    for only in (False, True):
        stock(bases, arch, tmp_path / str(only), save_strategy="steps", save_steps=3, save_only_model=only)
        files = {path.name for path in (tmp_path / str(only) / "checkpoint-3").iterdir()}
        assert "model.safetensors" in files
        assert bool(files & {"optimizer.pt", "scheduler.pt", "rng_state.pth"}) is not only
        arch.model_class.from_pretrained(tmp_path / str(only) / "checkpoint-3")


class SignalAt(TrainerCallback):
    """Asks this process to end, and waits until the checkpoint is asked for."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            manager = self.trainer_callback.jit_manager
            manager.kill_wait = 0
            os.kill(os.getpid(), signal.SIGTERM)
            while not manager.is_checkpoint_requested:
                signal.sigtimedwait([], 0.01)


@architectures.each()
def test_a_checkpoint_when_the_process_is_told_to_end(bases, arch, tmp_path):
    if "enable_jit_checkpoint" not in KNOWN:
        return
    handler, asks = signal.getsignal(signal.SIGTERM), SignalAt()
    try:
        made = stock(bases, arch, tmp_path, train=False, enable_jit_checkpoint=True, around={"callbacks": [asks]})
        asks.trainer_callback = next(one for one in made.callback_handler.callbacks if hasattr(one, "jit_manager"))
        made.train()
    finally:
        signal.signal(signal.SIGTERM, handler)
    (folder,) = tmp_path.glob("checkpoint-*")
    assert made.state.global_step < 3
    assert not (folder / "checkpoint-is-incomplete.txt").exists()
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == trained(made).keys()


@architectures.each()
def test_reports_to_a_service_or_names_the_missing_package(bases, arch, tmp_path):
    """What the integrations ask of a model is its configuration as a text."""
    json.loads(stock(bases, arch, tmp_path, train=False).model.config.to_json_string())
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match="tensorboard"):
            stock(bases, arch, tmp_path, train=False, report_to="tensorboard")
    else:
        stock(bases, arch, tmp_path, report_to="tensorboard")
        assert list(tmp_path.rglob("*tfevents*"))


@architectures.each()
@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_what_is_sent_to_the_hub(bases, arch, tmp_path, monkeypatch, strategy):
    """Nothing is sent here; every upload has the code that ``config.json`` names."""
    sent, made, uploads, cards = Future(), [], [], []
    sent.set_result(None)

    def create(*args, **kwargs):
        made.append((args[-1], kwargs["private"]))
        return SimpleNamespace(repo_id=args[-1])

    def upload(*args, **kwargs):
        folder = kwargs["folder_path"]
        files = set(os.listdir(folder))
        uploads.append((kwargs.get("path_in_repo"), kwargs["revision"], architectures_files <= files))
        if kwargs.get("path_in_repo") is None and "README.md" in files:
            cards.append(Path(folder, "README.md").read_text(encoding="utf-8"))
        return sent

    architectures_files = arch.files | {"config.json", "model.safetensors"}
    for home in (HfApi, transformers.trainer):  # of older versions: the functions
        monkeypatch.setattr(home, "create_repo", create, raising=False)
        monkeypatch.setattr(home, "upload_folder", upload, raising=False)
    trainer = stock(
        bases, arch, tmp_path / "out", save_strategy="steps", save_steps=1, max_steps=2, push_to_hub=True,
        hub_model_id="me/mine", hub_strategy=strategy, hub_private_repo=True, hub_revision="side", hub_always_push=True,
    )  # fmt: skip
    trainer.push_to_hub(license="mit", tags="mine")
    assert made == [("me/mine", True)]
    places = {place for place, _, _ in uploads}
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}
    assert {place for place in places if place} == expected.get(strategy, set())
    assert {revision for _, revision, _ in uploads} == {"side"}
    assert len(uploads) == {"end": 1, "every_save": 3}.get(strategy, 5)
    assert all(whole for _, _, whole in uploads)
    assert "license: mit" in cards[-1]
    assert "- mine\n" in cards[-1]
    assert all("trainable parameters that let a" in card and '"me/mine"' in card for card in cards)
