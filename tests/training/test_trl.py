"""TRL's SFTTrainer on conversations about pictures, and what it asks of the model and the processor."""

import architectures
import families
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from training_runs import COLOURS
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.modeling.labels import NOT_SUPERVISED
from adem_vl_hf.modeling.trained_in_base import names_in_checkpoint

# TRL 1.16 and PEFT 0.21 call parts of Transformers 5.23 by their names before
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
QUESTION = "a photo of"


@pytest.fixture(scope="module")
def chat_bases(request, tmp_path_factory):
    """Bases whose tokenizer has a chat template that says where the answers are."""
    folder = families.save_bases(tmp_path_factory.mktemp("chat"), getattr(request, "param", "llama"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "llama")
    return folder


@pytest.fixture(scope="module")
def processor(arch, chat_bases):
    return arch.processor(chat_bases, arch.build(chat_bases))


def turn(role, text, image=False):
    return {"role": role, "content": [{"type": "image"}] * image + [{"type": "text", "text": text}]}


def messages():
    """A picture of one colour each, whose answer is that of the colour, and a conversation without a picture."""
    rows = [
        {
            "images": [Image.new("RGB", (16, 16), colour)],
            "messages": [turn("user", QUESTION, True), turn("assistant", text)],
        }
        for colour, text in COLOURS.items()
    ]
    rows[-1] = {"images": [], "messages": [turn("user", "hello"), turn("assistant", "hello world")]}
    return Dataset.from_list(rows)


def prompts_and_completions():
    return messages().map(
        lambda row: {"prompt": row["messages"][:1], "completion": row["messages"][1:]}, remove_columns="messages"
    )


def sft(model, processor, folder, dataset=None, max_steps=12, peft_config=None, **settings):
    usual = {
        "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_length": None,
    }  # fmt: skip
    arguments = SFTConfig(str(folder), max_steps=max_steps, **{**usual, **settings})
    return SFTTrainer(
        model=model, args=arguments, processing_class=processor,
        train_dataset=dataset or messages(), peft_config=peft_config,
    )  # fmt: skip


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@architectures.each()
@pytest.mark.parametrize("supervised", ["everything", "answers", "completions"])
def test_sft_trains_the_adapter_and_its_lora(arch, chat_bases, processor, tmp_path, supervised):
    trainer = sft(
        arch.build(chat_bases, lora=LORA), processor, tmp_path, assistant_only_loss=supervised == "answers",
        dataset=prompts_and_completions() if supervised == "completions" else messages(),
    )  # fmt: skip
    model = trainer.model
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainer.train()
    found = losses(trainer)
    assert len(found) == 12
    assert found[-1] < 0.92 * found[0]
    renamed = names_in_checkpoint(model)
    moved = {renamed.get(key, key) for key, x in model.state_dict().items() if not torch.equal(x, before[key])}
    assert moved == set(model.adapter_state_dict())
    assert any(key.startswith("adapter.lora.") for key in moved)
    trainer.save_model()
    assert load_file(tmp_path / "model.safetensors").keys() == moved
    loaded = arch.model_class.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.state_dict())
    inputs = {key: tensor for key, tensor in tiny.batch([7], [True]).items() if key != "labels"}
    with torch.no_grad():
        assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits)
    assert arch.processor_class.from_pretrained(tmp_path).chat_template == processor.chat_template


@architectures.each_family("chat_bases")
def test_the_first_loss_is_the_models_own(arch, chat_bases, processor, tmp_path):
    """TRL computes its loss from ``base_model`` and the head; the model computes it in another way."""
    trainer = sft(arch.build(chat_bases, lora=LORA), processor, tmp_path, max_steps=1)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    with torch.no_grad():
        expected = arch.build(chat_bases, lora=LORA).train()(**batch).loss
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(float(expected), rel=1e-3)
    assert trainer.evaluate(messages())["eval_loss"] < float(expected)


@architectures.each()
def test_peft_in_the_trainer_with_the_adapter_along(arch, chat_bases, processor, tmp_path):
    config = LoraConfig(r=4, target_modules=r"language_model\..*\.(q_proj|v_proj)", modules_to_save=["adapter"])
    trainer = sft(arch.build(chat_bases), processor, tmp_path, peft_config=config)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert losses(trainer)[-1] < 0.92 * losses(trainer)[0]
    moved = {n for n, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[n])}
    assert moved == {n for n, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert {n.split(".")[2] for n in moved} == {"language_model", "adapter"}


def test_answers_alone_are_supervised(chat_bases, processor, tmp_path):
    model = tiny.build(chat_bases, lora=LORA)
    for number, settings in enumerate(({"assistant_only_loss": True}, {"dataset": prompts_and_completions()})):
        trainer = sft(model, processor, tmp_path / str(number), **settings)
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
        answers = [processor.decode(row[row != NOT_SUPERVISED]) for row in batch["labels"]]
        assert answers == [text + "</s>" for text in [*list(COLOURS.values())[:3], "hello world"]]
        assert batch["image_mask"].tolist() == [True, True, True, False]
        rows = [
            processor.decode(ids[mask == 1])
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert rows[0] == "<s>user: <reserved_0>a photo of\na cat</s>"
        assert rows[3] == "<s>user: hello\nhello world</s>"


def test_our_collator_finds_the_answers_without_marks_in_the_template(chat_bases, processor, tmp_path):
    plain = type(processor)(processor.image_processor, processor.tokenizer)
    plain.chat_template = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    arguments = SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, max_steps=12, per_device_train_batch_size=4, learning_rate=1e-2,
        logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=tiny.build(chat_bases), args=arguments, train_dataset=messages(), processing_class=plain,
        data_collator=AdemVLCollator(plain),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    answers = [plain.decode(row[row != NOT_SUPERVISED]) for row in batch["labels"]]
    assert answers == [text + "</s>" for text in [*list(COLOURS.values())[:3], "hello world"]]
    trainer.train()
    assert losses(trainer)[-1] < 0.92 * losses(trainer)[0]


@architectures.each_family("chat_bases")
def test_base_model_is_the_model_without_its_head(arch, chat_bases):
    model = arch.build(chat_bases)
    inputs = {key: tensor for key, tensor in tiny.batch([9, 7], [True, False]).items() if key != "labels"}
    with torch.no_grad():
        body = model.base_model(**inputs)
        assert not hasattr(body, "logits")
        found = model.get_output_embeddings()(body.last_hidden_state)
        if cap := getattr(model.config.text_config, "final_logit_softcapping", None):
            found = cap * torch.tanh(found / cap)
        assert_close(found, model(**inputs).logits)


def test_complete_text_is_left_as_it_is(processor):
    plain = processor(text="hello", add_special_tokens=False)["input_ids"]
    assert processor.decode(plain[0]) == "hello"
    assert processor.decode(processor(text="hello")["input_ids"][0]) == "<s>Image: N/Ahello"
    marked = processor(images=tiny.picture(), text="a <image> cat", add_special_tokens=False)
    assert processor.decode(marked["input_ids"][0]) == "a <reserved_0> cat"


def test_rows_are_padded_to_a_multiple(processor):
    texts = ["a cat", "two birds flying over the sea"]
    short, long = processor(text=texts), processor(text=texts, pad_to_multiple_of=16)
    assert long["input_ids"].shape == long["attention_mask"].shape == (2, 16)
    assert short["input_ids"].shape[1] < 16
    assert torch.equal(long["attention_mask"].sum(1), short["attention_mask"].sum(1))


@pytest.mark.parametrize("image_tokens", [0, 1, 3])
@pytest.mark.parametrize(
    "text", ["<s>a photo <image>of a cat", "two birds<image>", "<image>a dog on the grass", "hello"]
)
def test_offsets_say_which_characters_a_token_stands_for(processor, image_tokens, text):
    made = type(processor)(processor.image_processor, processor.tokenizer, image_tokens=image_tokens)
    picture = tiny.picture() if "<image>" in text else None
    row = made(images=[picture], text=[text], return_offsets_mapping=True, pad_to_multiple_of=32)
    ids, offsets = row["input_ids"][0].tolist(), row["offset_mapping"][0]
    assert len(ids) == len(offsets) == 32
    covered = ""
    for token, (begin, end) in zip(ids, offsets, strict=True):
        word = processor.tokenizer.decode([token])
        if begin == end:
            assert (begin, end) == (0, 0)
        elif token == processor.image_token_id:
            assert text[begin:end] == "<image>"
        else:
            assert text[begin:end].replace("<image>", "") == word
            covered += word
    assert covered == text.replace("<image>", "")
    assert ids.count(processor.image_token_id) == (image_tokens if picture else 0)


def test_two_pictures_in_a_conversation(processor):
    pictures = [{"type": "image", "image": tiny.picture()}] * 2
    conversations = [[turn("user", "hello")], [{"role": "user", "content": pictures}]]
    rows = processor.apply_chat_template(conversations, tokenize=True, return_dict=True)
    assert rows["image_mask"].tolist() == [[False, False], [True, True]]
