"""Runs the server until the process is told to stop, which it then does within seconds."""

import socket
import sys

import uvicorn
from fastapi import FastAPI

from ..loopback import OwnHostOnly, is_loopback
from ..terminal import say
from .refusals import refusal

GRACE = 5  # seconds that answers have to end; a generation ends after the token that it is at


class Running(uvicorn.Server):
    """Serves an application and says where, and that it stops.

    Args:
        app (FastAPI): The application, of ``make_app``.
        name (str): How requests name the model.
        host (str): The address to listen on. If it is reached from this machine alone, requests for another host
            are refused.
        port (int): The port. 0 means any free one.
    """

    def __init__(self, app: FastAPI, name: str, host: str, port: int) -> None:
        asked = OwnHostOnly(app, refusal) if is_loopback(host) else app
        config = uvicorn.Config(asked, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE)
        super().__init__(config)
        self.app, self.name = app, name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen.

        Args:
            sockets (list[socket.socket] | None): Sockets that listen already.
        """
        await super().startup(sockets)
        host, port = self.config.host, self.servers[0].sockets[0].getsockname()[1]
        say(f"serving {self.name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: end the generations, answer their requests and close.

        Args:
            sockets (list[socket.socket] | None): Sockets that listen already.
        """
        say("adem-vl serve: stopping; answers that are not finished are refused", sys.stderr)
        self.app.state.stopping.set()
        await super().shutdown(sockets)
