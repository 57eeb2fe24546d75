"""The server answers OpenAI's official client as ``generate`` answers, alone and under load, and refuses the rest."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import scripts
import tiny
import torch
from architectures import ADEM_VL, EVLM
from openai import OpenAI

manager = pytest.importorskip("transformers.cli.serving.model_manager", reason="older versions have another server")
from adem_vl_hf.serving import refusals, server  # noqa: E402 - which need it

pytestmark = pytest.mark.parametrize(
    "arch", [ADEM_VL, pytest.param(EVLM, marks=pytest.mark.slow)], ids=str, indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def processor(arch, bases, model):
    return arch.processor(bases, model)


@pytest.fixture(scope="module", params=[True, False], ids=["plain", "chat"])
def client(request, model, processor):
    # random weights would end an answer at once, write bytes that are no text, and repeat themselves
    vocabulary = range(model.config.text_config.vocab_size)
    unreadable = [token for token in vocabulary if not processor.tokenizer.decode([token]).strip().isalpha()]
    model.generation_config.update(eos_token_id=None, suppress_tokens=unreadable, no_repeat_ngram_size=1)
    with scripts.package("local_server").served(server.make_app("tiny", model, processor, request.param)) as address:
        client = OpenAI(base_url=address, api_key="none", max_retries=0)
        client.plain = request.param
        yield client


def part(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def ask(client, text, *pictures, **options):
    content = [*map(part, pictures), {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 8, **options})


def said(client, *question, **options):
    return ask(client, *question, **options).choices[0].message.content


@torch.no_grad()
def expected(client, model, processor, text, *pictures):
    """What ``generate`` says."""
    if client.plain:
        inputs = processor(images=list(pictures) or None, text=[text])
    else:
        content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": text}]
        chat = [{"role": "user", "content": content}]
        inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True).lstrip()


def test_the_model_is_listed_and_nothing_else_is_there(client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    for route in ("/reset", "/responses", "/completions", "/systemone", "/audio/transcriptions"):
        with pytest.raises(openai.NotFoundError):
            client.post(route, cast_to=object, body={"model": "x"})


def test_no_other_model_is_loaded(client):
    """``transformers chat`` begins with this request."""
    address = str(client.base_url).replace("/v1/", "/load_model")
    for name, status in (("tiny", "ready"), ("acme/other", "error"), ("/etc", "error")):
        reply = httpx2.post(address, json={"model": name})
        assert json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))["status"] == status


def test_answers_are_those_of_generate(client, model, processor):
    one, other = tiny.picture(1), tiny.picture(2)
    for question in (("What is it?", one), ("What is it?", other), ("Compare.", one, other), ("Hello",)):
        answer = ask(client, *question)
        assert answer.choices[0].message.content == expected(client, model, processor, *question)
        assert answer.choices[0].finish_reason == "length"
        assert (answer.model, answer.usage.completion_tokens) == ("tiny", 8)
    assert said(client, "What is it?", one) != said(client, "What is it?", other)  # the adapter shows
    assert len(said(client, "What is it?", one, max_tokens=3)) < len(said(client, "What is it?", one))


def test_a_streamed_answer_is_the_whole_one(client):
    for options in ({}, {"stop": said(client, "What is it?", tiny.picture())[3:5]}):
        whole = said(client, "What is it?", tiny.picture(), **options)
        stream = list(ask(client, "What is it?", tiny.picture(), stream=True, **options))
        texts = [chunk.choices[0].delta.content for chunk in stream]
        assert "".join(filter(None, texts)) == whole
        assert stream[-1].choices[0].finish_reason is not None
    assert len([text for text in texts if text]) > 1 or len(whole) < 4


def test_an_answer_ends_before_a_stop_string(client):
    whole = said(client, "What is it?", tiny.picture())
    assert (
        said(client, "What is it?", tiny.picture(), stop=["never there", whole[4:6]]) == whole[: whole.find(whole[4:6])]
    )


def test_the_temperature_is_used(client):
    hot = {said(client, "What is it?", tiny.picture(), temperature=5.0) for _ in range(4)}
    assert len(hot) > 1
    assert len({said(client, "What is it?", tiny.picture(), temperature=0) for _ in range(2)}) == 1


def test_the_latest_images_are_asked_about(client, model, processor):
    if not client.plain:
        pytest.skip("a chat is read whole")
    turns = [[part(tiny.picture(2))], [part(tiny.picture(1)), {"type": "text", "text": "Once more"}], "What is it?"]
    messages = [{"role": "user", "content": content} for content in turns]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
    assert answer.choices[0].message.content == expected(client, model, processor, "What is it?", tiny.picture(1))


def test_many_at_once_get_what_each_gets_alone(client):
    one, other = tiny.picture(0), tiny.picture(1)
    questions = [("What is it?", one), ("What is it?", other), ("Hello",), ("Compare.", one, other)]
    alone = [said(client, *question) for question in questions]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda question: said(client, *question), questions * 2))
    assert together == alone * 2


def test_a_seed_gives_one_answer_however_many_ask(client):
    def ask_with(seed):
        options = {"seed": seed, "temperature": 5.0}
        stream = ask(client, "What is it?", tiny.picture(), stream=True, **options)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return said(client, "What is it?", tiny.picture(), **options), streamed

    alone = [ask_with(seed) for seed in range(3)]
    assert len({whole for whole, _ in alone}) == 3
    assert all(whole == streamed for whole, streamed in alone)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask_with, [0, 1, 2] * 2)) == alone * 2


def test_an_answer_without_a_seed_does_not_follow_from_the_last_seed(client):
    def after_a_seed():
        said(client, "What is it?", tiny.picture(), seed=0, temperature=5.0)
        return said(client, "What is it?", tiny.picture(), temperature=5.0)

    assert len({after_a_seed() for _ in range(3)}) > 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/x.png", "not a data: URL"),
        ("file:///etc/passwd", "not a data: URL"),
        ("/etc/passwd", "not a data: URL"),
        ("data:image/png;base64,AAAA", "not an image that Pillow can read"),
        ("data:image/png;base64,!", "image 1 of message 1: not base64"),
        ("data:", "image 1 of message 1: 'data:' is no image in base64; send the image as data:image/png;base64"),
        (f"data:image/png;base64,{'A' * 5000}", "image 1 of message 1: not an image that Pillow can read"),
        (None, "image_url of part 1 of message 1 is None, which is not a data: URL"),
    ],
)
def test_images_come_in_the_request(client, url, why):
    image = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(openai.BadRequestError, match=why) as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [image]}])
    assert len(refused.value.body["message"]) < 200


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"model": "other"}, "pinned to 'tiny'"),
        ({"max_tokens": -1}, "max_tokens is -1; give a whole number from 1"),
        ({"temperature": -1}, "temperature is -1; give a number from 0 to 100"),
        ({"extra_body": {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}}, "may not set chat_template"),
        ({"extra_body": {"generation_config": "{"}}, r"generation_config is '{'; give a text with"),
        ({"stop": 5}, "stop is 5"),
        ({"messages": ["hi"]}, "not a list of objects"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "calls none"),
        ({"messages": []}, "none with the role 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "input_audio"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "/"}}]}]}, "video_url"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, wrong, why):
    request = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **wrong}
    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(**request)
    assert said(client, "Hello")  # the next one is answered


def test_whole_numbers_of_logit_bias_are_taken(client):
    biased = said(client, "Hello", logit_bias={"5": 1})
    assert said(client, "Hello", logit_bias={"5": 1.0}) == biased
    assert said(client, "Hello", logit_bias={}) == said(client, "Hello")


def test_an_option_of_the_library_that_fails_is_named(client):
    for wrong in ('{"num_beams": "x"}', '{"do_sample": true, "top_k": []}', '{"num_return_sequences": 2}'):
        with pytest.raises(openai.BadRequestError, match="leave out generation_config"):
            said(client, "Hello", extra_body={"generation_config": wrong})
    if not client.plain:
        with pytest.raises(openai.BadRequestError, match="chat_template_kwargs may not set images_kwargs"):
            said(client, "Hello", extra_body={"chat_template_kwargs": {"images_kwargs": 3}})


def test_beams_of_the_checkpoint_are_limited_and_not_streamed(client, model, monkeypatch):
    greedy, used = said(client, "Hello"), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: used.append(given["generation_config"]) or generate(**given))
    monkeypatch.setattr(model.generation_config, "num_beams", 10**6)
    monkeypatch.setattr(model.generation_config, "num_return_sequences", 10**6)
    assert said(client, "Hello", max_tokens=2)
    stream = ask(client, "Hello", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == greedy
    assert [(one.num_beams, one.num_return_sequences) for one in used] == [(16, 1), (1, 1)]


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ [][0].x }}"]
)
def test_a_chat_template_that_fails_is_said(client, processor, template, monkeypatch):
    if client.plain:
        pytest.skip("no template is used")
    monkeypatch.setattr(processor, "chat_template", template)
    with pytest.raises(openai.BadRequestError, match="the request cannot be answered"):
        said(client, "Hello")


def test_half_an_emoji_is_refused_as_any_other_name(client):
    body = b'{"model": "x\\ud83d", "messages": [{"role": "user", "content": "a"}]}'
    headers = {"content-type": "application/json"}
    reply = httpx2.post(f"{client.base_url}chat/completions", content=body, headers=headers)
    assert reply.status_code == 400
    assert "pinned to 'tiny'" in reply.json()["error"]["message"]


def test_a_request_that_is_too_large_is_refused(client, monkeypatch):
    monkeypatch.setattr(refusals, "MAX_BODY", 1000)
    with pytest.raises(openai.APIStatusError, match="at most 1000 bytes") as refused:
        said(client, "x" * 1000)
    assert refused.value.status_code == 413


def test_a_library_without_these_parts_is_named(monkeypatch, model, processor):
    monkeypatch.delattr(manager.ModelManager, "get_model_modality")
    with pytest.raises(ImportError, match=r"no ModelManager\.get_model_modality"):
        server.make_app("tiny", model, processor, False)
