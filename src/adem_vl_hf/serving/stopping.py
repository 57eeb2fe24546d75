"""Ends answers that nobody waits for any more: the client has gone, or the server stops."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from threading import Event
from typing import Any

import torch
from fastapi import HTTPException, Request, Response
from transformers import StoppingCriteria
from transformers.cli.serving.utils import GenerateManager, GenerationState

POLL = 0.2  # seconds between two looks at whether the server stops
STOPS = "the server is stopping; ask again when it runs"


class Leaving(StoppingCriteria):
    """Ends a generation after the token that it is at, once its client has gone or the server stops.

    Args:
        stopping (Event): Is set when the server stops.
    """

    def __init__(self, stopping: Event) -> None:
        self.stopping, self.is_gone = stopping, False

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        over = torch.full(input_ids.shape[:1], self.is_over(), dtype=torch.bool, device=input_ids.device)
        return over  # type: ignore[return-value]  # torch's functions return Tensor

    def is_over(self) -> bool:
        """Say whether nobody waits for the answer."""
        return self.is_gone or self.stopping.is_set()

    def refuse_if_stopping(self) -> None:
        """Refuse a request that the server has no time for.

        Raises:
            HTTPException: The server stops (status 503).
        """
        if self.stopping.is_set():
            raise HTTPException(503, STOPS)

    async def watch(self, answering: Coroutine[Any, Any, Response], request: Request) -> Response:
        """Wait for the answer to a request while its client does.

        Args:
            answering (Coroutine[Any, Any, Response]): What answers.
            request (Request): The request.

        Returns:
            The answer.
        """
        answer = asyncio.ensure_future(answering)
        hangs_up = asyncio.ensure_future(request.receive())  # all that comes after the body
        try:
            await asyncio.wait([answer, hangs_up], return_when=asyncio.FIRST_COMPLETED)
            self.is_gone = not answer.done()
            # not cancelled with this task: the library's thread would trip over the result
            return await asyncio.shield(answer)
        finally:
            self.is_gone = self.is_gone or not answer.done()
            hangs_up.cancel()
            await asyncio.gather(hangs_up, return_exceptions=True)

    async def until_stopping(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """Pass on the events of a stream until the server stops.

        Args:
            events (AsyncIterator[str]): The events.

        Yields:
            The events, and at last an error if the server stops before the stream ends.
        """
        try:
            while True:
                following = asyncio.ensure_future(_next(events))
                try:
                    while not following.done() and not self.stopping.is_set():
                        await asyncio.wait([following], timeout=POLL)
                finally:
                    following.cancel()  # which tells the library to end the generation, if it has not ended
                if self.stopping.is_set():
                    error = {"message": STOPS, "type": "server_error", "code": 503}
                    yield f"data: {json.dumps({'error': error})}\n\n"
                    return
                text = following.result()
                if text is None:
                    return
                yield text
        finally:
            self.is_gone = True


async def _next(events: AsyncIterator[str]) -> str | None:
    return await anext(events, None)


class OneAtATime(GenerationState):
    """Generates one answer after the other and leaves out those that nobody waits for when it is their turn."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = _Generations()

    def get_manager(self, model_id: str, use_cb: bool = False) -> GenerateManager:
        """Return what generates.

        Args:
            model_id (str): The name of the model; there is one.
            use_cb (bool): Whether requests are packed together; they never are.

        Returns:
            The manager of all generations.
        """
        return self.manager


class _Generations(GenerateManager):
    def async_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().async_submit(_unless_over, fn, *args, **kwargs)


def _unless_over(generate: Callable[..., Any], **inputs: Any) -> Any:
    if any(isinstance(one, Leaving) and one.is_over() for one in inputs["stopping_criteria"]):
        raise HTTPException(503, STOPS)
    return generate(**inputs)
