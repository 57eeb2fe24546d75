"""Keeps the page to its own server: neither the server nor the browser asks another one because a visitor says so."""

from contextlib import suppress
from typing import Any

import gradio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' ws: wss: data: blob:; object-src 'none'; base-uri 'self'"
)
REFUSED = "an address in place of a file; send the file"
ADDRESSES = ("http:", "https:")


class Page(gradio.Blocks):
    """A page that takes files and no addresses, which Gradio would fetch, whatever their size and before any check."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Prepare the inputs of an event. All requests that name files come by here.

        Args:
            block_fn (Any): What the event calls.
            inputs (list[Any]): The inputs, as the visitor sent them.
            *args (Any): Further arguments of Gradio's method.
            **kwargs (Any): The same by name.

        Returns:
            The inputs, as Gradio's method returns them.

        Raises:
            gradio.Error: One of them names an address in place of a file.
        """
        if _names_an_address(inputs):
            raise gradio.Error(REFUSED, print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def _names_an_address(given: Any) -> bool:
    waiting = [given]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if str(one.get("path")).strip().lower().startswith(ADDRESSES):
                return True
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
    return False


class OwnServerOnly:
    """Refuses to pass on files of other servers, and adds the Content-Security-Policy to every answer.

    Args:
        app (Any): The ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        # Gradio fetches what stands behind "file=" in the path if it is an address
        asks_elsewhere = scope["type"] == "http" and scope["path"].partition("=")[2].lower().startswith(ADDRESSES)
        with suppress(ClientDisconnect):  # who breaks off an upload waits for no answer, and needs none in the log
            await (PlainTextResponse(REFUSED, 403) if asks_elsewhere else self.app)(scope, receive, send_with_policy)
