"""``adem-vl serve`` as a command."""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest
import tiny
from app_client import free_port

from adem_vl_hf.cli import app, serve
from adem_vl_hf.cli.parser import main
from adem_vl_hf.loading import build_model


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve"]) == 2
    assert "needs uvicorn: pip install 'adem-vl-hf[serve]'" in capsys.readouterr().err
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name.endswith("serving") else object())
    assert main(["serve"]) == 2
    assert "pip install 'transformers>=5.24'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "app"])
def test_a_port_in_use_is_named_before_anything_is_loaded(command, capsys, monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: object())  # its package is of another extra
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([command, "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); name another --port" in error


@pytest.mark.parametrize("command", ["serve", "app"])
@pytest.mark.parametrize("port", ["70000", "65536", "-1", "x", "9" * 5000, "\u0663"])
def test_a_port_that_is_none_is_a_usage_error(command, port, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--port", port])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "argument --port: " in error
    assert "is not a port, which is a whole number from 0 to 65535" in error


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("no.such.host.invalid", "--host no.such.host.invalid cannot be found ("),
        ("a..b", "--host a..b cannot be found ("),
        ("", "--host is empty; "),
        ("192.0.2.1", "cannot listen on 192.0.2.1, port 8000 ("),  # kept for documentation: no machine has it
    ],
)
def test_a_host_that_is_none_is_named(host, why, capsys):
    assert main(["serve", "--host", host]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert "name an address of this machine, such as 127.0.0.1" in error
    assert "--port" not in error


class Terminal:
    """A program in a pseudo-terminal, and somebody who types.

    Args:
        command: the program and its arguments.
    """

    def __init__(self, command: list[str], **environment: str) -> None:
        self.keyboard, screen = pty.openpty()
        env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50", "NO_COLOR": "1"} | environment
        env.pop("HF_HUB_OFFLINE", None)  # or its client asks nobody, not even a server on this machine
        self.process = subprocess.Popen(
            command, stdin=screen, stdout=screen, stderr=screen, env=env, start_new_session=True
        )
        os.close(screen)
        self.unread = ""

    def type(self, line: str) -> None:
        os.write(self.keyboard, f"{line}\n".encode())

    def wait_for(self, text: str, seconds: float = 300) -> str:
        """Read the screen until a text is there; returns what came before it, without what moves the cursor."""
        deadline = time.monotonic() + seconds
        while text not in self.unread:
            assert time.monotonic() < deadline, self.unread
            if select.select([self.keyboard], [], [], 1)[0]:
                try:
                    new = os.read(self.keyboard, 65536).decode(errors="replace")
                except OSError:  # the program has ended
                    raise AssertionError(self.unread) from None
                self.unread += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", new)
        before, _, self.unread = self.unread.partition(text)
        return before


@contextmanager
def serving(folder):
    """``adem-vl serve`` as a process, and a client of it."""
    port = free_port()
    command = [sys.executable, "-m", "adem_vl_hf.cli", "serve", "--checkpoint", str(folder), "--port", str(port)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    deadline = time.monotonic() + 300
    try:
        while True:
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                assert running.poll() is None, running.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        client.process = running
        yield client
    finally:
        running.terminate()
    out, client.errors = running.communicate(timeout=60)
    assert f"serving {folder} at http://127.0.0.1:{port}/v1" in out


@pytest.mark.slow
def test_the_command_serves_a_checkpoint_until_it_is_told_to_stop(bases, tmp_path):
    """Two clients talk to it: OpenAI's own, and ``transformers chat`` for a whole session in a terminal."""
    model, processor = build_model(str(bases / "llama"), str(bases / "clip"), projector_dim=8)
    # random weights would write bytes that are no text, and one word over and over
    vocabulary = range(len(processor.tokenizer))
    no_words = [token for token in vocabulary if not re.fullmatch(" [a-z]+", processor.decode([token]))]
    model.generation_config.update(eos_token_id=None, suppress_tokens=no_words, no_repeat_ngram_size=2)
    tiny.perturb(model).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with serving(tmp_path) as client:
        (listed,) = client.models.list()
        assert listed.id == str(tmp_path)
        messages, answers = [], []
        for text in ("Hello", "And then?"):
            messages.append({"role": "user", "content": text})
            answer = client.chat.completions.create(model=listed.id, messages=messages, max_tokens=6)
            assert answer.usage.completion_tokens == 6
            answers.append(answer.choices[0].message.content)
            messages.append({"role": "assistant", "content": answers[-1]})
        assert len(set(answers)) == 2
        chat = [
            sys.executable,
            "-m",
            "transformers.cli.transformers",
            "chat",
            listed.id,
            str(client.base_url).rstrip("/"),
        ]
        terminal = Terminal([*chat, "max_new_tokens=6", "do_sample=False", "--user", "somebody"])
        for text, answer in zip(("Hello", "And then?"), answers, strict=True):
            terminal.wait_for("<somebody>:")
            terminal.type(text)
            terminal.wait_for(f"<{listed.id}>:")
            assert answer in terminal.wait_for("Continue generating?")  # it stops at six tokens, and asks
            terminal.type("n")
        terminal.wait_for("<somebody>:")
        terminal.type("!exit")
        assert terminal.process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_process_within_seconds(bases, tmp_path, number, code):
    """Some requests are being answered and some are waiting."""
    long = shutil.copytree(bases / "llama", tmp_path.with_name(f"{tmp_path.name}-base")) / "config.json"
    long.write_text(json.dumps({**json.loads(long.read_text()), "max_position_embeddings": 2**20}))
    model, processor = build_model(str(long.parent), str(bases / "clip"), projector_dim=8)
    model.generation_config.update(eos_token_id=None)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    def ask(client, stream):
        messages = [{"role": "user", "content": "Hello"}]
        answer = client.chat.completions.create(
            model=str(tmp_path), messages=messages, max_tokens=2**20, stream=stream, timeout=120
        )
        return list(answer)

    with serving(tmp_path) as client, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, client, stream) for stream in (True, False, False, True)]
        time.sleep(3)
        assert not any(one.done() for one in asked)
        client.process.send_signal(number)
        assert client.process.wait(timeout=30) == code
        reasons = [str(one.exception()) for one in asked]
    assert all("the server is stopping; ask again when it runs" in reason for reason in reasons)
    assert "adem-vl serve: stopping; answers that are not finished are refused" in client.errors
    assert "Traceback" not in client.errors
