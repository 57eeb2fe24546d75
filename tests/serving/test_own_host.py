"""A server of this machine alone is not asked under another name, to which a web page may have led the browser."""

import httpx2
import pytest
import scripts

pytest.importorskip("transformers.cli.serving.model_manager", reason="older versions have another server")
from fastapi import FastAPI

from adem_vl_hf.loopback import is_loopback
from adem_vl_hf.serving.running import Running


@pytest.fixture(scope="module")
def answers():
    app = FastAPI()
    app.get("/v1/models")(lambda: "answered")
    return app


def asked(app, host):
    with scripts.package("local_server").served(app) as address:
        return httpx2.get(f"{address}/models", headers={"host": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_another_host_is_refused_on_this_machine_alone(answers, host):
    app = Running(answers, "tiny", host, 0).config.app
    assert is_loopback(host)
    for name in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.0.0.1", "[::1]:8000"):
        assert asked(app, name).json() == "answered"
    for name in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "10.0.0.1",
    ):
        refused = asked(app, name)
        assert refused.status_code == 403
        message = refused.json()["error"]["message"]
        assert f"the request is for '{name}'; ask http://localhost:" in message


def test_a_server_of_other_machines_has_any_name(answers):
    for host in ("0.0.0.0", "::", "192.0.2.1", "models.example"):
        assert not is_loopback(host)
        assert Running(answers, "tiny", host, 0).config.app is answers
