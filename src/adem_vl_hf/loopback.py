"""Refuses requests that name another host, so that no web page reaches a local server by DNS rebinding."""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers

from .terminal import printable

OF_THIS_MACHINE = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]*)?", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone.

    Args:
        host (str): The address that a server listens on, or its name.

    Returns:
        Whether it is localhost, 127.0.0.1 or another loopback address.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class OwnHostOnly:
    """Refuses requests whose Host is no name of this machine (status 403).

    Anybody can let a name of his own resolve to 127.0.0.1 once his page is open. To the browser, a server on this
    machine is then of the same origin as the page, which may ask it anything and read the answers (DNS rebinding).
    Starlette's ``TrustedHostMiddleware`` says neither what is wrong nor what helps.

    Args:
        app (Any): The ASGI application.
        refusal (Callable[[str, int], Any]): Makes the response, of a message and a status.
    """

    def __init__(self, app: Any, refusal: Callable[[str, int], Any]) -> None:
        self.app, self.refusal = app, refusal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        hosts = Headers(scope=scope).getlist("host") if scope["type"] in ("http", "websocket") else []
        others = [host for host in hosts if not OF_THIS_MACHINE.fullmatch(host)]
        if not others:
            return await self.app(scope, receive, send)
        (_, port) = scope.get("server") or ("", 80)
        message = (
            f"this server is for its own machine alone, and the request is for {printable(others[0][:100])!r}; "
            f"ask http://localhost:{port}, or let the proxy before this server name localhost as the Host"
        )
        return await self.refusal(message, 403)(scope, receive, send)
