"""Says in the form of OpenAI's protocol why a request is not answered, whatever part of the server refuses it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..terminal import printable

MAX_BODY = 64 * 2**20  # bytes of a request: a dozen photographs in base64


def add_refusals(app: FastAPI, routes: Sequence[str]) -> None:
    """Let an application refuse what it does not answer in the form of OpenAI's protocol.

    Args:
        app (FastAPI): The application.
        routes (Sequence[str]): The paths of its routes.
    """

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail
        if error.status_code == 404:
            message = f"there is no {request.url.path[:100]}; there are {', '.join(routes)}"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{request.url.path} does not take {request.method}; use {allowed}"
        return refusal(message, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return refusal(f"the server failed ({type(error).__name__}); its log says where", 500)

    @app.middleware("http")
    async def limit_size(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length")
        if "transfer-encoding" in request.headers:  # which counts, whatever length stands beside it
            message = (
                "the request has a transfer-encoding; send its body in one piece and not in chunks, with its length"
            )
            return refusal(message, 411 if length is None else 400, {"connection": "close"})
        if request.method == "POST" and (length is None or not length.isdecimal()):
            message = "the request has no content-length; send its body in one piece and not in chunks, with its length"
            return refusal(message, 411)
        if request.method == "POST" and length is not None and (len(length) > 15 or int(length) > MAX_BODY):
            message = f"the body has {length[:20]} bytes; send at most {MAX_BODY} bytes: fewer or smaller images"
            return refusal(message, 413)
        return await call_next(request)


def refusal(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make a refusal.

    Args:
        message (str): What is wrong, and the remedy.
        status (int): The status of HTTP.
        headers (Mapping[str, str] | None): Further headers.

    Returns:
        The response, in the form of OpenAI's protocol.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": printable(message), "type": kind, "code": status}}, status, headers)
