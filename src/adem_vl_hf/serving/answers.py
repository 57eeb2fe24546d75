"""Cuts answers at stop strings, as OpenAI's protocol asks for, whole and streamed."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any


class Answer:
    """Passes on the text of one answer, without the space before it and without what begins with a stop string.

    Args:
        stops (Sequence[str]): The stop strings.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = [stop for stop in stops if stop]
        self.has_begun = self.is_cut = False
        self.held = ""  # may be the beginning of a stop string

    def feed(self, text: str) -> str:
        """Take the next piece of the answer.

        Args:
            text (str): The piece.

        Returns:
            What can be sent now: the text up to a stop string, or up to what may become one.
        """
        if self.is_cut:
            return ""
        text = self.held + text
        text = text if self.has_begun else text.lstrip()
        self.has_begun = self.has_begun or bool(text)
        ends = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        if ends:
            self.is_cut, self.held = True, ""
            return text[: min(ends)]
        longest = max(map(len, self.stops), default=1) - 1
        begins = (n for n in range(min(longest, len(text)), 0, -1) if text.endswith(tuple(s[:n] for s in self.stops)))
        kept = next(begins, 0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Finish the answer.

        Returns:
            What was held back because a stop string could have begun there.
        """
        held, self.held = self.held, ""
        return held


async def cut_stream(events: AsyncIterator[str], stops: Sequence[str]) -> AsyncIterator[str]:
    """Cut the answer in a stream of server-sent events.

    Args:
        events (AsyncIterator[str]): Texts of one or several events, each "data: " and a chunk of a chat completion.
        stops (Sequence[str]): The stop strings.

    Yields:
        The same events with the text that remains. Events without any are left out, and the last says [DONE].
    """
    answer = Answer(stops)
    async for text in events:
        for line in filter(None, text.split("\n\n")):
            for out in _cut_chunk(_parsed(line.removeprefix("data: ")), answer):
                yield f"data: {json.dumps(out)}\n\n"
    yield "data: [DONE]\n\n"


def _parsed(text: str) -> dict[str, Any]:
    """Parse an event. The library does not escape the message of an error that ends a stream."""
    try:
        found = json.loads(text)
    except ValueError:
        found = {"error": text}
    if isinstance(found.get("error"), str):
        found["error"] = {"message": found["error"], "type": "server_error", "code": 500}
    return found


def _cut_chunk(chunk: dict[str, Any], answer: Answer) -> list[dict[str, Any]]:
    """Cut the text of a chunk. What was held back comes before the chunk that says why the answer ends."""
    if "choices" not in chunk:
        return [chunk]  # an error
    choice = chunk["choices"][0]
    if choice.get("finish_reason"):
        rest = answer.end()
        last = {**chunk, "choices": [{**choice, "delta": {"content": rest}, "finish_reason": None}]}
        return [last, chunk] if rest else [chunk]
    if "content" not in choice["delta"]:
        return [chunk]
    choice["delta"]["content"] = answer.feed(choice["delta"]["content"])
    return [chunk] if choice["delta"]["content"] else []
