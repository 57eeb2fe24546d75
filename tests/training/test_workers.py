"""Workers that prepare batches: how many there are by default, and that a scheduler's signal leaves them alive."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from functools import partial

import pytest
import tiny
from closeness import assert_equal
from torch.utils.data import DataLoader
from torch.utils.data._utils.worker import signal_handling
from training_runs import adapter, picture_folder, samples, trainer
from transformers import TrainerCallback

from adem_vl_hf import training, workers
from adem_vl_hf.cli.parser import main
from adem_vl_hf.modeling import images
from adem_vl_hf.training import train
from adem_vl_hf.whole_checkpoints import checkpoints

pytestmark = pytest.mark.core
MEBIBYTE = 2**20


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets the cores, the processes of a training on this host, the room in shared memory, and how processes start."""

    def make(cores, processes=None, room=1024, start="fork"):
        usage = namedtuple("usage", "free")(room * MEBIBYTE)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda: start)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if processes:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return make


@pytest.mark.parametrize(
    ("cores", "processes", "number"),
    [(1, None, 0), (2, None, 1), (4, None, 3), (64, None, 4), (64, 8, 4), (16, 8, 1), (8, 8, 0), (2, 4, 0)],
)
def test_a_worker_for_each_core_beside_the_training(machine, cores, processes, number):
    machine(cores, processes)
    assert workers.default_workers() == number
    assert workers.default_workers(stream=True) == min(number, 1)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_no_workers_that_would_import_everything_anew(machine, start):
    machine(8, start=start)
    assert workers.default_workers() == 0


def test_no_workers_where_little_memory_is_shared(machine, monkeypatch, tmp_path):
    machine(8, room=64)  # as containers have it
    assert workers.default_workers() == 0
    machine(8)
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")  # as on other systems
    assert workers.default_workers() == 0


class SignalsEveryProcess(TrainerCallback):
    """Sends SIGTERM to the workers and to the training itself, as a scheduler does to all processes of a job."""

    def __init__(self, step):
        self.step, self.workers = step, []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.workers = multiprocessing.active_children()
            processes = [str(pid) for pid in (*(worker.pid for worker in self.workers), os.getpid())]
            # from another process: PyTorch lets a worker end in peace if its own trainer signals
            subprocess.run(["kill", "-TERM", *processes], check=True)
            time.sleep(0.2)  # a worker that dies has died by then


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a worker would import everything anew")
def test_a_signal_to_all_processes_saves_a_last_checkpoint(bases, tmp_path):
    def run(folder, callbacks=None, **settings):
        made, processor = trainer(
            bases, folder, samples(8), max_steps=6, save_strategy="steps", save_steps=9, learning_rate=1e-2,
            callbacks=callbacks, dataloader_num_workers=1, dataloader_prefetch_factor=1, **settings,
        )  # fmt: skip
        train(made, processor, resume=True)
        return adapter(made.model)

    signals = SignalsEveryProcess(2)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "cut", [signals])
    assert (ended.value.code, sorted(checkpoints(tmp_path / "cut"))) == (143, [2])
    (worker,) = signals.workers
    worker.join(10)
    assert worker.exitcode == 0  # it ended with the training, and not by the signal
    assert_equal(run(tmp_path / "cut"), run(tmp_path / "whole", dataloader_persistent_workers=True))


@pytest.fixture
def mask():
    """Signals that this process holds back; a loader must leave them as they were."""
    if not workers.CAN_HOLD_BACK:
        pytest.skip("no signal can be held back here")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    yield before
    assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == before


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a worker would import everything anew")
@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_while_a_worker_starts_leaves_it_alive(mask, monkeypatch, name):
    handlers = signal_handling._set_worker_signal_handlers

    def signalled():
        handlers()
        # from another process, as above; the worker's next line comes after it
        subprocess.run(["kill", f"-{name}", str(os.getpid())], check=True)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    assert list(workers._lasting(DataLoader([0, 1], num_workers=1, collate_fn=list))) == [[0], [1]]


class SignalledWhenOpened(list):
    """Samples that send SIGTERM to the process that receives them, which is before PyTorch's own code runs in it."""

    def __reduce__(self):
        signal_itself = "__import__('os').kill(__import__('os').getpid(), 15)"
        return eval, (f"[{signal_itself}, {list(self)}][1]",)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_imports_everything_anew_may_be_signalled_too(mask, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not start processes so")
    # what a server forks hears a signal until our handler is there
    data = (SignalledWhenOpened if method == "spawn" else list)([0, 1])
    loader = DataLoader(data, num_workers=1, collate_fn=list, multiprocessing_context=method)
    assert list(workers._lasting(loader)) == [[0], [1]]
    if method == "forkserver":  # other children of its server end as they would
        child = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM


def test_signals_are_heard_again_after_workers_that_could_not_start(mask, monkeypatch):
    held = []

    def fail(loader):
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, set()))
        raise OSError("no more processes")

    monkeypatch.setattr(DataLoader, "_get_iterator", fail)
    with pytest.raises(OSError, match="no more processes"):
        iter(workers._lasting(DataLoader([0], num_workers=1)))
    assert held == [mask | {signal.SIGTERM, signal.SIGINT}]


def raised_in_worker(error):
    try:
        next(iter(DataLoader([0], num_workers=1, collate_fn=partial(raised, error))))
    except Exception as caught:
        return caught


def raised(error, rows):
    raise error


@pytest.mark.parametrize("text", ["cat.png: damaged", "a line\nanother: one", "ValueError: said twice"])
@pytest.mark.parametrize("kind", [ValueError, images.ImageError, RuntimeError, OSError])
def test_an_error_of_a_worker_is_said_as_it_was_raised(kind, text):
    error = raised_in_worker(kind(text))
    assert "Traceback" in str(error)
    assert workers.said_first(error) in (text, text.removeprefix("ValueError: "))
    assert workers.said_first(kind(text)) == text


@pytest.mark.parametrize("how", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"])
def test_a_worker_that_was_killed_says_what_to_do(how):
    said = workers.said_first(RuntimeError(f"DataLoader worker {how}"))
    assert said.startswith("DataLoader worker (pid")
    assert ". Maybe memory ran out: with dataloader_num_workers=0" in said


FAILING = """
import sys
from pathlib import Path
from torch.utils.data import get_worker_info
from transformers import TrainerCallback
from training_runs import samples, trainer
from adem_vl_hf.training import train

class Breaks(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        raise RuntimeError("broken")

class Damaged(list):
    def __getitem__(self, index):
        if get_worker_info() is None:
            return super().__getitem__(index)
        raise RuntimeError("broken")

place, bases, folder = sys.argv[1:]
data, callbacks = (Damaged(samples()), None) if place == "worker" else (samples(), [Breaks()])
made, processor = trainer(Path(bases), folder, data, callbacks=callbacks, dataloader_num_workers=1)
try:
    train(made, processor)
except RuntimeError as error:
    held = error  # and with it the frames of the training, in one of which its workers are
print("broken" in str(held))
"""


@pytest.mark.parametrize("place", ["worker", "training"])
def test_a_process_exits_after_an_error_although_its_workers_outlive_sigterm(bases, tmp_path, place):
    command = [sys.executable, "-c", FAILING, place, str(bases), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["True"]), done.stderr


@pytest.mark.parametrize(("more", "number"), [([], 1), (["--set", "dataloader_num_workers=0"], 0)], ids=str)
def test_the_command_line_takes_the_default_and_what_is_set(bases, tmp_path, monkeypatch, more, number):
    built, streams = [], []
    picture_folder(tmp_path / "pictures")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(workers, "default_workers", lambda stream: streams.append(stream) or 1)

    def stop(model, processor, data, arguments, *args, **kwargs):
        built.append(arguments)
        raise ValueError("far enough")

    monkeypatch.setattr(training, "build_trainer", stop)
    argv = ["train", *tiny.base_flags(bases), "--data", str(tmp_path / "pictures"), "--max-steps", "1",
            "--projector-dim", "8", "--output-dir", str(tmp_path / "run"), *more]  # fmt: skip
    assert main(argv) == 2
    assert ([arguments.dataloader_num_workers for arguments in built], streams) == ([number], [False])
