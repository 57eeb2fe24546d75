"""Times, operations and memory of functions, in ways that a busy machine disturbs least."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SUFFIXES = {"cpu": "", "cuda": "_gpu"}  # of result files


def result_file(name: str) -> str:
    """The name of this device's result file."""
    return name + SUFFIXES[DEVICE.type]


def device_name() -> str:
    """Of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def finish() -> None:
    """Wait until a GPU has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def to_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a batch where the model is."""
    return {name: value.to(DEVICE) for name, value in batch.items()}


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, label: str = "", calls: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call; every function once in turn, so that what slows the machine falls on all alike.

    The first turn warms up and is not counted. ``calls``: of a function, one after another, in one measurement.
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
    """The median of the ratios within a turn: a machine that is slow for a while is slow for both."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Of each over ``base``."""
    return {name: ratio(values, times[base]) for name, values in times.items()}


def counted_flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products (and attention) of one call; a multiply and an add are two."""
    # a GPU's fused attention is not counted for every shape; as products it is
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peak_memory() -> int:
    """Bytes that this process held at most since it began: on the GPU, where there is one."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def training_step(model: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """Forward and backward in training mode."""
    _switch(model, True)
    model(**batch).loss.backward()
    model.zero_grad()


def _switch(model: Any, training: bool) -> None:
    """Where it is needed alone: it goes through all modules, which a step of training does not."""
    if model.training != training:
        model.train(training)


@torch.inference_mode()
def answer(model: Any, inputs: Mapping[str, torch.Tensor], new_tokens: int, **kwargs: Any) -> None:
    """Prefill and exactly ``new_tokens`` greedy tokens, in evaluation mode."""
    _switch(model, False)
    model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, **kwargs)
