"""What the server does not answer is refused in OpenAI's form, by the name of the field, without a traceback."""

import base64
import io
import json
import logging
import socket
import time

import httpx2
import pytest
import scripts
from architectures import ADEM_VL
from PIL import Image

pytest.importorskip("transformers.cli.serving.model_manager", reason="older versions have another server")
from adem_vl_hf.modeling.images import open_image
from adem_vl_hf.serving import requests, server

pytestmark = pytest.mark.parametrize("arch", [ADEM_VL], ids=str, indirect=True, scope="module")
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def address(arch, bases, model):
    model.generation_config.update(eos_token_id=None)
    app = server.make_app("tiny", model, arch.processor(bases, model), True)
    with scripts.package("local_server").served(app) as address:
        yield address.removesuffix("/v1")


@pytest.fixture(autouse=True)
def quiet(caplog):
    """No refusal leaves a traceback or what was sent in the log."""
    names = ("uvicorn.error", "transformers", "asyncio")
    for name in names:
        logging.getLogger(name).addHandler(caplog.handler)
    yield
    for name in names:
        logging.getLogger(name).removeHandler(caplog.handler)
    records = caplog.get_records("call")
    assert not [record for record in records if record.exc_info or "rawbytes" in record.getMessage()]


def refusal(reply, status):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (set(reply.json()), error["type"], error["code"]) == ({"error"}, "invalid_request_error", status)
    assert len(error["message"]) < 300
    return error["message"]


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


def option(name, value):
    return {"generation_config": json.dumps({name: value})}


def black(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


PIXEL = black(1, 1)


@pytest.mark.parametrize(
    ("path", "kind", "body", "status", "why"),
    [
        (CHAT, "multipart/form-data; boundary=x", b"--x\r\n\xff\xd8rawbytes\r\n--x--", 415, "as application/json"),
        (CHAT, "text/plain", b'{"a": "rawbytes"}', 415, "the content-type is 'text/plain'; send a JSON object"),
        (CHAT, None, b"{}", 415, "the content-type is missing"),
        (CHAT, "application/json", b'{"rawbytes": ', 400, "not JSON in UTF-8 (Expecting value at character 13)"),
        (CHAT, "application/json", b'{"rawbytes": "\xff"}', 400, "not JSON in UTF-8"),
        (CHAT, "application/json", b"[" * 100_000, 400, "not JSON in UTF-8"),
        (CHAT, "application/json", b'["rawbytes"]', 400, "the body is not a JSON object"),
        (CHAT, "application/json", b"", 400, "send a JSON object"),
        ("/load_model", "application/json", b"{}", 400, "model is None; give the name 'tiny'"),
        ("/load_model", "application/json", b'{"model": 3}', 400, "model is 3"),
        ("/load_model", "application/json", b"3", 400, "not a JSON object"),
        ("/v1/nothing", "application/json", b"{}", 404, "there is no /v1/nothing; there are /v1/chat/completions, "),
        ("/health", "application/json", b"{}", 405, "/health does not take POST; use GET"),
    ],
)
def test_a_body_that_is_no_request(address, path, kind, body, status, why):
    headers = {"content-type": kind} if kind else {}
    assert why in refusal(httpx2.post(f"{address}{path}", content=body, headers=headers), status)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (user(["hi"]), "part 1 of message 1 is 'hi'; give an object"),
        (user([{"type": "text"}]), "part 1 of message 1 has no text; give it the field 'text'"),
        (user([{"type": "text", "text": None}]), "part 1 of message 1 has no text"),
        (user([{"type": "text", "text": 3}]), "the text of part 1 of message 1 is 3"),
        (user([{"text": "hi"}]), "part 1 of message 1 is of the type None"),
        (user([{"type": "image_url"}]), "image_url of part 1 of message 1 is None"),
        (user([{"type": "image_url", "image_url": {"url": 3}}]), "image_url of part 1 of message 1 is 3"),
        (user({"type": "text", "text": "hi"}), "the content of message 1 is {'type': 'text', 'text': 'hi'}; give"),
        (user(3), "the content of message 1 is 3; give a text or a list of parts"),
        (user(None), "message 1 has no content"),
        ({"messages": [{"role": "user"}]}, "message 1 has no content; give a text"),
        (user(""), "neither a text nor an image"),
        (user([]), "neither a text nor an image"),
        (user("\ud83d"), "the content of message 1 has half of a surrogate pair"),
        (user([{"type": "text", "text": "\ud83d"}]), "the text of part 1 of message 1"),
        ({"messages": None}, "messages is not a list"),
        ({"messages": {}}, "messages is not a list"),
        ({"messages": [{"content": "hi"}]}, "the role of message 1 is None; give one of"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "the role of message 1 is ['user']"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": 3}]}, "tool_calls of message 1"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs is 3; give an object"),
        ({"chat_template_kwargs": {"pad_to_multiple_of": 10**9}}, "may not set pad_to_multiple_of"),
        ({"chat_template_kwargs": {"size": {"height": 10**6}}}, "may not set size"),
        ({"stop": ["a" * 9_999, "b"]}, "stop has more than 10000 characters"),
        ({"generation_config": '{"prompt_lookup_num_tokens": 1000000000}'}, "prompt_lookup_num_tokens of gen"),
        ({"generation_config": 3}, "generation_config is 3; give a text"),
        ({"generation_config": "[]"}, "generation_config is '[]'"),
        (option("num_beams", 100_000), "num_beams of generation_config is 100000; give a whole number from 1 to 16"),
        (option("num_beams", 0), "num_beams of generation_config is 0; give"),
        (option("num_return_sequences", 17), "num_return_sequences of generation_config is 17; give a whole number"),
        (option("max_new_tokens", 10**9), "max_new_tokens of generation_config is 1000000000; give"),
        (option("max_new_tokens", float("nan")), "max_new_tokens of generation_config is nan; give"),
        (option("max_length", 10**12), "max_length of generation_config is 1000000000000; give"),
        (user("cat " * 50_000), "the messages have 200000 characters, and the 128 tokens that the model reads stand"),
        (user([{"type": "text", "text": "a"}] * 20_000), "the messages have 20000 characters, and the 128 tokens"),
        (user("qz" * 150), "tokens, and the model reads 128 with the answer; shorten the messages"),
        (user([PIXEL] * 65), "the request has 65 images; send at most 64"),
        ({"logit_bias": 3}, "logit_bias is 3; give an object"),
        ({"logit_bias": {"x": 1}}, "logit_bias has 'x'; give token ids from 0"),
        ({"logit_bias": {"999999": 1}}, "logit_bias has '999999'; give token ids from 0"),
        ({"logit_bias": {"5": "1"}}, "logit_bias of token 5 is '1'; give a number"),
        ({"logit_bias": {"5": True}}, "logit_bias of token 5 is True"),
        ({"stop": [None]}, "stop is [None]; give a text"),
        ({"stream": "yes"}, "stream is 'yes'; give true or false"),
        ({"model": ["tiny"]}, "model is ['tiny']; give a name"),
        ({"max_tokens": "9" * 500}, "max_tokens is '999"),
        ({"seed": 0.5}, "seed is 0.5; give a whole number"),
        ({"no_such_field": 1}, "unknown fields: 'no_such_field'; leave them out"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(address, body, why):
    content = json.dumps({**user("Hi"), "max_tokens": 1, **body})
    for stream in ({}, {"stream": True}):
        if "stream" not in body:
            content = json.dumps({**json.loads(content), **stream})
        reply = httpx2.post(f"{address}{CHAT}", content=content, headers={"content-type": "application/json"})
        assert why in refusal(reply, 400)


def test_fields_that_are_null_count_as_left_out(address):
    names = ("stop", "stream", "tools", "chat_template_kwargs", "generation_config", "logit_bias", "seed", "model")
    reply = httpx2.post(f"{address}{CHAT}", json={**user("Hi"), "max_tokens": 1, **dict.fromkeys(names)})
    assert reply.status_code == 200


def test_a_body_without_a_length_and_another_method(address):
    in_chunks = httpx2.post(f"{address}{CHAT}", content=iter([b"{}"]), headers={"content-type": "application/json"})
    assert "send its body in one piece and not in chunks" in refusal(in_chunks, 411)
    assert "does not take GET; use POST" in refusal(httpx2.get(f"{address}{CHAT}"), 405)
    assert "there is no /docs" in refusal(httpx2.get(f"{address}/docs"), 404)
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 30}\r\n\r\n".encode())
        assert connection.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_length_beside_chunks_is_not_believed(address):
    host, _, port = address.removeprefix("http://").partition(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n10\r\n{'rawbytes' * 2}\r\n".encode())
        answer = connection.recv(1000)  # though the body has not ended
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_client_that_hangs_up_in_its_body_leaves_no_traceback(address):
    host, _, port = address.removeprefix("http://").partition(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}{{".encode())
        time.sleep(0.2)
    time.sleep(0.3)  # for what the log would say, which the fixture looks at
    assert httpx2.get(f"{address}/health").status_code == 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_images_of_a_request_share_a_budget_of_pixels(address, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000 / 0.75)
    request = {**user([black(30, 30)] * 2), "max_tokens": 1}
    assert httpx2.post(f"{address}{CHAT}", json=request).status_code == 200
    opened = []
    monkeypatch.setattr(requests, "open_image", lambda data: opened.append(data) or open_image(data))
    message = refusal(httpx2.post(f"{address}{CHAT}", json=user([black(30, 30)] * 10)), 400)
    assert message.startswith("image 3 of message 1: with its 30 x 30 pixels, the images of the request have more than")
    assert len(opened) == 2  # the third is not decoded


def test_no_more_tokens_are_generated_than_the_context_holds(address):
    for asked in ({"max_tokens": 2**20}, {"generation_config": json.dumps({"max_new_tokens": 2**20})}):
        usage = httpx2.post(f"{address}{CHAT}", json={**user("Hi"), **asked}, timeout=120).json()["usage"]
        assert usage["total_tokens"] == 128, usage
