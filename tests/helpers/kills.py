"""Kills saves and trainings at chosen moments, goes on after each, and counts what has become of them.

python tests/helpers/kills.py [--saves N] [--trainings N] [--seed S] [--only KIND ...] [--json FILE]

Prints the table of docs/reliability.md. A moment is an event of the file system below the folder in question: a file
is opened for writing, written, flushed, renamed or deleted, or a folder is made or deleted. At it the process gets
SIGKILL, or writes half of the data and gets SIGKILL, or finds the disk full from there on. ``killer.c`` does that.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = {"killed": 1, "killed after half a write": 2, "disk full": 3}
KINDS = ("model", "processor", "training")
DONE, DISK_FULL, FAILED = 0, 3, 4
NEVER = -1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--saves", type=int, default=12, help="moments of each kind of save and mode; 0 = all")
    parser.add_argument("--trainings", type=int, default=4, help="moments of the training, in each mode")
    parser.add_argument("--seed", type=int, default=0)
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
        counts = {
            kind: work(bases, root / kind, number, random.Random(f"{args.seed} {kind}"))
            for kind, (work, number) in tried.items()
            if kind in args.only
        }
    print(table(counts))
    if args.json:
        args.json.write_text(json.dumps(counts, indent=1))


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


def in_child(work, folder: Path, moment: int = NEVER, mode: int = 0) -> tuple[int, int, str]:
    """Do something in a process of its own that is stopped at a moment.

    Returns:
        How it ended (-9 = killed), how many events there were below the folder, and what it printed.
    """
    killer = ctypes.CDLL(os.environ["KILLER"])
    reading, writing = os.pipe()
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the child writes to it
    child = os.fork()
    if child == 0:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
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
    os.close(writing)
    _, code = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe, log:
        events = pipe.read()
        log.seek(0)
        return os.waitstatus_to_exitcode(code), int(events or 0), log.read()


def moments(total: int, number: int, rng: random.Random) -> list[int]:
    return sorted(rng.sample(range(1, total + 1), min(number or total, total)))


def contents(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by their names."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def saves(old: Path, save, load, number: int, rng: random.Random) -> dict[str, Counter]:
    """Save over an old save, stopped at moments of it, and load; compare the files with those of both saves."""
    target = old.with_name("target")
    shutil.copytree(old, target)
    status, total, said = in_child(lambda: save(target), target)
    assert status == DONE, said
    states = {"old": contents(old), "new": contents(target)}
    states["new"] = {**states["old"], **states["new"]}
    found: dict[str, Counter] = {}
    for mode, what in MODES.items():
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


def saves_of_the_model(bases: Path, folder: Path, number: int, rng: random.Random) -> dict[str, Counter]:
    """The new save has another adapter and another setting, and every code file is of another version."""
    import tiny

    from adem_vl_hf import AdemVLForConditionalGeneration

    tiny.build(bases).save_pretrained(folder / "old")
    for path in (folder / "old").glob("*.py"):
        path.write_text(path.read_text() + "# an earlier version\n")
    new = tiny.perturb(tiny.build(bases, fusion_scale=0.3), seed=9)
    return saves(
        folder / "old", new.save_pretrained, AdemVLForConditionalGeneration.from_pretrained, number, rng
    )  # fmt: skip


def saves_of_the_processor(bases: Path, folder: Path, number: int, rng: random.Random) -> dict[str, Counter]:
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
    return saves(folder / "old", processor.save_pretrained, AdemVLProcessor.from_pretrained, number, rng)


def trainings(bases: Path, folder: Path, number: int, rng: random.Random) -> dict[str, Counter]:
    """Train, stopped at a moment, start again, stopped at another, and start again: always with ``resume=True``."""

    def run(output: Path) -> None:
        import training_runs

        from adem_vl_hf.training import train

        made, processor = training_runs.trainer(
            bases, output, training_runs.samples(7), max_steps=6, save_strategy="steps", save_steps=2,
            learning_rate=1e-2, save_total_limit=2, logging_steps=1,
        )  # fmt: skip
        train(made, processor, resume=True)

    output = folder / "whole"
    folder.mkdir()
    status, total, said = in_child(lambda: run(output), output)
    assert status == DONE, said
    whole = (output / "model.safetensors").read_bytes()
    found: dict[str, Counter] = {}
    for mode, what in MODES.items():
        counter = found[mode] = Counter()
        for index, moment in enumerate(moments(total, number, rng)):
            output = folder / f"{what}-{index}"
            history = []
            for again in (moment, rng.randint(1, total), NEVER):
                status, _, said = in_child(lambda output=output: run(output), output, again, what)
                history.append(
                    (again, status, sorted(path.name for path in output.glob("*checkpoint-*")), said[-1500:])
                )
                stopped = (DONE, -9) if what != 3 else (DONE, DISK_FULL, FAILED)
                if status not in stopped:
                    break
            if status != DONE:
                counter["refused"] += 1
                print(
                    f"moment {moment} of {total}, {mode}: the last start ended with {status}\n{said}", file=sys.stderr
                )
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
    names = {"model": "`model.save_pretrained` over a checkpoint", "training": "`train(resume=True)`, stopped twice",
             "processor": "`processor.save_pretrained` over one"}  # fmt: skip
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
