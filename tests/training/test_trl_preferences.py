"""TRL's trainers of preferences and rewards, each for one step: the adapter trains, and the tower sees the images."""

import architectures
import families
import pytest
import tiny
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
COMMON = {
    "per_device_train_batch_size": 2, "max_steps": 1, "report_to": [], "use_cpu": True, "bf16": False,
    "save_strategy": "no", "learning_rate": 0.1,
}  # fmt: skip
SAMPLED = {"num_generations": 2, "max_completion_length": 4, "temperature": 1.0}


@pytest.fixture(scope="module")
def checkpoint(arch, tmp_path_factory):
    """A saved model, because TRL loads the one that it compares with by its name; and its processor."""
    folder = families.save_bases(tmp_path_factory.mktemp("chat"), "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "llama")
    model = arch.build(folder)
    model.save_pretrained(folder / "model")
    return folder / "model", arch.processor(folder, model)


def turn(role, text):
    return [{"role": role, "content": text}]


def length_of(completions, **kwargs):
    return [float(len(str(completion))) for completion in completions]


def one_step(arch, checkpoint, kind, arguments, dataset, **more):
    folder, processor = checkpoint
    model = arch.model_class.from_pretrained(folder)
    before, seen = {name: tensor.clone() for name, tensor in model.adapter_state_dict().items()}, []
    model.vision_tower.register_forward_pre_hook(lambda tower, args: seen.append(args[0].clone()))
    kind(model=model, args=arguments, train_dataset=dataset, processing_class=processor, **more).train()
    assert seen
    assert all(pixels.abs().max() > 0 for pixels in seen)  # images, and not what fills a row up
    assert any(not torch.equal(before[name], now) for name, now in model.adapter_state_dict().items())


@architectures.each()
def test_preferences_are_learned(arch, checkpoint, tmp_path):
    rows = [
        {"images": [tiny.picture(i)], "prompt": turn("user", "w"), "chosen": turn("assistant", "a cat"),
         "rejected": turn("assistant", "two dogs")}
        for i in range(4)
    ]  # fmt: skip
    one_step(arch, checkpoint, DPOTrainer, DPOConfig(tmp_path, **COMMON), Dataset.from_list(rows))


@architectures.each()
@pytest.mark.parametrize(
    ("kind", "config", "fields"), [(GRPOTrainer, GRPOConfig, {"beta": 0.1}), (RLOOTrainer, RLOOConfig, {})]
)
def test_rewards_are_learned(arch, checkpoint, tmp_path, kind, config, fields):
    rows = [{"images": [tiny.picture(i)], "prompt": turn("user", "w")} for i in range(4)]
    arguments = config(tmp_path, **COMMON, **SAMPLED, **fields)
    one_step(arch, checkpoint, kind, arguments, Dataset.from_list(rows), reward_funcs=length_of)
