"""``adem-vl serve`` as a command."""

import socket
import subprocess
import sys
import time

import openai
import pytest
import tiny
from app_client import free_port

from adem_vl_hf.cli import serve
from adem_vl_hf.cli.parser import main
from adem_vl_hf.loading import build_model


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve"]) == 2
    assert "needs uvicorn: pip install 'adem-vl-hf[serve]'" in capsys.readouterr().err
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name.endswith("serving") else object())
    assert main(["serve"]) == 2
    assert "pip install 'transformers>=5.24'" in capsys.readouterr().err


def test_a_port_in_use_is_named_before_anything_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_a_checkpoint_until_it_is_told_to_stop(bases, tmp_path):
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    tiny.perturb(model).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "adem_vl_hf.cli", "serve", "--checkpoint", str(tmp_path), "--port", str(port)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    deadline = time.monotonic() + 300
    try:
        while True:
            try:
                (listed,) = client.models.list()
                break
            except openai.APIConnectionError:
                assert running.poll() is None, running.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert listed.id == str(tmp_path)
        messages = [{"role": "user", "content": "Hello"}]
        answer = client.chat.completions.create(model=listed.id, messages=messages, max_tokens=3)
        assert answer.usage.completion_tokens > 0
    finally:
        running.terminate()
    assert f"serving {tmp_path} at http://127.0.0.1:{port}/v1" in running.communicate(timeout=60)[0]
