"""Asks the page of ``adem-vl app`` over HTTP, as the page's own script in a browser does."""

import html
import json
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import httpx2


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class AppUser:
    """One user of the page.

    Args:
        address: of the page. process: that serves it, whose start is waited for.
    """

    def __init__(self, address: str, process: subprocess.Popen | None = None) -> None:
        self.http = httpx2.Client(base_url=address, timeout=300)
        self.session, self.chat = uuid.uuid4().hex, []
        deadline = time.monotonic() + 300
        while True:
            try:
                self.config = self.http.get("/config").raise_for_status().json()
                break
            except httpx2.TransportError:
                if process is None or process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def element(self, name: str) -> dict[str, Any]:
        """The element of the page with this id."""
        (found,) = [one for one in self.config["components"] if one["props"].get("elem_id") == name]
        return found

    def ask(self, text: str, *files: Path) -> str:
        """Ask about files, after the questions before; returns the answer."""
        said = {"text": text, "files": [self._upload(path) for path in files]}
        self.chat = self._trigger("box", "submit", {"box": said, "chat": self.chat})[0]
        (answer,) = self.chat[-1]["content"]
        return html.unescape(answer["text"])

    def where(self) -> str:
        """The panel about the words of the last answer, as HTML."""
        return self._trigger("ask-where", "click", {})[0]

    def _upload(self, path: Path) -> dict[str, Any]:
        """Send a file; returns what stands for it in a question."""
        reply = self.http.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        return {"path": reply.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}

    def _trigger(self, name: str, event: str, given: dict[str, Any]) -> list[Any]:
        """Trigger an event; returns its outputs. Elements that are not in ``given`` have the value of a new page."""
        target = self.element(name)["id"]
        (called,) = [one for one in self.config["dependencies"] if [target, event] in one["targets"]]
        props = {one["id"]: one["props"] for one in self.config["components"]}
        data = [given.get(props[one].get("elem_id"), props[one].get("value")) for one in called["inputs"]]
        body = {"data": data, "fn_index": called["id"], "trigger_id": target, "session_hash": self.session}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as events:
            messages = (json.loads(line.removeprefix("data: ")) for line in events.iter_lines() if line)
            last = next(message for message in messages if message["msg"] == "process_completed")
        if not last["success"]:
            raise ValueError(last["output"]["error"])
        return last["output"]["data"]
