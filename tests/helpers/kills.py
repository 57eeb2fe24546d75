"""Kills saves and trainings at chosen moments, goes on after each, and counts what has become of them.

python tests/helpers/kills.py [--saves N] [--trainings N] [--seed S] [--only KIND ...] [--json FILE]

Prints the table of docs/reliability.md. A moment is an event of the file system below the folder in question: a file
is opened for writing, written, flushed, renamed or deleted, or a folder is made or deleted. At it the process gets
SIGKILL, or writes half of the data and gets SIGKILL, or finds the disk full from there on. ``killer.c`` does that.

A training runs in one process, or in two that have the environment that ``accelerate launch`` gives them for a file of
``examples/accelerate``. Of the two one is stopped, and then the other is ended, as the launcher does it.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = {"killed": 1, "killed after half a write": 2, "disk full": 3}
LAUNCHED = {"ddp": "ddp.yaml", "fsdp2": "fsdp2.yaml", "zero3": "deepspeed_zero3.yaml"}
KINDS = ("model", "processor", "training", *LAUNCHED)
DONE, DISK_FULL, FAILED = 0, 3, 4
NEVER = -1
GRACE = 2.0  # seconds that the other process of a training has to end after SIGTERM; torchrun gives it 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--saves", type=int, default=12, help="moments of each kind of save and mode; 0 = all")
    parser.add_argument("--trainings", type=int, default=4, help="moments of each training, in each mode; 0 = all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="how they are stopped")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    args = parser.parse_args()
    if "KILLER" not in os.environ:
        start_again()
    import families
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        bases = families.save_bases(root / "bases", "llama")
        tried = {"model": (saves_of_the_model, args.saves), "processor": (saves_of_the_processor, args.saves),
                 "training": (trainings, args.trainings)}  # fmt: skip
        tried |= {kind: (partial(trainings, launched=kind), args.trainings) for kind in LAUNCHED}
        modes = {mode: MODES[mode] for mode in args.modes}
        counts = {}
        for kind in args.only:
            work, number = tried[kind]
            counts[kind] = work(bases, root / kind, number, random.Random(f"{args.seed} {kind}"), modes)
            if args.json:
                args.json.write_text(json.dumps(counts, indent=1))
    print(table(counts))


def start_again() -> None:
    """Compile the library, and run this script once more with it in front of all others."""
    folder = tempfile.mkdtemp()
    library = Path(folder) / "killer.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "killer.c", "-ldl"], check=True)
    environment = {"LD_PRELOAD": str(library), "KILLER": str(library), "TOKENIZERS_PARALLELISM": "false",
                   "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # fmt: skip
    done = subprocess.run([sys.executable, *sys.argv], env={**os.environ, **environment}, check=False)
    shutil.rmtree(folder)
    sys.exit(done.returncode)


def start(work, folder: Path, moment: int, mode: int, **environment: str) -> tuple[int, int, object]:
    """Do something in a copy of this process, with more in its environment, that is stopped at a moment.

    Returns:
        The number of the process, a pipe that gets the number of events, and the file of what it prints.
    """
    killer = ctypes.CDLL(os.environ["KILLER"])
    reading, writing = os.pipe()
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the child writes to it
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading, log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    os.environ.update(environment)
    status = FAILED
    try:
        killer.arm(str(folder).encode(), ctypes.c_long(moment), mode)
        work()
        status = DONE
    except OSError as error:
        full = "No space left on device" in str(error) and str(folder) in str(error) and "free" in str(error)
        status = DISK_FULL if full else FAILED
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        killer.arm(b"", ctypes.c_long(NEVER), 0) if status == FAILED else None
        os.write(writing, str(ctypes.c_long(killer.events()).value).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def told(reading: int, log) -> tuple[int, str]:
    """The number of events of a process that has ended, and what it printed."""
    with os.fdopen(reading) as pipe, log:
        events = pipe.read()
        log.seek(0)
        return int(events or 0), log.read()


def in_child(work, folder: Path, moment: int = NEVER, mode: int = 0) -> tuple[int, list[int], str]:
    """Do something in a process of its own that is stopped at a moment.

    Returns:
        How it ended (-9 = killed), how many events there were below the folder (of this one process), and what it
        printed.
    """
    child, reading, log = start(work, folder, moment, mode)
    _, code = os.waitpid(child, 0)
    events, said = told(reading, log)
    return os.waitstatus_to_exitcode(code), [events], said


def in_two(work, folder: Path, environment: dict[str, str], moment: int, mode: int, victim: int):
    """Do something in two processes, of which one is stopped at a moment.

    Returns:
        How it ended for both (the worse of them), the number of events of each, and what they printed.
    """
    environment = {**environment, "MASTER_PORT": str(free_port())}
    running, ended = {}, {}
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **environment}
        at = moment if rank == victim else NEVER
        running[rank] = start(work, folder, at, mode if rank == victim else 0, **own)
    kill_at = None
    while len(ended) < 2:
        for rank in running.keys() - ended.keys():
            child, code = os.waitpid(running[rank][0], os.WNOHANG)
            if child:
                ended[rank] = os.waitstatus_to_exitcode(code)
        if any(ended.values()) and kill_at is None:
            kill_at = time.monotonic() + GRACE
            signal_rest(running, ended, signal.SIGTERM)
        elif kill_at is not None and time.monotonic() > kill_at:
            signal_rest(running, ended, signal.SIGKILL)
        time.sleep(0.01)
    events, said = zip(*(told(*running[rank][1:]) for rank in range(2)), strict=True)
    status = ended[victim] or ended[1 - victim]
    return status, list(events), "\n".join(said)


def free_port() -> int:
    """A port that is free, below those that the system gives to outgoing connections in the meantime."""
    while True:
        port = random.randint(20_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("localhost", port))
            return port


def signal_rest(running: dict, ended: dict, what: signal.Signals) -> None:
    for rank in running.keys() - ended.keys():
        with suppress(ProcessLookupError):
            os.kill(running[rank][0], what)


def launcher_environment(config: str) -> dict[str, str]:
    """What ``accelerate launch`` gives the processes of a training on two processes of a CPU."""
    from accelerate.commands import launch
    from accelerate.utils import launch as variables

    file = HERE.parents[1] / "examples" / "accelerate" / config
    args = launch.launch_command_parser().parse_args(["--config_file", str(file), "script"])
    args, defaults, _ = launch._validate_launch_command(args)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, given = variables.prepare_deepspeed_cmd_env(args)
    else:
        given = variables.prepare_multi_gpu_env(args)
    own = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "ACCELERATE_USE_CPU": "true"}
    return {**{key: value for key, value in given.items() if os.environ.get(key) != value}, **own}


def moments(total: int, number: int, rng: random.Random) -> list[int]:
    return sorted(rng.sample(range(1, total + 1), min(number or total, total)))


def contents(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by their names."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def saves(old: Path, save, load, number: int, rng: random.Random, modes: dict[str, int]) -> dict[str, Counter]:
    """Save over an old save, stopped at moments of it, and load; compare the files with those of both saves."""
    target = old.with_name("target")
    shutil.copytree(old, target)
    status, (total,), said = in_child(lambda: save(target), target)
    assert status == DONE, said
    states = {"old": contents(old), "new": contents(target)}
    states["new"] = {**states["old"], **states["new"]}
    found: dict[str, Counter] = {}
    for mode, what in modes.items():
        counter = found[mode] = Counter()
        for moment in moments(total, number, rng):
            shutil.rmtree(target)
            shutil.copytree(old, target)
            status, _, said = in_child(lambda: save(target), target, moment, what)
            # writes that nobody waits for may fail unseen, such as the removal of the temporary folder
            expected = (-9,) if what != 3 else (DISK_FULL, DONE)
            assert status in expected, f"moment {moment}, {mode}: ended with {status}\n{said}"
            status, _, said = in_child(lambda: load(target), target)
            if status != DONE:
                counter["refused"] += 1
                print(f"moment {moment} of {total}, {mode}: refused\n{said}", file=sys.stderr)
                continue
            now = contents(target)
            same = [name for name, state in states.items() if state.items() <= now.items()]
            counter[same[0] if same else "torn"] += 1
            in_child(lambda: save(target), target)
            counter["left over"] += len(contents(target).keys() - states["new"].keys())
        counter["moments"] = total
    return found


def saves_of_the_model(bases: Path, folder: Path, number: int, rng: random.Random, modes) -> dict[str, Counter]:
    """The new save has another adapter and another setting, and every code file is of another version."""
    import tiny

    from adem_vl_hf import AdemVLForConditionalGeneration

    tiny.build(bases).save_pretrained(folder / "old")
    for path in (folder / "old").glob("*.py"):
        path.write_text(path.read_text() + "# an earlier version\n")
    new = tiny.perturb(tiny.build(bases, fusion_scale=0.3), seed=9)
    return saves(
        folder / "old", new.save_pretrained, AdemVLForConditionalGeneration.from_pretrained, number, rng, modes
    )  # fmt: skip


def saves_of_the_processor(bases: Path, folder: Path, number: int, rng: random.Random, modes) -> dict[str, Counter]:
    """The new processor has another chat template; it is saved beside a model, as at the end of a training."""
    import architectures
    import tiny

    from adem_vl_hf import AdemVLProcessor

    model = tiny.build(bases)
    model.save_pretrained(folder / "old")
    processor = architectures.ADEM_VL.processor(bases, model)
    processor.save_pretrained(folder / "old")
    for path in (folder / "old").glob("*.py"):
        path.write_text(path.read_text() + "# an earlier version\n")
    processor.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    processor.tokenizer.add_tokens(["<of the new one>"])
    return saves(folder / "old", processor.save_pretrained, AdemVLProcessor.from_pretrained, number, rng, modes)


def training_in_one(bases: Path, output: Path) -> None:
    import training_runs

    from adem_vl_hf.training import train

    made, processor = training_runs.trainer(
        bases, output, training_runs.samples(7), max_steps=6, save_strategy="steps", save_steps=2,
        learning_rate=1e-2, save_total_limit=2, logging_steps=1,
    )  # fmt: skip
    train(made, processor, resume=True)


def training_in_two(launched: str, bases: Path, output: Path) -> None:
    import distributed_worker
    import torch

    torch.set_num_threads(1)  # a copy of a process has a pool of no threads, which two threads at once would mend
    if launched == "zero3":
        distributed_worker.without_compiled_collectives()
    distributed_worker.run(bases, output, 2, fsdp=launched == "fsdp2", resume=True, max_steps=6, save_total_limit=2)


def trainings(
    bases: Path, folder: Path, number: int, rng: random.Random, modes: dict[str, int], launched: str | None = None
) -> dict[str, Counter]:
    """Train, stopped at a moment, start again, stopped at another, and start again: always with ``resume=True``."""
    import distributed_worker  # noqa: F401 - so that not every process imports it

    environment = launcher_environment(LAUNCHED[launched]) if launched else {}

    def run(output: Path, moment: int = NEVER, mode: int = 0, victim: int = 0):
        if launched:
            work = partial(training_in_two, launched, bases, output)
            return in_two(work, output, environment, moment, mode, victim)
        return in_child(partial(training_in_one, bases, output), output, moment, mode)

    output = folder / "whole"
    folder.mkdir()
    status, events, said = run(output)
    assert status == DONE, said
    whole = (output / "model.safetensors").read_bytes()
    # (process, moment), of all processes
    every = [(rank, moment) for rank, number_of in enumerate(events) for moment in range(1, number_of + 1)]
    total = len(every)
    found: dict[str, Counter] = {}
    for mode, what in modes.items():
        counter = found[mode] = Counter()
        for index, (victim, moment) in enumerate(rng.sample(every, min(number or total, total))):
            output = folder / f"{what}-{index}"
            history = []
            for process, again in ((victim, moment), rng.choice(every), (0, NEVER)):
                status, _, said = run(output, again, what, process)
                history.append(
                    (process, again, status, sorted(path.name for path in output.glob("*checkpoint-*")), said[-3000:])
                )
                stopped = (DONE, -9) if what != 3 else (DONE, DISK_FULL, FAILED)
                if status not in stopped:
                    break
            if status != DONE:
                counter["refused"] += 1
                print(
                    f"moment {moment} of {total}, {mode}: the last start ended with {status}", *history,
                    sep="\n", file=sys.stderr,
                )  # fmt: skip
                continue
            same = (output / "model.safetensors").read_bytes() == whole
            counter["bit-equal" if same else "other bits"] += 1
            if not same:
                print(f"moment {moment} of {total}, {mode}: other bits", *history, sep="\n", file=sys.stderr)
            counter["left over"] += len([*output.glob("_*"), *output.glob(".s*")])
            shutil.rmtree(output)
        counter["moments"] = total
    return found


def table(counts: dict[str, dict[str, Counter]]) -> str:
    """The counts as a table in Markdown."""
    training = "`train(resume=True)`, stopped twice"
    names = {
        "model": "`model.save_pretrained` over a checkpoint", "processor": "`processor.save_pretrained` over one",
        "training": training, "ddp": f"{training}, DDP of two processes", "fsdp2": f"{training}, FSDP2 of two",
        "zero3": f"{training}, ZeRO-3 of two",
    }  # fmt: skip
    lines = [
        "| what | stopped how | moments tried, of | old, whole | new, whole | bit-equal | torn or other bits | refused "
        "| files left over |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, modes in counts.items():
        for mode, counter in modes.items():
            tried = sum(counter.values()) - counter["moments"] - counter["left over"]
            cells = [names[kind], mode, f"{tried} of {counter['moments']}", counter["old"], counter["new"],
                     counter["bit-equal"], counter["torn"] + counter["other bits"], counter["refused"],
                     counter["left over"]]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
