"""The page asks no other server because a visitor says so, and is not asked under the name of another one."""

import logging
import os
import socket
import time

import pytest
import tiny
from app_client import AppUser, free_port

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.app.answers import Answers

if "CHROMIUM" not in os.environ:  # set by the make target, which installs the page's packages
    pytest.importorskip("gradio", reason="needs the extra `app`")

from adem_vl_hf.app import page as app_page
from adem_vl_hf.app.page_guard import REFUSED

# what Gradio itself is warned of is not ours to mend
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
ADDRESS = "http://pictures.example/a.png"


@pytest.fixture(scope="module")
def address(bases):
    model, port = tiny.build(bases), free_port()
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    page = app_page.serve(Answers(model, processor, 4), "A title", "127.0.0.1", port, wait=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(autouse=True)
def looked_up(monkeypatch):
    """No name is looked up, by whatever of this process."""
    names, look_up = [], socket.getaddrinfo

    def noting(host, *args, **kwargs):
        names.append(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    yield
    assert {name for name in names if name not in (None, "127.0.0.1", b"127.0.0.1", "localhost")} == set()


def file(path, **fields):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


@pytest.mark.parametrize("name", [ADDRESS, ADDRESS.replace("http", "https"), ADDRESS.upper()])
def test_an_address_in_place_of_a_file_is_refused(address, name):
    user = AppUser(address)
    everywhere = (
        {"box": {"text": "a", "files": [file(name)]}},
        {"box": {"text": "a", "files": [file("a.png", url=name), file(name)]}},
        {"box": {"text": "a", "files": []}, "camera": file(name)},
        {"box": {"text": "a", "files": []}, "as-chat": file(name)},
        {"box": {"text": "a", "files": []}, "as-chat": {"a": [{"b": file(name)}]}},
    )
    for given in everywhere:
        with pytest.raises(ValueError, match=REFUSED):
            user._trigger("box", "submit", given)


def test_what_a_visitor_says_the_chat_was_is_not_looked_at(address, tmp_path):
    tiny.picture(1).save(tmp_path / "one.png")
    content = [
        {"type": "file", "file": file(ADDRESS)},
        {"type": "component", "component": "button", "value": "x", "constructor_args": {"icon": ADDRESS}, "props": {}},
        {"type": "component", "component": "image", "value": {"path": "/etc/passwd"}, "props": {}},
    ]
    user, other = AppUser(address), AppUser(address)
    answer = user.ask("a photo of", tmp_path / "one.png")
    other.chat = [{"role": "user", "content": [part]} for part in content]
    assert other.ask("a photo of", tmp_path / "one.png") == answer
    assert len(other.chat) == len(user.chat) == 3
    other.ask("a photo of", tmp_path / "one.png")
    assert len(other.chat) == 6  # the server knows what was said


@pytest.mark.parametrize("route", ["queue/join", "call/answer"])
def test_no_route_takes_an_address(address, route):
    user = AppUser(address)
    (called,) = [one for one in user.config["dependencies"] if len(one["inputs"]) == 5]
    data = [{"text": "a", "files": [file(ADDRESS)]}, None, None, None, False]
    body = {"data": data, "fn_index": called["id"], "session_hash": user.session, "box": data[0]}
    assert user.http.post(f"/gradio_api/{route}", json=body).status_code == 200
    time.sleep(0.5)


def test_a_file_of_another_server_is_not_passed_on(address):
    for path in (f"file={ADDRESS}", f"file={ADDRESS.replace(':', '%3A')}", f"proxy={ADDRESS}"):
        reply = AppUser(address).http.get(f"/gradio_api/{path}")
        assert (reply.status_code, reply.text) == (403, REFUSED)


def test_another_host_is_refused(address):
    user = AppUser(address)
    port = int(address.rpartition(":")[2])
    for name in ("evil.example", f"evil.example:{port}"):
        reply = user.http.get("/config", headers={"host": name})
        assert reply.status_code == 403
        assert f"the request is for '{name}'; ask http://localhost:{port}, or" in reply.text
    assert user.http.get("/config", headers={"host": f"localhost:{port}"}).status_code == 200


def test_an_upload_that_is_broken_off_leaves_no_traceback(address, caplog):
    logger, (_, _, port) = logging.getLogger("uvicorn.error"), address.rpartition(":")
    logger.addHandler(caplog.handler)
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--x\r\n".encode())
        time.sleep(0.2)
    time.sleep(0.3)
    logger.removeHandler(caplog.handler)
    assert [record for record in caplog.records if record.exc_info] == []
