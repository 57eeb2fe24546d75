"""Answers are cut at stop strings, whole and in any pieces."""

import asyncio
import json
import random

import pytest

from adem_vl_hf.serving.answers import Answer, cut_stream


def pieces(text, rng):
    while text:
        size = rng.randint(1, 4)
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        (" two owls", [], "two owls"),
        (" two owls", ["owl"], "two "),
        ("two owls", ["x", "ls"], "two ow"),
        ("aab", ["ab"], "a"),
        ("a\n\nb", ["\n\n"], "a"),
        ("a\nb", ["\n\n"], "a\nb"),
        ("a\n", ["\n\n"], "a\n"),  # what could have begun a stop string is not lost
        ("abc", ["b", "abc"], ""),
        ("", ["x"], ""),
        ("a b", [""], "a b"),
    ],
)
def test_an_answer_ends_before_a_stop_string(text, stops, expected):
    if len(stops) == 2 and stops[1] == "abc":
        expected = {True: "", False: "a"}  # in one piece the earlier stop wins; in several, the one that is whole first
    rng = random.Random(0)
    for _ in range(20):
        answer = Answer(stops)
        found = "".join(map(answer.feed, pieces(text, rng))) + answer.end()
        assert found in (expected.values() if isinstance(expected, dict) else (expected,))
    answer = Answer(stops)
    whole = answer.feed(text) + answer.end()
    assert whole == (expected[True] if isinstance(expected, dict) else expected)


def chunk(**delta):
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": delta.pop("finish_reason", None)}]}


def events(*chunks):
    async def sent():
        for one in chunks:
            yield one if isinstance(one, str) else f"data: {json.dumps(one)}\n\n"

    async def all_of_them():
        return [text async for text in cut_stream(sent(), ["END"])]

    return [text.removeprefix("data: ").strip() for text in asyncio.run(all_of_them())]


def test_a_stream_is_cut_and_says_that_it_is_done():
    given = [chunk(role="assistant"), chunk(content=" a"), chunk(content=" E"), chunk(content="N"), chunk(content="Dx")]
    *found, done = events(*given, chunk(finish_reason="stop"))
    choices = [json.loads(one)["choices"][0] for one in found]
    assert [choice["delta"] for choice in choices] == [{"role": "assistant"}, {"content": "a"}, {"content": " "}, {}]
    assert choices[-1]["finish_reason"] == "stop"
    assert done == "[DONE]"


def test_what_was_held_back_comes_before_the_reason():
    *found, _ = events(chunk(content="a E"), chunk(finish_reason="length"))
    choices = [json.loads(one)["choices"][0] for one in found]
    assert [choice["delta"] for choice in choices] == [{"content": "a "}, {"content": "E"}, {}]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]


def test_an_error_that_is_not_escaped_becomes_one_that_clients_understand():
    assert json.loads(events('data: {"error": "a "quote""}\n\n')[0])["error"]["type"] == "server_error"
    assert json.loads(events('data: {"error": "plain"}\n\n')[0])["error"]["message"] == "plain"
