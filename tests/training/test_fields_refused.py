"""Fields that would do something else than they say are refused in a sentence, before the first step."""

import architectures
import pytest
import tiny
import torch
import transformers
from accelerate import ParallelismConfig
from datasets import Dataset
from field_runs import stock
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from training_runs import picture_folder, processor_of, samples
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from adem_vl_hf import training_fields
from adem_vl_hf.cli.parser import main
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.training import build_trainer, training_arguments
from adem_vl_hf.training_fields import REFUSALS, refuse, refuse_without_full_batch

SEQ2SEQ = {"trainer": Seq2SeqTrainer, "arguments": Seq2SeqTrainingArguments, "predict_with_generate": True}
REFUSED = {
    "fp16": ({"fp16": True}, "no effect in training on a CPU; use bf16=True"),
    "bf16_full_eval": ({"bf16_full_eval": True}, "would round the trained adapter to bfloat16.*dtype=torch.bfloat16"),
    "fp16_full_eval": ({"fp16_full_eval": True}, "would round the trained adapter to float16.*dtype=torch.float16"),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 0}, "at least one forward pass; give a whole"),
    "use_liger_kernel": ({"use_liger_kernel": True}, "would change nothing; leave it out"),
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1, **SEQ2SEQ}, "off by one position; leave one"),
    "hub_token": ({"hub_token": "hf_secret"}, "training_args.bin of every checkpoint.*HF_TOKEN"),
    "parallelism_config": ({"parallelism_config": ParallelismConfig(cp_size=2)}, "use data parallelism, FSDP"),
}
# these versions ask for the package of Liger's kernels before a callback is called
OLDER = Version(transformers.__version__) < Version("5.1")
# of EVLM alone; of TRL's SFTConfig; of Transformers 4
OF_SOME = {"debug", "activation_offloading", "save_safetensors"}


def test_every_refusal_is_tested():
    assert {refusal.field for refusal in REFUSALS} == REFUSED.keys() | OF_SOME


@architectures.each()
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_the_stock_trainer_refuses(bases, arch, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", single_process(Trainer))
    model = arch.build(bases)
    for field, (fields, message) in REFUSED.items():
        if field == "use_liger_kernel" and OLDER:
            continue
        with pytest.raises(ValueError, match=f"^{field}: .*{message}") as error:
            stock(bases, arch, tmp_path, train=False, model=model, **fields)
        assert "hf_secret" not in str(error.value)
    wrapped = get_peft_model(model, LoraConfig(target_modules=r"language_model\..*\.q_proj"))
    with pytest.raises(ValueError, match="^fp16: "):
        Trainer(wrapped, TrainingArguments(str(tmp_path), fp16=True, use_cpu=True, report_to="none"))


def single_process(trainer):
    """Accelerate itself asks for several processes at once where a row would be split."""
    create = trainer.create_accelerator_and_postprocess

    def without(self):
        given, self.args.parallelism_config = getattr(self.args, "parallelism_config", None), None
        create(self)
        self.args.parallelism_config = given

    return without


@architectures.each()
def test_the_recipe_refuses_at_once(bases, arch, tmp_path):
    for field, (fields, message) in REFUSED.items():
        fields = {key: value for key, value in fields.items() if key not in ("trainer", "arguments")}
        with pytest.raises(ValueError, match=f"^{field}: .*{message}"):
            training_arguments(tmp_path, 8, use_cpu=True, **fields)
    training_arguments(tmp_path, 8, use_cpu=True, label_smoothing_factor=0.1)
    training_arguments(tmp_path, 8, use_cpu=True, predict_with_generate=True)


def test_debug_is_refused_for_evlm_alone(bases, tmp_path):
    with pytest.raises(ValueError, match="^debug: underflow_overflow cannot look at the empty tensors"):
        stock(bases, architectures.EVLM, tmp_path, train=False, debug="underflow_overflow")
    refuse({"debug": "underflow_overflow"}, "adem_vl")


def test_activation_offloading_needs_a_gpu():
    with pytest.raises(ValueError, match="^activation_offloading: "):
        refuse({"activation_offloading": True, "use_cpu": True})
    refuse({"activation_offloading": False, "use_cpu": True})


@pytest.mark.core
def test_what_transformers_4_would_do_wrong_is_refused_there():
    smoothed = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2}
    if training_fields.BEFORE_5:
        with pytest.raises(ValueError, match="^label_smoothing_factor: .*adds up the losses of the parts of a batch"):
            refuse(smoothed)
    else:
        refuse(smoothed)
    with pytest.raises(ValueError, match="^save_safetensors: its checkpoints would be pickles"):
        refuse({"save_safetensors": False})


def test_other_models_are_left_alone(tmp_path):
    """Every Trainer has the check."""
    Trainer(torch.nn.Linear(2, 2), TrainingArguments(str(tmp_path), use_cpu=True, fp16=True, report_to="none"))


def test_the_command_line_refuses_before_it_reads_anything(bases, tmp_path, capsys):
    picture_folder(tmp_path / "pictures", 4)
    command = [
        "train",
        "--data",
        str(tmp_path / "pictures"),
        *tiny.base_flags(bases),
        "--output-dir",
        str(tmp_path / "o"),
    ]
    for words, message in (
        (["hub_token=hf_secret"], "hub_token: Trainer would write the token"),
        (["use_cpu=true", "fp16=true"], "fp16: float16 has no effect"),
    ):
        assert main([*command, "--set", *words]) != 0
        said = capsys.readouterr().err
        assert message in said
        assert "hf_secret" not in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("max_steps", [-1, 2])
def test_no_batch_is_left_where_incomplete_ones_are_left_out(bases, tmp_path, capsys, max_steps):
    model = tiny.build(bases)
    processor = processor_of(bases, model)
    fields = {"max_steps": max_steps, "use_cpu": True, "disable_tqdm": True, "dataloader_drop_last": True}
    arguments = training_arguments(tmp_path / "o", 3, 4, **fields)
    for data, held_out in ((3, None), (4, samples(3)), (4, {"one": samples(4), "another": samples(3)})):
        with pytest.raises(ValueError, match="dataloader_drop_last .* with 3 samples there is no other: a batch has 4"):
            build_trainer(model, processor, samples(data), arguments, eval_dataset=held_out)
    build_trainer(model, processor, samples(4), arguments, eval_dataset=samples(4))
    refuse_without_full_batch(arguments, 4, None)
    arguments.dataloader_drop_last = False
    build_trainer(model, processor, samples(3), arguments)
    picture_folder(tmp_path / "pictures", 3)
    command = ["train", "--data", str(tmp_path / "pictures"), *tiny.base_flags(bases), "--projector-dim", "8",
               "--output-dir", str(tmp_path / "o"), "--batch-size", "4"]  # fmt: skip
    command += ["--set", "dataloader_drop_last=true", *(["--max-steps", "2"] if max_steps > 0 else [])]
    assert main(command) == 2
    assert "with 3 samples there is no other: a batch has 4; leave the field out" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "taken"), [(False, 8), (True, 4)])
def test_a_batch_is_that_of_all_processes(monkeypatch, tmp_path, split, taken):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", dataloader_drop_last=True,
                                  accelerator_config={"split_batches": split})  # fmt: skip
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    refuse_without_full_batch(arguments, 4, range(taken))
    with pytest.raises(ValueError, match=f"with {taken - 1} samples there is no other: a batch has {taken};"):
        refuse_without_full_batch(arguments, 4, range(taken - 1))


GROUPED = [{"train_sampling_strategy": "group_by_length"}, {"train_sampling_strategy": "batch_rebalance"}]
GROUPED = GROUPED if hasattr(TrainingArguments, "train_sampling_strategy") else [{"group_by_length": True}]


def rows(number=8):
    return Dataset.from_list([
        {"image": sample["image"], "prompt": sample["prompt"], "answer": sample["answer"]}
        for sample in samples(number)
    ])  # fmt: skip


@pytest.mark.slow
@architectures.each()
@pytest.mark.parametrize("fields", GROUPED)
def test_rows_are_grouped_by_their_length(bases, arch, tmp_path, fields):
    """A column of lengths is asked for, and the sentence says how to make it."""
    model = arch.build(bases)
    processor = processor_of(bases, model)
    collator = AdemVLCollator(processor)
    arguments = training_arguments(tmp_path, 8, 2, max_steps=4, use_cpu=True, disable_tqdm=True, **fields)
    for data, held_out in ((samples(), None), (rows(), None), (rows().map(lambda row: {"length": 1}), rows(4))):
        with pytest.raises(ValueError, match=r"needs the length of each row.*column 'length'.*rows\.map\(lambda row"):
            build_trainer(model, processor, data, arguments, eval_dataset=held_out)
    with pytest.raises(ValueError, match="input_ids"):  # of Transformers
        stock(bases, arch, tmp_path, data=rows(), **fields)
    counted = rows(32).map(lambda row: {"length": collator([row])["input_ids"].shape[1]})
    assert len(set(counted["length"])) == 4
    padding = {}
    for name, chosen in (("random", {}), ("grouped", fields)):
        padding[name] = 0

        def collate(batch, name=name):
            lengths = [row["length"] for row in batch]
            padding[name] += max(lengths) * len(lengths) - sum(lengths)
            return collator(batch)

        made = stock(
            bases, arch, tmp_path, data=counted, max_steps=16, around={"data_collator": collate}, **chosen,
        )  # fmt: skip
        assert made.state.epoch == 1
    assert padding["grouped"] < 0.7 * padding["random"]
