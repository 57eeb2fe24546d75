"""The options of the processor's call: where they may stand, what they do, and which are refused."""

import pytest
import tiny
import torch
from transformers import CLIPImageProcessor
from transformers.utils import PaddingStrategy

from adem_vl_hf import AdemVLProcessor

pytestmark = pytest.mark.core
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


def make(tokenizer=None, **fields) -> AdemVLProcessor:
    side = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    return AdemVLProcessor(CLIPImageProcessor(size=side, do_center_crop=False), tokenizer or tiny.tokenizer(), **fields)


@pytest.fixture(scope="module")
def processor():
    return make()


@pytest.fixture
def warnings(monkeypatch):
    """What the library's logger of the options says."""
    heard = []
    from adem_vl_hf.modeling import processor_options

    monkeypatch.setattr(processor_options.logger, "warning_once", heard.append)
    return heard


@pytest.mark.parametrize(
    "given",
    [
        {"max_length": 40, "padding": "max_length", "do_normalize": False},
        {"text_kwargs": {"max_length": 40, "padding": "max_length"}, "images_kwargs": {"do_normalize": False}},
        {"common_kwargs": {"max_length": 40}, "text_kwargs": {"padding": "max_length"}, "do_normalize": False},
    ],
)
def test_options_stand_flat_or_by_part(processor, warnings, given):
    row = processor(images=tiny.picture(), text="a cat", **given)
    assert row["input_ids"].shape == row["attention_mask"].shape == (1, 40)
    assert 0 <= row["pixel_values"].min() < row["pixel_values"].max() <= 1
    assert processor(images=tiny.picture(), text="a cat")["pixel_values"].min() < 0
    assert not warnings


@pytest.mark.parametrize(
    "given",
    [
        {"text_pair": "b"},
        {"text_target": "b"},
        {"text_kwargs": {"text_pair_target": "b"}},
        {"is_split_into_words": True},
    ],
)
def test_a_text_under_a_name_of_tokenizers_is_refused(processor, given):
    with pytest.raises(ValueError, match="would have no effect: give"):
        processor(tiny.picture(), "a", **given)
    processor(tiny.picture(), "a", is_split_into_words=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [([[1, 2]], "its text has 1; give prompts"), ({"role": "user"}, "a chat is a list of messages")],
)
def test_what_is_no_text_is_said(processor, text, message):
    with pytest.raises(ValueError, match=message):
        processor(None, text)


def test_an_option_that_is_given_twice_is_refused(processor):
    with pytest.raises(ValueError, match="max_length is given twice, in text_kwargs"):
        processor(text="a cat", max_length=30, text_kwargs={"max_length": 40})
    with pytest.raises(ValueError, match="do_normalize is given twice, in images_kwargs"):
        processor(images=tiny.picture(), text="a cat", do_normalize=True, images_kwargs={"do_normalize": False})


def test_what_means_nothing_is_ignored_aloud(processor, warnings):
    plain = processor(text="a cat")
    row = processor(text="a cat", crop=2, text_kwargs={"lenght": 3}, truncation=True)
    assert torch.equal(row["input_ids"], plain["input_ids"])
    assert [text.partition(" ")[0] for text in warnings] == ["lenght", "crop"]


def test_nothing_is_cut_even_when_asked(processor):
    with pytest.raises(ValueError, match="nothing is cut silently"):
        processor(text="a cat", max_length=3, truncation=True)


def test_marked_control_tokens_are_refused(processor):
    with pytest.raises(ValueError, match="sanitize_control_tokens=True is not supported"):
        processor(text="a cat", sanitize_control_tokens=True)


def test_padding_that_the_tokenizer_was_loaded_with(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    tokenizer = type(tiny.tokenizer()).from_pretrained(tmp_path, padding="max_length", max_length=20)
    made = make(tokenizer)
    assert made(text="a cat")["input_ids"].shape[1] == 20
    assert made(text="a cat", padding="longest")["input_ids"].shape[1] < 20
    assert made(text="a cat", max_length=30)["input_ids"].shape[1] == 30
    assert made(text="two birds flying over the sea " * 4)["input_ids"].shape[1] > 20  # no limit to the text


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padding_side(processor, padding_side):
    mask = processor(text=["a cat", "two birds flying"], padding_side=padding_side)["attention_mask"]
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=padding_side == "right")
    assert not mask[0].all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"padding": "max_lenght"},
            "^padding is 'max_lenght'; did you mean 'max_length'. Known are True, False, 'longest",
        ),
        (
            {"text_kwargs": {"padding": 3}},
            "^padding is 3. Known are True, False, 'longest', 'max_length', 'do_not_pad'$",
        ),
        ({"padding_side": "lfet"}, "^padding_side is 'lfet'; did you mean 'left'. Known are 'left', 'right'$"),
        ({"padding": "max_length"}, "^padding='max_length' lacks the length to pad to; give max_length, too"),
    ],
)
def test_a_wrong_padding_is_refused(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor(text="a cat", **given)
    for padding in (True, False, None, "longest", "do_not_pad", PaddingStrategy.LONGEST):
        assert processor(text="a cat", padding=padding, padding_side=None)["attention_mask"].all()
    assert processor(text="a cat", padding=PaddingStrategy.MAX_LENGTH, max_length=30)["input_ids"].shape[1] == 30


def test_without_a_tokenizer_there_is_no_processor():
    with pytest.raises(ValueError, match="tokenizer is missing: pass the tokenizer of the language model"):
        AdemVLProcessor(CLIPImageProcessor())


def test_the_image_token_is_a_mark_too(processor):
    word = processor.image_token
    marked, named = (processor(images=tiny.picture(), text=f"a {mark} cat")["input_ids"] for mark in ("<image>", word))
    assert torch.equal(marked, named)
    with pytest.raises(ValueError, match="sample 0: 1 <image> marks for 0 images"):
        processor(text=f"a {word} cat")
    with pytest.raises(ValueError, match="sample 0: 2 <image> marks for 1 images"):
        processor(images=tiny.picture(), text=f"a {word} <image> cat")


def test_an_image_token_that_stands_for_other_things_is_no_mark():
    made = make(image_token="<unk>")
    assert made(text="a <unk> cat")["input_ids"][0].tolist().count(made.image_token_id) == 1


def test_a_chat_that_begins_with_a_special_token_gets_no_prefix():
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<reserved_0>", "<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    made = make(tokenizer, image_token="<reserved_0>")
    chat = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    ids = made.apply_chat_template(chat, tokenize=True)
    assert made.decode(ids[0]) == "<s><|im_start|>user\nhello<|im_end|>\n"


def test_bare_ids_are_lists_unless_tensors_are_asked_for():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = {"default": CHATML, "short": "{{ messages[0]['content'] }}"}
    made = make(tokenizer)
    chat = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    ids = made.apply_chat_template(chat, tokenize=True, chat_template="short")
    assert isinstance(ids, list)
    assert made.decode(ids[0]).endswith("hello")
    tensor = made.apply_chat_template(chat, tokenize=True, chat_template="short", return_tensors="pt")
    assert tensor.tolist() == ids


def test_saving_leaves_the_parts_as_they_are(processor, tmp_path):
    before = processor.to_dict()
    processor.save_pretrained(tmp_path)
    assert processor.to_dict() == before
