"""A process of a training on two hosts, one of which is lost: ``test_two_hosts.py`` starts it through torchrun.

torchrun ... tests/helpers/lost_host.py BASES OUTPUT. HOST names the host, and DIES is where the host "b" dies: in a
"step", in a "save", or nowhere. A host that has died once does not die again.
"""

import os
import signal
import sys
from pathlib import Path

import tiny
import torch
from distributed_worker import ADAM, STEPS
from training_runs import blocks, processor_of
from transformers import TrainerCallback

from adem_vl_hf.training import IN_ORDER, build_trainer, train, training_arguments


class Lost(TrainerCallback):
    """Kills the process and the launcher above it, as a host that is gone."""

    def __init__(self, marker: Path) -> None:
        self.marker, self.save = marker, torch.save
        torch.save = self.saving

    def die(self, where: str) -> None:
        if os.environ.get("HOST") == "b" and os.environ.get("DIES") == where and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.die("step")

    def saving(self, content, file, *args, **kwargs):
        if "checkpoint-4" in str(file):
            self.die("save")
        self.save(content, file, *args, **kwargs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    bases, output = map(Path, sys.argv[1:])
    model = tiny.build(bases)
    settings = {"use_cpu": True, "disable_tqdm": True, **STEPS, **ADAM, **IN_ORDER, "max_steps": 6}
    arguments = training_arguments(output, 24, 2, **settings)
    callbacks = [Lost(output.with_name(f"{output.name}.lost"))]
    trainer = build_trainer(model, processor_of(bases, model), blocks(24), arguments, callbacks=callbacks)
    train(trainer, trainer.processing_class, resume=True)
