"""Measure time, operations and memory of functions, in ways that other load on the machine disturbs least."""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from adem_vl_hf.modeling.fusion import BY_TRITON

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STATUS = Path("/proc/self/status")  # there on Linux
SUFFIXES = {"cpu": "", "cuda": "_gpu"}  # of the names of result files


def result_file(name: str) -> str:
    """The name of a result file for the device of this machine.

    Args:
        name (str): the name for a CPU.

    Returns:
        The name, with a suffix on a GPU, and one more where adaptive drop is the kernel of ``drop_kernel``.
    """
    return name + SUFFIXES[DEVICE.type] + ("_triton" if BY_TRITON and DEVICE.type == "cuda" else "")


def device_name() -> str:
    """The name of the device.

    Returns:
        That of the GPU, or ``"cpu"``.
    """
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def finish() -> None:
    """Wait until the GPU has finished all work; does nothing on a CPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def to_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Move a batch to the device of the measurements.

    Args:
        batch (Mapping[str, Any]): tensors by name.

    Returns:
        The same names with the tensors there.
    """
    return {name: value.to(DEVICE) for name, value in batch.items()}


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, label: str = "", calls: int = 1
) -> dict[str, list[float]]:
    """Measure functions in turns: each is called once a turn, so that other load on the machine slows all alike.

    The first turn warms up and is not counted.

    Args:
        functions (Mapping[str, Callable[[], Any]]): the functions by name.
        repeats (int): the number of turns.
        label (str): the label of the progress bar; empty for none.
        calls (int): how often a function is called in one measurement.

    Returns:
        The seconds of one call, of every turn, by the name of the function.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(repeats + 1), desc=label, disable=not label):
        for name, function in functions.items():
            began = time.perf_counter()
            for _ in range(calls):
                function()
            finish()
            if turn:
                times[name].append((time.perf_counter() - began) / calls)
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """The median of the ratios within a turn: while a machine is slow, it is slow for both.

    Args:
        times (list[float]): seconds of each turn.
        base (list[float]): seconds of another function in the same turns.

    Returns:
        The median of ``times`` over ``base``.
    """
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """The ratios of several functions to one of them.

    Args:
        times (Mapping[str, list[float]]): of ``interleaved``.
        base (str): the name of that one.

    Returns:
        The ratio by the name of the function.
    """
    return {name: ratio(values, times[base]) for name, values in times.items()}


def counted_flops(function: Callable[[], Any]) -> int:
    """Count the floating-point operations of matrix products and attention in one call.

    Args:
        function (Callable[[], Any]): what to call.

    Returns:
        The number of operations; a multiplication and an addition are two.
    """
    # the counter does not know every shape of a GPU's fused attention, so attention runs as plain products here
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peak_memory() -> int:
    """The peak memory of this process since it began.

    Returns:
        Bytes; those of the GPU if there is one.
    """
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if STATUS.is_file():  # ru_maxrss of a process is at least what its parent's was when it was started
        return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def training_step(
    model: Any, batch: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """One forward and backward pass in training mode.

    Args:
        model (Any): the model.
        batch (Mapping[str, torch.Tensor]): its inputs, with labels.
        optimizer (torch.optim.Optimizer | None): makes its step, too; None = no step.
    """
    _switch(model, True)
    model(**batch).loss.backward()
    if optimizer is not None:
        optimizer.step()
    model.zero_grad()


def _switch(model: Any, training: bool) -> None:
    """Set the mode only where it changes: ``train()`` visits all modules, which is no part of a training step."""
    if model.training != training:
        model.train(training)


@torch.inference_mode()
def answer(model: Any, inputs: Mapping[str, torch.Tensor], new_tokens: int, **kwargs: Any) -> None:
    """Generate greedily in evaluation mode: the prefill and exactly ``new_tokens`` tokens.

    Args:
        model (Any): the model.
        inputs (Mapping[str, torch.Tensor]): the prompt.
        new_tokens (int): how many tokens to generate.
        kwargs (Any): for ``generate``.
    """
    _switch(model, False)
    model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, **kwargs)
