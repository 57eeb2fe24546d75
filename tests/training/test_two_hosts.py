"""Two hosts under torchrun, here two launchers on one machine (gloo). One is lost, and the job is started again."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import scripts

pytestmark = pytest.mark.slow
WORKER = scripts.ROOT / "tests" / "helpers" / "lost_host.py"


def launcher(host, port, dies, bases, output, log):
    """Start the launcher of one host."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"]
    command += ["--rdzv-id", output.name, "--local-addr", "localhost", WORKER, bases, output]
    environment = {
        "HOST": host, "DIES": dies, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    with log.open("ab") as file:
        return subprocess.Popen([str(part) for part in command], env={**os.environ, **environment}, stdout=file,
                                stderr=file)  # fmt: skip


def train(bases, folder, dies, again=False):
    """Train on two hosts. If one is lost, start both again, as a scheduler does. Return the output folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    output, logs = folder / (dies or "whole"), {host: folder / f"{dies}{host}.log" for host in "ab"}
    hosts = {"a": launcher("a", port, dies, bases, output, logs["a"])}  # which is where the launchers meet
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.2)
        hosts["b"] = launcher("b", port, dies, bases, output, logs["b"])
        if dies and not again:
            assert hosts["b"].wait(600) == -9
            hosts["a"].terminate()  # as a scheduler does that then starts the whole job again
            hosts["a"].wait(600)
            return train(bases, folder, dies, again=True)
        for host, process in hosts.items():
            assert process.wait(600) == 0, logs[host].read_text()[-6000:]
    finally:
        for process in hosts.values():
            process.kill()
            process.wait()
    return output


def test_a_run_that_loses_a_host_ends_with_the_same_adapter(bases, tmp_path):
    whole = train(bases, tmp_path, "")
    for dies, step in (("step", 2), ("save", 2)):
        output = train(bases, tmp_path, dies)
        assert (tmp_path / f"{dies}.lost").exists()
        assert json.loads((output / "training.json").read_text())["resumed_at_step"] == step
        assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        assert sorted(path.name for path in output.glob("*checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
