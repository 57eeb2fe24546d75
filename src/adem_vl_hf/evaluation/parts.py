"""Prediction files that several processes write: each its own part, one file in the end.

A part lies beside the file as ``NAME.part3``. Parts that an interrupted run left are taken into the file by the next
run, whatever its number of processes.
"""

import glob
import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from .predictions import PredictionFile, read_predictions


class Alone:
    """What ``predict`` asks of ``PartialState``, where there is one process."""

    process_index, num_processes, is_main_process = 0, 1, True

    def wait_for_everyone(self) -> None:
        """Nobody to wait for."""


def processes() -> PartialState | Alone:
    """This process among those that torchrun or ``accelerate launch`` started."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Alone()
    # asked for a CPU, PartialState takes gloo; not asked, and without another device, it takes this for one process
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def part_of(output: Path, process: int) -> Path:
    """The part of one process."""
    return output.with_name(f"{output.name}.part{process}")


def take_in_parts(output: Path) -> None:
    """Append to ``output`` every row of its parts that it lacks, then remove them."""
    parts = sorted(output.parent.glob(f"{glob.escape(output.name)}.part*"))
    if not parts:
        return
    with PredictionFile(output) as file:
        for path in parts:
            for row in read_predictions(path):
                if row["id"] not in file.rows:
                    file.append(row)
    for path in parts:
        path.unlink()
