"""Transformers' own image-text-to-text and any-to-any pipelines, and ours, on a model in hand.

What the library's suite for pipelines (``PipelineTesterMixin``) asks: one row, batches, batches with a remainder, chats
with and without a picture, and half precision. Its own tests fetch small models from the Hub.
"""

import copy
from pathlib import Path

import architectures
import datasets
import pytest
import tiny
import torch
import transformers
from transformers import GenerationConfig, ImageTextToTextPipeline, pipeline

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.modeling import images, processor_options
from adem_vl_hf.modeling.images import ImageError
from adem_vl_hf.modeling.pipeline import AdemVLImageToTextPipeline

pytestmark = pytest.mark.core
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# any-to-any came with Transformers 5
TASKS = ["image-text-to-text", *(["any-to-any"] if hasattr(transformers, "AnyToAnyPipeline") else [])]
FEW = {"max_new_tokens": 4, "do_sample": False}
OF_CONSTRUCTOR = [{"max_new_tokens": 2}]
if hasattr(transformers.Pipeline, "_prepare_generate_kwargs"):  # older constructors fail with these
    OF_CONSTRUCTOR += [{"generation_config": GenerationConfig(max_new_tokens=2)}]
    OF_CONSTRUCTOR += [{"assistant_model": "a copy", "max_new_tokens": 2}]


@pytest.fixture(scope="module")
def processor(bases, model):
    made = AdemVLProcessor.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)
    made.tokenizer.chat_template = TEMPLATE
    return AdemVLProcessor(made.image_processor, made.tokenizer, image_token=made.image_token)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        tiny.picture(seed).save(folder / f"{seed}.png")
    return [str(folder / f"{seed}.png") for seed in range(2)]


@pytest.fixture(scope="module")
def stock(model, processor):
    return pipeline("image-text-to-text", model=model, processor=processor)


def continued(model, processor, picture, text) -> str:
    """What the model alone makes of it: the prompt and the answer, as the pipeline joins them."""
    inputs = processor(images=None if picture is None else [picture], text=[text])
    answer = model.generate(**inputs, **FEW)[:, inputs["input_ids"].shape[1] :]
    return text + processor.batch_decode(answer, skip_special_tokens=True)[0]


def chat(text, picture=None):
    parts = [] if picture is None else [{"type": "image", "image": picture}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_the_task_finds_the_librarys_pipeline(stock):
    assert type(stock) is ImageTextToTextPipeline


@pytest.mark.parametrize("text", ["a photo of", "<image>a photo of", "a photo <image> of"])
def test_a_picture_and_a_text(stock, model, processor, paths, text):
    (row,) = stock(paths[0], text=text, generate_kwargs=FEW, return_full_text=False)
    assert row["input_text"] == text
    assert row["generated_text"]
    assert text + row["generated_text"] == continued(model, processor, paths[0], text)


def test_batches_answer_as_single_rows(stock, paths):
    rows = [{"images": paths[i % 2], "text": text} for i, text in enumerate(["a photo of", "two birds", "hello"])]
    given = {"generate_kwargs": FEW, "return_full_text": False}
    single = [stock(row["images"], text=row["text"], **given)[0]["generated_text"] for row in rows]
    pictures, texts = [row["images"] for row in rows], [row["text"] for row in rows]
    together = stock(pictures, text=texts, batch_size=2, **given)
    assert [row["generated_text"] for row in together] == single
    assert len(set(single)) > 1
    streamed = list(stock((copy.deepcopy(row) for row in rows * 2), **given))
    assert len(streamed) == 6


@pytest.mark.parametrize("with_picture", [True, False])
def test_chats(stock, model, processor, paths, with_picture):
    message = chat("hello", paths[0] if with_picture else None)
    prompt = f"<s>user: {'<image>' * with_picture}hello\nassistant: "
    (row,) = stock(text=message, generate_kwargs=FEW)
    answered = row["generated_text"][-1]
    assert [part["role"] for part in row["generated_text"]] == ["user", "assistant"]
    expected = continued(model, processor, paths[0] if with_picture else None, prompt)
    assert prompt + answered["content"] == expected
    assert answered["content"]


@pytest.mark.parametrize("task", TASKS)
def test_chats_in_a_batch(task, model, processor, paths):
    made = pipeline(task, model=model, processor=processor)
    chats = [chat("hello", paths[0]), chat("two birds", paths[1])]
    rows = made(text=copy.deepcopy(chats), generate_kwargs=FEW)
    alone = [made(text=one, generate_kwargs=FEW)[0]["generated_text"][-1]["content"] for one in chats]
    assert [row[0]["generated_text"][-1]["content"] for row in rows] == alone


def test_the_picture_reaches_the_answer(stock, paths):
    answers = [stock(path, text="a photo of", generate_kwargs={"max_new_tokens": 8})[0] for path in paths]
    assert answers[0]["generated_text"] != answers[1]["generated_text"]


def test_half_precision(bases, processor, paths):
    half = pipeline("image-text-to-text", model=tiny.build(bases).to(torch.float16), processor=processor)
    (row,) = half(paths[0], text="a photo of", generate_kwargs=FEW)
    assert row["generated_text"].startswith("a photo of")


@pytest.mark.skipif("any-to-any" not in TASKS, reason="came with Transformers 5")
def test_any_to_any_takes_rows_as_dicts(model, processor, paths):
    made = pipeline("any-to-any", model=model, processor=processor)
    rows = [{"images": path, "text": "a photo of"} for path in paths]
    answers = [made(copy.deepcopy(row), generate_kwargs=FEW)[0]["generated_text"] for row in rows]
    assert answers == [continued(model, processor, path, "a photo of") for path in paths]
    assert [row[0]["generated_text"] for row in made(rows, generate_kwargs=FEW)] == answers


def test_ours_captions(model, processor, paths):
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    alone = [made(path, prompt="a photo of", **FEW)[0]["generated_text"] for path in paths]
    assert alone == [continued(model, processor, path, "a photo of").removeprefix("a photo of") for path in paths]
    assert [row[0]["generated_text"] for row in made(paths, prompt="a photo of", **FEW)] == alone


def test_ours_takes_a_prompt_for_each_image(model, processor, paths):
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    prompts = ["a photo of", "two birds"]
    expected = [
        continued(model, processor, path, text).removeprefix(text) for path, text in zip(paths, prompts, strict=True)
    ]
    assert [row[0]["generated_text"] for row in made(paths, prompt=prompts, batch_size=2, **FEW)] == expected
    about_one = made(paths[0], prompt=prompts, **FEW)
    assert about_one[0][0]["generated_text"] == expected[0]
    assert len(about_one) == 2
    with pytest.raises(ValueError, match="2 images and 3 prompts"):
        made(paths, prompt=["a"] * 3)


@architectures.each()
def test_a_row_of_a_batch_is_answered_as_alone_whatever_the_others_are(bases, paths, arch):
    model = arch.build(bases)
    made = AdemVLImageToTextPipeline(model=model, processor=arch.processor(bases, model))
    texts = ["a", "two birds flying over the sea with a dog on the grass", "hello"]
    rows = [{"images": paths[: 1 + place % 2], "prompt": text} for place, text in enumerate(texts)]
    alone = [made(row, **FEW) for row in rows]
    assert len({row[0]["generated_text"] for row in alone}) > 1
    assert made(rows, batch_size=3, **FEW) == alone
    assert list(made((row for row in rows), batch_size=2, **FEW)) == alone
    assert made(paths, prompt=texts[:2], batch_size=2, **FEW) == [
        made(path, prompt=text, **FEW) for path, text in zip(paths, texts, strict=False)
    ]


def test_the_librarys_pipeline_answers_long_and_short_chats_of_a_batch_as_alone(stock, paths):
    chats = [chat("hello", paths[0]), chat("two birds flying over the sea with a dog", paths[1])]
    alone = [stock(text=copy.deepcopy(one), generate_kwargs=FEW) for one in chats]
    together = stock(text=copy.deepcopy(chats), batch_size=2, generate_kwargs=FEW)
    assert [row[0]["generated_text"][-1] for row in together] == [row[0]["generated_text"][-1] for row in alone]


@pytest.mark.parametrize("given", OF_CONSTRUCTOR, ids=" ".join)
def test_ours_keeps_what_its_constructor_is_given(model, processor, paths, monkeypatch, given):
    given = {name: copy.deepcopy(model) if name == "assistant_model" else value for name, value in given.items()}
    ours = AdemVLImageToTextPipeline(model=model, processor=processor, **given)
    made, generate = [], model.generate
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(model, "generate", lambda **kwargs: made.append((kwargs, generate(**kwargs))) or made[-1][1])
    ours(paths[0])
    ours(paths[0], max_new_tokens=3)
    lengths = [ids.shape[1] - kwargs["input_ids"].shape[1] for kwargs, ids in made]
    assert lengths == [2, 3]
    assert all(kwargs.get("assistant_model") is given.get("assistant_model") for kwargs, _ in made)


def test_ours_takes_several_images_and_videos(model, processor, paths):
    made = AdemVLImageToTextPipeline(model=model, processor=processor)

    def said(**shown):
        inputs = processor(**shown, text=["a photo of"])
        ids = model.generate(**inputs, **FEW)[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()

    both = said(images=[paths])
    given = {"prompt": "a photo of", **FEW}
    assert made({"images": paths}, **given)[0]["generated_text"] == both
    rows = made([paths, paths[0], {"images": paths[0], "prompt": "a photo of"}], batch_size=2, **given)
    assert [row[0]["generated_text"] for row in rows] == [both, said(images=[paths[:1]]), said(images=[paths[:1]])]
    clip = frames_file([tiny.picture(seed) for seed in range(3)], paths[0])
    (seen,) = made(videos=clip, num_frames=2, **given)
    assert seen["generated_text"] == said(videos=[clip], num_frames=2)
    assert made(videos=[clip, clip], num_frames=2, **given) == [[seen], [seen]]
    with pytest.raises(ValueError, match="'picture' is none of images, videos and prompt"):
        made({"picture": paths[0]})
    with pytest.raises(ValueError, match="both images and videos"):
        made(paths, videos="clip.gif")


def frames_file(frames, beside):
    """Save frames without loss."""
    path = Path(beside).with_name("clip.png")
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return str(path)


def test_ours_opens_each_picture_once(model, processor, paths, monkeypatch):
    opened, open_image = [], images.open_image
    monkeypatch.setattr(images, "open_image", lambda source: opened.append(source) or open_image(source))
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    made(paths, **FEW)
    assert opened == paths


@pytest.mark.parametrize(
    ("nothing", "said"), [(None, "object: not an image; give a path"), (["0.png", "1.png"], "0.png: no such image")]
)
def test_ours_refuses_what_is_no_picture(model, processor, nothing, said):
    with pytest.raises(ImageError, match=said):
        AdemVLImageToTextPipeline(model=model, processor=processor)([nothing])


def test_ours_lets_the_caller_say_how_long(model, processor, paths, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    made, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda *args, **kwargs: made.append(generate(*args, **kwargs)) or made[-1])
    ours = AdemVLImageToTextPipeline(model=model, processor=processor)
    prompt = processor(images=[[paths[0]]], text=["a picture of"])["input_ids"].shape[1]
    ours(paths[0], generation_config=GenerationConfig(max_new_tokens=3, pad_token_id=3, do_sample=False))
    ours(paths[0], max_length=prompt + 5)
    ours(paths[0], return_dict_in_generate=True, max_new_tokens=4)
    lengths = [getattr(ids, "sequences", ids).shape[1] - prompt for ids in made]
    assert lengths == [3, 5, 4]


@pytest.mark.parametrize(
    "how", [{"num_beams": 3}, {"num_beams": 2, "batch_size": 2}, {"num_beams": 2, "batch_size": 3}]
)
def test_several_texts_of_each_image_stay_with_it(model, processor, paths, how):
    ours = AdemVLImageToTextPipeline(model=model, processor=processor)
    options = {"num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    pictures = [*paths, paths[0]]
    together = ours(pictures, **options, **how)
    alone = [ours(picture, **options, num_beams=how["num_beams"]) for picture in pictures]
    assert together == alone
    assert [len(texts) for texts in together] == [2, 2, 2]


def test_saved_stop_strings_need_no_tokenizer_either(model, processor, paths, monkeypatch):
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    plain = made(paths[0], **FEW)
    monkeypatch.setattr(model.generation_config, "stop_strings", ["no such word"])
    assert made(paths[0], **FEW) == plain


def test_stop_strings_need_no_tokenizer_and_no_images_give_no_texts(model, processor, paths):
    ours = AdemVLImageToTextPipeline(model=model, processor=processor)
    first = ours(paths[0], max_new_tokens=8, do_sample=False)[0]["generated_text"]
    stopped = ours(paths[0], max_new_tokens=8, do_sample=False, stop_strings=[first[0]])[0]["generated_text"]
    assert len(stopped) < len(first)
    assert ours([]) == []


def test_a_pipeline_is_not_told_of_what_it_does_not_have(processor, paths, monkeypatch):
    said = []
    monkeypatch.setattr(processor_options.logger, "warning_once", said.append)
    processor(images=[paths[0]], text=["hi"], audio=None, sound=3)
    assert said == ["sound is not an argument of this processor and is ignored"]


def test_a_column_and_a_tuple_are_several_images(model, processor, paths):
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    column = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())["image"]
    assert made(column, **FEW) == made(tuple(paths), **FEW) == made(paths, **FEW)
    assert len(made(paths, **FEW)) == 2


@architectures.each()
def test_a_saved_pipeline_has_the_whole_processor(bases, arch, paths, tmp_path):
    model = arch.build(bases)
    processor = arch.processor(bases, model)
    processor.prompt = "What is this?"
    made = AdemVLImageToTextPipeline(model=model, processor=processor)
    made.save_pretrained(tmp_path)
    again = pipeline("image-to-text", str(tmp_path), trust_remote_code=True)
    assert again.processor.default_prompt == "What is this?"
    assert again(paths, **FEW) == made(paths, **FEW)


def test_what_the_librarys_pipeline_saves_is_no_whole_processor(stock, tmp_path):
    for part in (stock.model, stock.tokenizer, stock.processor.image_processor):  # 5.0 fails behind the first
        part.save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"has no processor_config\.json: save the processor of the model there"):
        AdemVLProcessor.from_pretrained(tmp_path)


def test_arguments_of_the_librarys_pipelines(model, processor, paths):
    ours = AdemVLImageToTextPipeline(model=model, processor=processor)
    assert ours(paths[0], timeout=3.0, **FEW) == ours(paths[0], **FEW)
    with pytest.raises(ValueError, match="text is no argument of this pipeline; the text to continue is its prompt"):
        ours(paths[0], text="a")
