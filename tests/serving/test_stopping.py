"""Answers that nobody waits for end: the client has gone, or the server stops."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import scripts
from architectures import ADEM_VL

pytest.importorskip("transformers.cli.serving.model_manager", reason="older versions have another server")
from adem_vl_hf.serving import server, stopping

pytestmark = pytest.mark.parametrize("arch", [ADEM_VL], ids=str, indirect=True, scope="module")
TOKENS = 500  # they take at least 25 s, if nothing ends them


@pytest.fixture
def slow(arch, bases, model, monkeypatch):
    """A server that takes 0.05 s for a token, and how to ask it."""
    model.generation_config.update(eos_token_id=None)
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", 2**20)
    is_over, steps = stopping.Leaving.is_over, []

    def slowly(leaving):
        steps.append(leaving)
        time.sleep(0.05)
        return is_over(leaving)

    monkeypatch.setattr(stopping.Leaving, "is_over", slowly)
    app = server.make_app("tiny", model, arch.processor(bases, model), True)
    with scripts.package("local_server").served(app) as address:

        def ask(tokens, timeout=30, **options):
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, **options}
            return httpx2.post(f"{address}/chat/completions", json=body, timeout=timeout)

        ask.address, ask.stop, ask.steps = address, app.state.stopping.set, steps
        yield ask


def wait_until_begun(ask):
    deadline = time.monotonic() + 20
    while len(ask.steps) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_hangs_up_is_not_answered_to_the_end(slow):
    with pytest.raises(httpx2.TimeoutException):
        slow(TOKENS, timeout=1)
    assert slow(2, timeout=10).json()["usage"]["completion_tokens"] == 2


def test_a_stream_that_is_closed_is_not_answered_to_the_end(slow):
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS, "stream": True}
    with httpx2.stream("POST", f"{slow.address}/chat/completions", json=body) as reply:
        next(reply.iter_lines())
    assert slow(2, timeout=10).json()["usage"]["completion_tokens"] == 2


def test_a_client_that_hangs_up_while_it_waits_is_left_out(slow):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow, 25)
        wait_until_begun(slow)
        with pytest.raises(httpx2.TimeoutException):
            slow(TOKENS, timeout=0.5)
        assert first.result().json()["usage"]["completion_tokens"] == 25
    assert slow(2).status_code == 200
    looks = [slow.steps.count(one) for one in dict.fromkeys(slow.steps)]  # one before a generation, one a token
    assert looks == [26, 1, 3]


def test_answers_end_when_the_server_stops(slow):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(slow, TOKENS)
        wait_until_begun(slow)
        others = [pool.submit(slow, TOKENS, stream=stream) for stream in (False, True)]
        time.sleep(0.3)
        began = time.monotonic()
        slow.stop()
        replies = [one.result() for one in (first, *others)]
        assert time.monotonic() - began < 5
    for reply in replies[:2]:
        assert reply.status_code == 503
        assert reply.json()["error"]["message"] == stopping.STOPS
    assert stopping.STOPS in replies[2].text
    assert '"finish_reason":"' not in replies[2].text.replace(" ", "")
    assert slow(1).status_code == 503
