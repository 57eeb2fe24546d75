"""Two processes (gloo, CPU) through ``accelerate launch`` and the configs of ``examples/accelerate``."""

import json
import os
import subprocess
import sys

import architectures
import distributed_worker
import families
import pytest
import scripts
import tiny
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from closeness import assert_close
from safetensors.torch import load_file
from training_runs import picture_folder

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.modeling import forward_pass
from adem_vl_hf.modeling.forward_pass import several_processes
from adem_vl_hf.recipe import peak_learning_rate

ON_CPU = {"ACCELERATE_USE_CPU": "true"}
CONFIGS = scripts.ROOT / "examples" / "accelerate"


def launch(config: str, script, *arguments, **environment: str) -> str:
    """Run a script of the repository on two processes and return what it printed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / config]
    command += ["--main_process_port", "0", script, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def all_bases(tmp_path_factory):
    """A folder of bases for each family."""
    folder = tmp_path_factory.mktemp("families")
    for family in families.TABLE:
        families.save_bases(folder / family, family)
    return folder


@pytest.fixture(scope="module")
def alone(all_bases, tmp_path_factory):
    """Return the folders of the same runs on one process, with batches of four instead of two and two."""
    folder = tmp_path_factory.mktemp("alone")
    distributed_worker.run(all_bases / "llama", folder / "llama", 4)
    distributed_worker.others(all_bases, folder, 4)
    return folder


def facts_of(folder) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def assert_same_adapter(folder, alone, tolerance=1e-6):
    found, expected = (load_file(path / "model.safetensors") for path in (folder, alone))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype == torch.float32
        assert (found[key] - tensor).abs().max() <= tolerance, key


def assert_same_others(together, alone):
    """Compare the training step of each other model. The models must also differ from one another."""
    seen = []
    for name in distributed_worker.OTHERS:
        assert_same_adapter(together / name, alone / name)
        tensors = load_file(together / name / "model.safetensors")
        seen.append(torch.cat([tensors[key].flatten() for key in sorted(tensors)]))
    assert all(not torch.equal(one, other) for index, one in enumerate(seen) for other in seen[:index])


def assert_resumed(folder):
    """Check that the interrupted run ended with the same bits as the whole one, and return them."""
    assert "resumed_at_step" in json.loads((folder / "cut" / "training.json").read_text())
    whole, cut = (load_file(folder / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[key]) for key, tensor in whole.items())
    return whole


def files(folder) -> set[str]:
    """Return the names of the files, with those of all processes' random states as one."""
    return {"rng_state" if path.name.startswith("rng_state") else path.name for path in folder.iterdir()}


def lines(folder) -> int:
    return len((folder / "log.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_two_processes_train_as_one_does(all_bases, alone, tmp_path):
    """Of each batch one process has all the pictures and the other none, and the answers differ in length."""
    picture_folder(tmp_path / "pictures", 4)
    printed = launch("ddp.yaml", distributed_worker.__file__, "ddp", all_bases, tmp_path, **ON_CPU)
    answers = distributed_worker.answers(all_bases / "llama", tmp_path / "answered", 2)
    assert [len(rows) for rows in answers.values()] == [1, 1, 3, 3, 4, 4, 5, 5]
    facts = {"wrapped": "DistributedDataParallel", "world": 2, "saved": True, "answers": answers}
    assert facts_of(tmp_path) == [facts] * 2
    assert_same_others(tmp_path, alone)
    together, alone = tmp_path / "plain", alone / "llama"
    fresh, moved = tiny.build(all_bases / "llama").adapter_state_dict(), load_file(alone / "model.safetensors")
    assert all((moved[key] - tensor).abs().max() > 5e-4 for key, tensor in fresh.items())
    for name in (".", "checkpoint-2"):
        assert_same_adapter(together / name, alone / name)
        assert files(together / name) == files(alone / name)
    # one process writes
    assert lines(together) == lines(alone)
    recorded = [json.loads((folder / "training.json").read_text()) for folder in (together, alone)]
    assert [(facts["batch_size"], facts["steps"], facts["samples"]) for facts in recorded] == [(4, 4, 16)] * 2
    assert recorded[0]["train_loss"] == pytest.approx(recorded[1]["train_loss"], abs=2e-4)
    # examples/train.py, by the same two processes
    assert printed.count(f"saved in {tmp_path / 'example'}") == 1
    facts = json.loads((tmp_path / "example" / "training.json").read_text())
    assert (facts["samples"], facts["batch_size"], facts["steps"]) == (4, 4, 1)
    model = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "example")
    assert facts["learning_rate"] == pytest.approx(peak_learning_rate(model.config))
    assert load_file(tmp_path / "example" / "model.safetensors").keys() == moved.keys()


@pytest.mark.slow
def test_fully_sharded_training_saves_the_same_file_and_resumes(all_bases, alone, tmp_path):
    launch("fsdp2.yaml", distributed_worker.__file__, "fsdp2", all_bases, tmp_path, **ON_CPU)
    for facts in facts_of(tmp_path):
        assert {"FSDPLlamaDecoderLayer", "FSDPCLIPEncoderLayer"} <= set(facts["wrapped"])
        assert 0.4 < facts["share"] < 0.6  # of all numbers, on each process
        assert (facts["dtypes"], facts["world"]) == (["torch.float32"], 2)
    assert_same_others(tmp_path, alone)
    alone = alone / "llama"
    for name in ("whole", "cut"):
        assert_same_adapter(tmp_path / name, alone)
        assert files(tmp_path / name) == files(alone)
        configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / name, alone)]
        digests = [config.pop("adapter_digest") for config in configs]
        assert all(len(digest) == 64 for digest in digests)  # of tensors that differ in their last bits
        assert configs[0] == configs[1]
    whole = assert_resumed(tmp_path)
    loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in loaded.adapter_state_dict().items())


@pytest.mark.slow
def test_zero3_saves_the_same_file_and_resumes(all_bases, alone, tmp_path):
    launch("deepspeed_zero3.yaml", distributed_worker.__file__, "zero3", all_bases, tmp_path, DS_ACCELERATOR="cpu")
    for facts, samples in zip(facts_of(tmp_path), ("'0', '1'", "'2', '3'"), strict=True):
        assert facts["wrapped"] == "DeepSpeedEngine"
        assert 0.4 < facts["share"] < 0.6  # of all numbers, on each process
        assert facts["broken"].startswith(f"a gradient is NaN or infinite in step 1, with the samples {samples}.")
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    for name in ("whole", "cut"):
        assert_same_adapter(tmp_path / name, alone / "llama")
    assert_resumed(tmp_path)
    assert_same_others(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "environment"), [("fsdp2.yaml", ON_CPU), ("deepspeed_zero3.yaml", {"DS_ACCELERATOR": "cpu"})]
)
def test_the_command_line_ends_where_the_weights_are_spread(bases, tmp_path, config, environment):
    """One process writes the report, and the others, which have a share of the weights, do not wait for it."""
    picture_folder(tmp_path / "pictures", 4)
    printed = launch(config, distributed_worker.__file__, "command", bases, tmp_path, **environment)
    assert printed.count(f"saved in {tmp_path / 'run'}") == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "none, because FSDP or ZeRO-3 spreads the weights over processes" in page
    assert not (tmp_path / "run" / "samples").exists()
    assert load_file(tmp_path / "run" / "model.safetensors").keys()


class OnlyWhileCalled(dict):
    """Make the tensors of a module available only while it is called, as ZeRO-3 does."""

    def __init__(self, module):
        super().__init__(module._parameters)
        self.module, self.called = module, False
        module.register_forward_pre_hook(lambda *_: self.call(True))
        module.register_forward_hook(lambda *_: self.call(False))

    def call(self, begins):
        self.called = begins

    def __getitem__(self, key):
        assert self.called, f"{type(self.module).__name__}.{key} is read outside its module's call"
        return super().__getitem__(key)


@architectures.each()
@pytest.mark.parametrize("images", [[True, False], [False, False]])
def test_tensors_are_read_only_while_their_module_is_called(bases, arch, monkeypatch, images):
    model = arch.build(bases).train()
    monkeypatch.setattr(forward_pass, "several_processes", lambda: True)
    for module in model.adapter.modules():
        module._parameters = OnlyWhileCalled(module)
    name = next(iter(model.adapter._parameters))
    with pytest.raises(AssertionError, match=f"{name} is read outside"):
        getattr(model.adapter, name)
    model(**tiny.batch([6, 7], images)).loss.backward()
    assert tiny.gradients(model).keys() == model.adapter_state_dict().keys()


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_accelerate_knows_every_line_of_the_configs(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED"}
    assert (config.distributed_type.value, config.num_processes) == (kinds[name], 2)
    parser = launch_command_parser()
    flags = {action.dest for action in parser._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= flags


@architectures.each()
def test_the_blocks_that_are_split_off_are_there(model):
    assert model._no_split_modules == ["CLIPEncoderLayer", "LlamaDecoderLayer"]


@architectures.each()
def test_a_process_without_images_computes_what_one_alone_does(arch, model, monkeypatch):
    inputs = tiny.batch([6, 7], [False, False])
    assert not several_processes()
    expected = model(**inputs)
    monkeypatch.setattr(forward_pass, "several_processes", lambda: True)
    model.train()
    found = model(**inputs)
    found.loss.backward()
    grads = tiny.gradients(model)
    model.eval()
    assert_close(found.loss, expected.loss)
    assert grads.keys() == model.adapter_state_dict().keys()
    assert {key for key, tensor in grads.items() if tensor.abs().max() > 0} == arch.learns_from_text
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    ids = model.generate(**prompts, max_new_tokens=3, do_sample=False)
    monkeypatch.undo()
    assert ids.tolist() == model.generate(**prompts, max_new_tokens=3, do_sample=False).tolist()
