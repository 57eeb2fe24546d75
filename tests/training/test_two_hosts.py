"""Two hosts, under torchrun and under ``accelerate launch`` (gloo). One is lost, and the job is started again.

Where this process may make network namespaces, which takes root on Linux, each host has one of its own, with an address
of its own. Elsewhere they are two launchers that meet on localhost.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

import pytest
import scripts

pytestmark = pytest.mark.slow
WORKER = scripts.ROOT / "tests" / "helpers" / "lost_host.py"
TORCHRUN, ACCELERATE = "torch.distributed.run", "accelerate.commands.launch"


class Host(NamedTuple):
    """Holds what a command on a host begins with, and the host's address and network interface."""

    prefix: tuple[str, ...]
    address: str
    interface: str | None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts():
    """The hosts "a" and "b", on a network of their own if that can be made."""
    number = os.getpid() % 60_000
    spaces = {name: f"adem{number}{name}" for name in "ab"}
    addresses = {name: f"10.213.{number // 250}.{1 + place}" for place, name in enumerate("ab")}
    try:
        if not shutil.which("ip"):
            raise OSError("there is no command ip")
        for space in spaces.values():
            ip("netns", "add", space)
        one, other = (["dev", space] for space in spaces.values())
        ip("link", "add", spaces["a"], "netns", spaces["a"], "type", "veth", "peer", "name", spaces["b"],
           "netns", spaces["b"])  # fmt: skip
        for name, device in (("a", one), ("b", other)):
            ip("-n", spaces[name], "address", "add", f"{addresses[name]}/24", *device)
            for up in (device[1], "lo"):
                ip("-n", spaces[name], "link", "set", up, "up")
        yield {n: Host(("ip", "netns", "exec", spaces[n]), addresses[n], spaces[n]) for n in "ab"}
    except (OSError, subprocess.CalledProcessError):
        yield {name: Host((), "localhost", None) for name in "ab"}
    finally:
        for space in spaces.values():
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "delete", space)


def launcher(kind, hosts, name, port, dies, bases, output, log):
    """Start the launcher of one host."""
    host, meeting = hosts[name], hosts["a"].address
    command = [*host.prefix, sys.executable, "-m", kind]
    if kind == TORCHRUN:
        command += ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", f"{meeting}:{port}", "--rdzv-id", output.name, "--local-addr", host.address]
        # by its address alone, torchrun does not always know that the meeting place is here
        command += ["--rdzv-conf", f"is_host={name == 'a'}"]
    else:
        command += ["--config_file", scripts.ROOT / "examples/accelerate/ddp.yaml", "--num_machines", "2"]
        command += ["--num_processes", "2", "--machine_rank", "ab".index(name), "--main_process_ip", meeting]
        command += ["--main_process_port", port, "--max_restarts", "3"]
    environment = {
        "HOST": name, "DIES": dies, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", **({"GLOO_SOCKET_IFNAME": host.interface} if host.interface else {}),
    }  # fmt: skip
    with log.open("ab") as file:
        return subprocess.Popen([str(part) for part in [*command, WORKER, bases, output]],
                                env={**os.environ, **environment}, stdout=file, stderr=file)  # fmt: skip


def train(kind, hosts, bases, output, dies=""):
    """Train on two hosts. If one is lost, start both again, as a scheduler does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = {name: output.with_name(f"{output.name}-{name}.log") for name in "ab"}
    running = {"a": launcher(kind, hosts, "a", port, dies, bases, output, logs["a"])}  # which is where they meet
    try:
        running["b"] = launcher(kind, hosts, "b", port, dies, bases, output, logs["b"])
        if dies:
            assert running["b"].wait(600) == -9, logs["b"].read_text()[-6000:]
            running["a"].terminate()  # as a scheduler does that then starts the whole job again
            running["a"].wait(600)
            return train(kind, hosts, bases, output)
        for name, process in running.items():
            assert process.wait(600) == 0, logs[name].read_text()[-6000:]
    finally:
        for process in running.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def whole(hosts, bases, tmp_path_factory):
    """The adapter of a run that loses no host."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(TORCHRUN, hosts, bases, output)
    return (output / "model.safetensors").read_bytes()


# which of them is killed where is all one to the training; ADEM_VL_LOST_HOSTS=all runs the other two
LOST = [(ACCELERATE, "step"), (TORCHRUN, "save")]
if os.environ.get("ADEM_VL_LOST_HOSTS") == "all":
    LOST += [(ACCELERATE, "save"), (TORCHRUN, "step")]


@pytest.mark.parametrize(("kind", "dies"), LOST)
def test_a_run_that_loses_a_host_ends_with_the_same_adapter(kind, dies, hosts, whole, bases, tmp_path):
    output = tmp_path / "run"
    train(kind, hosts, bases, output, dies)
    assert (tmp_path / "run.lost").exists()
    assert json.loads((output / "training.json").read_text())["resumed_at_step"] == 2
    assert (output / "model.safetensors").read_bytes() == whole
    assert sorted(path.name for path in output.glob("*checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
