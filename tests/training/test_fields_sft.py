"""Fields of TRL's ``SFTConfig``, beside those of ``TrainingArguments``, with ``SFTTrainer`` on both models."""

import architectures
import pytest
import test_trl
import torch
from closeness import assert_equal
from datasets import Dataset
from field_runs import EACH_STEP, distance
from PIL import Image
from test_trl import TEMPLATE, chat_bases, losses, messages, processor, prompts_and_completions, turn  # noqa: F401
from training_runs import COLOURS, adapter

from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*will be removed in v2.0.0:FutureWarning"),
]


def texts(column="text"):
    return Dataset.from_list([{column: f"a photo of {text}"} for text in COLOURS.values()])


def without_images():
    return Dataset.from_list(
        [{"messages": [turn("user", "a photo of"), turn("assistant", text)]} for text in COLOURS.values()]
    )


@pytest.fixture
def sft(arch, chat_bases, processor, tmp_path):  # noqa: F811
    def run(data=None, steps=2, train=True, **fields):
        made = test_trl.sft(
            arch.build(chat_bases), processor, tmp_path, dataset=data, max_steps=steps, **{"seed": 0, **fields}
        )
        if train:
            made.train()
        return made

    return run


def labels(trainer):
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    return [row[row != NOT_SUPERVISED].tolist() for row in batch["labels"]]


@architectures.each()
def test_fields_that_leave_a_run_as_it_is(sft):
    plain = adapter(sft().model)
    for fields in (
        {"dataset_num_proc": 2, "model_init_kwargs": {"dtype": "float32"}, "auto_find_batch_size": True},
        {"dataset_kwargs": {"skip_prepare_dataset": True}, "trust_remote_code": True, "max_length": 1024,
         "pad_token": "<unk>", "loss_type": "nll", "gradient_checkpointing": False, "truncation_mode": "keep_start"},
    ):  # fmt: skip
        assert_equal(adapter(sft(**fields).model), plain)
    padded = sft(pad_to_multiple_of=16)
    batch = padded.data_collator([padded.train_dataset[0]])
    assert batch["input_ids"].shape[1] % 16 == 0
    assert distance(adapter(padded.model), plain) < 1e-4  # measured: 9e-8 (ADEM-VL) and 8e-6


@architectures.each()
def test_fields_that_change_what_is_learned(sft):
    plain = adapter(sft().model)
    for fields in (
        {"assistant_only_loss": True}, {"loss_type": "dft"}, {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0}, {"bf16": True}, {"per_device_train_batch_size": 2},
    ):  # fmt: skip
        assert distance(adapter(sft(**fields).model), plain) > 1e-4, fields


@architectures.each()
def test_completion_only_loss(sft):
    alone, both = (sft(prompts_and_completions(), train=False, completion_only_loss=only) for only in (True, False))
    assert all(len(one) < len(other) for one, other in zip(labels(alone), labels(both), strict=True))
    with pytest.raises(ValueError, match="completion_only_loss"):
        sft(completion_only_loss=True)


@architectures.each()
def test_text_without_images(sft):
    """Packed or without padding, rows do not see one another: the loss is that of rows apart."""
    expected = losses(sft(without_images()))
    for fields in (
        {"packing": True, "max_length": 64}, {"padding_free": True}, {"max_length": 1024},
        {"eval_packing": True, "max_length": 64},
    ):  # fmt: skip
        assert losses(sft(without_images(), **fields)) == pytest.approx(expected, rel=1e-4), fields
    wrapped = sft(without_images(), packing=True, packing_strategy="wrapped", max_length=64)
    assert torch.tensor(losses(wrapped)).isfinite().all()
    assert losses(sft(without_images(), max_length=8)) != pytest.approx(expected, rel=1e-4)
    named, usual = (sft(texts(column), dataset_text_field=column) for column in ("words", "text"))
    assert_equal(adapter(named.model), adapter(usual.model))
    shuffled = sft(texts(), train=False, shuffle_dataset=True).train_dataset["input_ids"]
    ordered = sft(texts(), train=False).train_dataset["input_ids"]
    assert shuffled != ordered
    assert sorted(shuffled) == sorted(ordered)


@architectures.each()
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"packing": True, "max_length": 64}, "Packing is not supported for vision datasets"),
        ({"padding_free": True}, "Padding-free training is yet not supported for vision datasets"),
        ({"truncation_mode": "keep_end", "max_length": 64}, "not supported for vision datasets"),
        ({"max_length": 8}, "exceed the window of 8.*nothing is cut silently"),
        ({"eos_token": "<nope>"}, "not found in the vocabulary"),
        ({"pad_token": "<nope>"}, "not found in the vocabulary"),
        ({"router_aux_loss_coef": 0.1}, "is not a Mixture-of-Experts model"),
        ({"activation_offloading": True}, "^activation_offloading: TRL moves activations from a GPU"),
        ({"use_liger_kernel": True}, "^use_liger_kernel: "), ({"bf16_full_eval": True}, "^bf16_full_eval: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_fields_that_are_refused(sft, fields, message):
    with pytest.raises(ValueError, match=message):
        sft(**fields)


@architectures.each()
def test_a_cut_never_takes_the_place_of_an_image(sft):
    """TRL cuts rows of prompt and completion itself, at their end; the model refuses a row that lost its image."""
    whole, cut = (sft(prompts_and_completions(), train=False, max_length=length) for length in (None, 9))
    short, long = labels(cut), labels(whole)
    assert all(one == other[: len(one)] for one, other in zip(short, long, strict=True))
    assert sum(map(len, short)) < sum(map(len, long))
    late = [{"type": "text", "text": "a photo of a cat " * 3}, {"type": "image"}]
    rows = Dataset.from_list([
        {"images": [Image.new("RGB", (16, 16))], "prompt": [{"role": "user", "content": late}],
         "completion": [{"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]}
    ] * 4)  # fmt: skip
    with pytest.raises(ValueError, match="no image token|no position of the batch is supervised"):
        sft(rows, max_length=8, completion_only_loss=False)


@architectures.each()
def test_tokens_and_templates(sft, processor, tmp_path):  # noqa: F811
    before = processor.tokenizer.eos_token, processor.chat_template
    try:
        row = labels(sft(train=False, eos_token="<pad>"))[0]
        assert processor.tokenizer.decode(row).endswith("<pad>")
        path = tmp_path / "loud.jinja"
        path.write_text(TEMPLATE.replace("message['role'] }}: ", "message['role'] }}! "))  # it takes texts alone
        row = labels(sft(train=False, chat_template_path=str(path)))[0]
        assert processor.tokenizer.decode(row).startswith("<s>user! <reserved_0>a photo of")
    finally:
        processor.tokenizer.eos_token, processor.chat_template = before


@architectures.each()
def test_evaluation(sft, arch, chat_bases, processor, tmp_path):  # noqa: F811
    made = sft(train=False, **{**EACH_STEP, "eval_strategy": "no"})
    made.train()
    assert made.evaluate(messages())["eval_loss"] > 0
