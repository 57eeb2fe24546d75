"""Chats about pictures and videos, and the library's pipelines, with both models."""

import copy

import evlm
import pytest
import tiny
import torch
from PIL import Image
from tiny import IMAGE_TOKEN_ID
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

from adem_vl_hf import AdemVLProcessor, EvlmProcessor
from adem_vl_hf.data.media import save_gif
from adem_vl_hf.modeling.pipeline import AdemVLImageToTextPipeline
from adem_vl_hf.modeling.videos import open_video

pytestmark = pytest.mark.core
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ASKED = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
GREEDY = {"max_new_tokens": 4, "do_sample": False}
FRAMES = [Image.new("RGB", (20, 24), colour) for colour in ("red", "lime", "blue")]


@pytest.fixture(scope="module", params=["adem_vl", "evlm"])
def both(request, bases):
    """A model and its processor, with a chat template."""
    build, cls = {"adem_vl": (tiny.build, AdemVLProcessor), "evlm": (evlm.build, EvlmProcessor)}[request.param]
    model = build(bases, frame_embeddings=4).eval()
    tokenizer = AutoTokenizer.from_pretrained(bases / "llama")
    tokenizer.chat_template = TEMPLATE
    images = AutoImageProcessor.from_pretrained(bases / "clip")
    return model, cls(images, tokenizer, image_tokens=model.config.image_tokens)


@pytest.fixture
def clip(tmp_path):
    save_gif(FRAMES, tmp_path / "clip.gif")
    return str(tmp_path / "clip.gif")


def user(*content):
    return [{"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}]


def mark(processor, images=1):
    return "<reserved_0>" * processor.image_tokens * images


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_chat_about_a_video(both, clip):
    model, processor = both
    chats = [user({"type": "video", key: video}, "What?") for key, video in (
        ("path", clip), ("url", clip), ("video", clip), ("video", FRAMES))]  # fmt: skip
    expected = processor(videos=[FRAMES], text=["<s>[user] <video>What?\n[assistant]"], add_special_tokens=False)
    for chat in chats:
        assert equal(processor.apply_chat_template(chat, **ASKED), expected)
    assert processor.decode(expected["input_ids"][0]) == f"<s>[user] {mark(processor, 3)}What?\n[assistant]"
    assert ("video_mask" in expected) == isinstance(processor, EvlmProcessor)
    # what is said depends on the video
    with torch.no_grad():
        seen = model(**expected).logits[:, -1]
        turned = processor.apply_chat_template(user({"type": "video", "video": FRAMES[::-1]}, "What?"), **ASKED)
        assert (model(**turned).logits[:, -1] - seen).abs().max() > 1e-3
    assert model.generate(**expected, **GREEDY).shape[0] == 1


def test_a_number_of_frames_of_a_chat(both, clip):
    _, processor = both
    chat = user({"type": "video", "path": clip}, "What?")
    expected = processor.apply_chat_template(user({"type": "video", "video": FRAMES[1:2]}, "What?"), **ASKED)
    assert equal(processor.apply_chat_template(chat, **ASKED, num_frames=1), expected)


def test_a_chat_about_several_images(both, tmp_path):
    _, processor = both
    FRAMES[1].save(tmp_path / "second.png")
    first, second = {"type": "image", "image": FRAMES[0]}, {"type": "image", "path": str(tmp_path / "second.png")}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "no"}]}
    chat = [*user(first, "and", second, "same?"), answer, *user("And", {"type": "image", "image": FRAMES[2]}, "?")]
    inputs = processor.apply_chat_template(chat, **ASKED)
    one = mark(processor)
    assert processor.decode(inputs["input_ids"][0]) == (
        f"<s>[user] {one}and{one}same?\n[assistant] no\n[user] And{one}?\n[assistant]"
    )
    expected = processor(images=[FRAMES], text=["<image><image><image>"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert inputs["image_mask"].tolist() == [[True] * 3]
    assert "video_mask" not in inputs


def test_a_batch_of_chats(both, clip):
    model, processor = both
    chats = [user({"type": "video", "path": clip}, "What?"), user("Hello"), user({"type": "image", "image": FRAMES[0]})]
    inputs = processor.apply_chat_template(chats, **ASKED)
    assert inputs["image_mask"].sum(1).tolist() == [3, 0, 1]
    if isinstance(processor, EvlmProcessor):
        assert inputs["video_mask"].tolist() == [True, False, False]
    assert (inputs["input_ids"] == IMAGE_TOKEN_ID).sum(1).tolist() == [n * processor.image_tokens for n in (3, 0, 1)]
    together = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    for row, chat in enumerate(chats):
        alone = processor.apply_chat_template(chat, **ASKED)
        new = model.generate(**alone, **GREEDY)[0, alone["input_ids"].shape[1] :]
        assert together[row, : len(new)].tolist() == new.tolist()


PARTS = "{% for m in messages %}{% for p in m['content'] %}{{ p.get('text', '<image>') }}{% endfor %};{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }};{% endfor %}",
        "{% for m in messages %}{{ m['content'] + ';' }}{% endfor %}",  # adds texts, which lists of parts are not
        "{% for m in messages %}{{ m['content'] }};{% endfor %}{{ tools[0]['type'] if tools else '' }}",
        PARTS,
        {"default": "{% for m in messages %}{{ m['content'] }};{% endfor %}", "other": PARTS},
    ],
)
def test_a_template_that_is_set_later_may_take_texts_alone(both, template):
    processor = copy.deepcopy(both[1])
    processor.chat_template = template
    chat = [{"role": "user", "content": [{"type": "image", "image": tiny.picture()}, {"type": "text", "text": " a"}]}]
    assert processor.apply_chat_template(chat) == "<image> a;"
    if isinstance(template, str):  # the same of a template that is given in the call
        assert both[1].apply_chat_template(chat, chat_template=template) == "<image> a;"
        assert both[1].apply_chat_template(chat, template) == "<image> a;"
    if template == PARTS:
        assert processor.chat_template == PARTS  # it stays as it is


def test_what_a_chat_cannot_hold_is_said(both):
    _, processor = both
    for chat, message in (
        (user({"type": "video", "path": "none.gif"}), r"sample 0: none\.gif: no such image file"),
        (user({"type": "video", "url": "https://example.org/a.gif"}), "sample 0: .*a URL; download it first"),
    ):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template(chat, **ASKED)


def test_a_chat_about_two_videos_and_a_picture(both, clip):
    _, processor = both
    video, image = {"type": "video", "path": clip}, {"type": "image", "image": FRAMES[0]}
    inputs = processor.apply_chat_template(user(video, image, video, "?"), **ASKED)
    number = 2 * len(open_video(clip)) + 1
    assert inputs["image_mask"].tolist() == [[True] * number]
    assert (inputs["input_ids"] == processor.image_token_id).sum() == number * processor.image_tokens


@pytest.fixture
def captioner(both):
    model, processor = both
    return pipeline("image-text-to-text", model=model, processor=processor)


def said(both, inputs) -> str:
    model, processor = both
    ids = model.generate(**inputs, **GREEDY)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_library_s_pipeline_on_pictures(both, captioner):
    _, processor = both
    options = {"generate_kwargs": GREEDY, "return_full_text": False}
    (answer,) = captioner(images=FRAMES[0], text="What?", **options)
    assert answer["generated_text"] == said(both, processor(images=[FRAMES[0]], text=["What?"]))
    (answer,) = captioner(images=FRAMES[:2], text="<image> or <image>?", **options)
    assert answer["generated_text"] == said(both, processor(images=[FRAMES[:2]], text=["<image> or <image>?"]))
    answers = captioner(images=[FRAMES[0], FRAMES[1]], text=["<image>What?", "<image>?"], **options)
    assert len(answers) == 2


def test_the_library_s_pipeline_on_chats(both, captioner, clip):
    _, processor = both
    options = {"generate_kwargs": GREEDY, "return_full_text": False}
    for content in ({"type": "image", "image": FRAMES[0]}, {"type": "video", "path": clip}):
        chat = user(content, "What?")
        (answer,) = captioner(text=chat, **options)
        assert answer["generated_text"] == said(both, processor.apply_chat_template(chat, **ASKED))


def test_our_pipeline_on_pictures(both):
    model, processor = both
    captioner = AdemVLImageToTextPipeline(model=model, processor=processor)
    answers = captioner(FRAMES[:2], prompt="What?", **GREEDY)
    expected = [said(both, processor(images=[picture], text=["What?"])).strip() for picture in FRAMES[:2]]
    assert [answer[0]["generated_text"] for answer in answers] == expected
