"""Asking about a chat: every part that is trained is asked about, and what would be lost is refused."""

import base64
import io
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import CLIPImageProcessor

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.modeling.chat_parts import plain_part
from adem_vl_hf.modeling.chat_rows import TAKES_IMAGES
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

pytestmark = pytest.mark.core
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PARTS = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}{% endfor %}"
)
ASKED = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
UNKNOWN = r"^sample 0, turn 0: a part of its content is .*; known are text, image, image_url and video$"


def data_url():
    buffer = io.BytesIO()
    tiny.picture().save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.fixture(params=["none", "texts", "parts"])
def processor(request):
    tokenizer = tiny.tokenizer()
    side = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    made = AdemVLProcessor(CLIPImageProcessor(size=side, do_center_crop=False), tokenizer)
    made.chat_template = {"none": None, "texts": TEMPLATE, "parts": PARTS}[request.param]
    return made


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def trained_before_the_answer(processor, chat):
    batch = AdemVLCollator(processor)([{"messages": [*chat, {"role": "assistant", "content": "two birds"}]}])
    length = int((batch["labels"][0] != NOT_SUPERVISED).nonzero()[0])
    return batch["input_ids"][0, :length], batch.get("pixel_values")


@pytest.mark.parametrize(
    "part",
    ["a cat", {"text": "a cat"}, *({"type": kind, "text": "a cat"} for kind in ("text", "input_text", "output_text"))],
)
def test_a_text_in_every_spelling_is_asked(processor, part):
    chat = user({"type": "text", "text": "hello"}, part)
    assert "helloa cat" in processor.apply_chat_template(chat, add_generation_prompt=True)
    asked = processor.apply_chat_template(chat, **ASKED)["input_ids"][0]
    assert torch.equal(asked, trained_before_the_answer(processor, chat)[0])
    assert torch.equal(processor(text=[chat])["input_ids"][0], asked)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "bytes": base64.b64decode(data_url().partition(",")[2])},
        {"type": "input_image", "image_url": data_url()},
        {"type": "image_url", "image_url": {"url": data_url()}},
        {"image": tiny.picture()},
    ],
)
def test_an_image_in_every_spelling_is_shown(processor, part):
    chat = user(part, {"type": "text", "text": "a cat"})
    asked = processor.apply_chat_template(chat, **ASKED)
    ids, pixels = trained_before_the_answer(processor, chat)
    assert torch.equal(asked["input_ids"][0], ids)
    assert torch.equal(asked["pixel_values"], pixels)


@pytest.mark.parametrize("content", ["<image>a cat", " a<image> cat", [{"type": "image"}, {"text": "a cat<image>"}]])
def test_marks_in_a_text_are_parts_as_in_training(processor, content):
    """A template for parts may write a text otherwise than the text of a part, or lose it."""
    chat = [{"role": "user", "content": content}]
    images = [tiny.picture()] * str(content).count("image")
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert "cat" in text
    if "<image>" not in text:  # the marks are taken out at the ends of an instruction
        return
    asked = processor(text=[chat], images=[images])["input_ids"]
    assert torch.equal(processor(text=[text], images=[images])["input_ids"], asked)


def test_objects_are_messages_and_parts_too(processor):
    part = SimpleNamespace(type="input_text", text="a cat")
    assert "a cat" in processor.apply_chat_template([SimpleNamespace(role="user", content=[part])])
    assert "a cat" in processor.apply_chat_template(SimpleNamespace(messages=user(part)))


@pytest.mark.parametrize(
    "part",
    [{"type": "audio"}, {"type": "img", "img": "a.png"}, {"type": "file"}, {"type": "text"}, {"type": ["text"]}, 3],
)
def test_a_part_that_would_be_lost_is_refused_in_the_words_of_the_collator(processor, part):
    chat = user({"type": "text", "text": "a cat"}, part)
    for ask in (
        lambda: processor.apply_chat_template(chat),
        lambda: processor.apply_chat_template([chat], **ASKED),
        lambda: processor(text=[chat]),
    ):
        with pytest.raises(ValueError, match=UNKNOWN):
            ask()
    with pytest.raises(ValueError, match=UNKNOWN.replace("0", "'0'", 1)):
        trained_before_the_answer(processor, chat)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"from": "human", "value": "a cat"}], r"^sample 0, turn 0: .*; a turn is \{\"role\": \.\.\., \"content\""),
        (
            [{"role": "user", "value": "a cat"}],
            "^sample 0, turn 0: its content is missing; it must be a text or a list",
        ),
        (
            [{"role": "user", "content": {"text": "a cat"}}],
            "^sample 0, turn 0: its content is .*; it must be a text or",
        ),
        ([*user("a cat"), "two"], "^sample 0, turn 1: 'two'; a turn is "),
        ({"role": "user", "content": "a cat"}, "^sample 0: the chat is .*; it must be a list of turns"),
        (user({"text": "a cat", "image": "a.png"}), "^sample 0, turn 0: .* has text and image in one; make a part of"),
    ],
)
def test_a_message_that_would_be_lost_is_refused(processor, chat, message):
    for ask in (lambda: processor.apply_chat_template(chat), lambda: processor(text=[chat])):
        with pytest.raises(ValueError, match=message):
            ask()


def test_a_message_with_a_call_of_a_tool_needs_no_content(processor):
    chat = [*user("a cat"), {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}]
    with pytest.raises(ValueError, match="turn 1: its content is missing"):
        processor(text=[chat])
    processor.chat_template = "{% for m in messages %}{{ m['tool_calls'][0]['name'] if m.tool_calls }}{% endfor %}"
    assert processor.apply_chat_template(chat) == "look"


@pytest.mark.parametrize(
    "content", [[{"type": "image"}, "a cat"], [{"type": "image"}, "a cat <image>"], "<image>a cat"]
)
def test_an_image_that_is_not_there_is_an_error_with_every_template(processor, content):
    chat = [{"role": "user", "content": content}]
    marks = str(content).count("image")
    message = f"^sample 0: {marks} <image> marks for 0 images; write one for each"
    assert "a cat" in processor.apply_chat_template(chat)  # images may be given with the text
    with pytest.raises(ValueError, match=message):
        processor(text=[chat])
    with pytest.raises(ValueError, match=message):
        processor(text=[chat], suffix=["two"])
    with pytest.raises(ValueError, match=message.replace("sample 0", "sample 1")):
        processor.apply_chat_template([user("two"), chat], **{**ASKED, "padding": True})
    assert "input_ids" in processor(text=[chat], images=[[tiny.picture()] * marks])


def test_a_video_that_is_not_there_is_an_error_with_every_template(processor):
    chat = user({"type": "video"}, "a cat")
    for ask in (lambda: processor.apply_chat_template(chat, **ASKED), lambda: processor(text=[chat])):
        with pytest.raises(ValueError, match="^sample 0: 1 <video> marks for 0 videos"):
            ask()


def test_one_image_too_few_is_an_error_with_every_template(processor):
    chat = user({"type": "image", "image": tiny.picture()}, {"type": "image"}, "a cat")
    with pytest.raises(ValueError, match="^sample 0: 2 <image> marks for 1 images"):
        processor.apply_chat_template(chat, **ASKED)


def test_images_beside_the_chat_count(processor):
    chat = user({"type": "image"}, {"type": "image"}, "a cat")
    if not TAKES_IMAGES:
        pytest.skip("this version of Transformers takes images in the chat alone")
    asked = processor.apply_chat_template(chat, **ASKED, processor_kwargs={"images": [tiny.picture()] * 2})
    assert asked["image_mask"].sum() == 2
    with pytest.raises(ValueError, match="^sample 0: 2 <image> marks for 1 images"):
        processor.apply_chat_template(chat, **ASKED, processor_kwargs={"images": [tiny.picture()]})


def test_no_chat_at_all_is_an_error(processor):
    with pytest.raises(ValueError, match="^the chat has no turn; give at least one"):
        processor.apply_chat_template([])


def test_the_chat_that_is_given_stays_as_it_is(processor):
    chat = user({"type": "input_text", "text": "a cat"})
    processor.apply_chat_template(chat, **ASKED)
    assert chat == user({"type": "input_text", "text": "a cat"})


@pytest.mark.parametrize(
    ("part", "plain"),
    [
        ({"type": "image", "text": None, "path": "a.png", "bytes": None}, {"type": "image", "path": "a.png"}),
        ({"type": "image", "bytes": b"a"}, {"type": "image", "image": b"a"}),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "image", "url": "a.png"}),
        ({"type": "input_image", "image_url": "a.png"}, {"type": "image", "url": "a.png"}),
        ({"type": "video_url", "video_url": {"url": "a.gif"}}, {"type": "video", "url": "a.gif"}),
        ({"video": "a.gif"}, {"type": "video", "video": "a.gif"}),
        ({"type": "image", "image": None}, {"type": "image"}),
    ],
)
def test_a_plain_part_has_its_source_under_one_key_of_transformers(part, plain):
    assert plain_part(part, "") == plain


def test_roles_are_those_of_training(processor):
    known = [{"role": role, "content": "a cat"} for role in ("system", "user", "assistant", "user")]
    chat = [turn | {"role": role} for turn, role in zip(known, ("System", "human", "gpt", "user"), strict=True)]
    asked = processor.apply_chat_template(known, add_generation_prompt=True)
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == asked
    template = "{% for message in messages %}{{ message.role }};{% endfor %}"
    tool = [*chat, {"role": "tool", "content": "3"}]
    assert processor.apply_chat_template(tool, chat_template=template) == "system;user;assistant;user;tool;"


def test_a_template_may_write_the_address_of_an_image(processor):
    template = "{% for part in messages[0].content %}{{ part.url or part.text }};{% endfor %}"
    chat = user({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}, {"text": "a cat"})
    assert processor.apply_chat_template(chat, chat_template=template) == "https://example.com/cat.png;a cat;"
