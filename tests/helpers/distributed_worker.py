"""One process of several: the training runs that ``test_distributed.py`` starts through ``accelerate launch``.

accelerate launch --config_file ... tests/helpers/distributed_worker.py STRATEGY BASES OUTPUT

BASES is a folder of bases for each family. The whole run is ADEM-VL's on the Llama; one step is taken on each of the
other families, and by EVLM on the Llama.
"""

import json
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import architectures
import families
import scripts
import tiny
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from training_runs import PLAIN, Interrupted, StopAt, blocks, processor_of, samples

from adem_vl_hf import AdemVLProcessor, training
from adem_vl_hf.cli.parser import main
from adem_vl_hf.evaluation.in_training import answer_metrics
from adem_vl_hf.training import IN_ORDER, build_trainer, train, training_arguments

STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
ONE_STEP = {"max_steps": 1, "save_strategy": "no"}
# by the name of its folder: the bases' family and how the model is built on them
OTHERS = {family: (family, tiny.build) for family in families.TABLE if family != "llama"} | {
    "evlm": ("llama", architectures.EVLM.build),
    "lora": ("llama", partial(tiny.build, lora={"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]})),
    "experts": ("llama", partial(architectures.EVLM.build, moe_replicas=2)),
}
# with so large an epsilon Adam does not turn the last bit of a gradient near zero into a whole step
ADAM = {**PLAIN, "optim": "adamw_torch", "adam_epsilon": 1.0}


def as_on_gpus() -> None:
    """Have accelerate turn FSDP on, which it does for GPUs alone; all that it does from there on works on CPUs too."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def run(bases: Path, folder: Path, batch_size: int, model=None, stop=None, resume=False, fsdp=False, **more):
    """The same run for one process or for several, on blocks of samples with and without pictures."""
    model = model or tiny.build(bases)
    settings = {"use_cpu": True, "disable_tqdm": True, **STEPS, **ADAM, **IN_ORDER, **more}
    arguments = training_arguments(folder, 16, batch_size, **settings)
    if fsdp:
        as_on_gpus()
    trainer = build_trainer(model, processor_of(bases, model), blocks(16), arguments, callbacks=[StopAt(stop)])
    with suppress(Interrupted):
        train(trainer, trainer.processing_class, resume=resume)
    return trainer


def others(bases: Path, output: Path, batch_size: int, models=None, **settings) -> None:
    """One step of each of the others; ``output`` gets a folder for each."""
    for name, (family, build) in OTHERS.items():
        model = models[name] if models else build(bases / family)
        run(bases / family, output / name, batch_size, model, **ONE_STEP, **settings)


def answers(bases: Path, folder: Path, batch_size: int) -> dict[str, list[list[int]]]:
    """What an evaluation by generation scores, of numbers of samples that two processes have to fill up and of one not.

    The tokens of each answer, without padding, by the number of samples and by what was called.
    """
    model, found = tiny.build(bases), {}
    model.generation_config.max_new_tokens = 6
    processor = processor_of(bases, model)
    settings = {"use_cpu": True, "disable_tqdm": True, "predict_with_generate": True}
    arguments = training_arguments(folder, 4, batch_size, max_steps=1, **settings)
    for number in (1, 3, 4, 5):
        held_out, seen = blocks(number), []
        score = answer_metrics(processor, held_out)

        def note(prediction, score=score, seen=seen):
            seen.append([[one for one in row if one >= 0] for row in prediction.predictions.tolist()])
            return score(prediction)

        made = build_trainer(model, processor, samples(4), arguments, eval_dataset=held_out, compute_metrics=note)
        made.evaluate()
        made.predict(held_out)
        found |= {f"{number} evaluated": seen[0], f"{number} predicted": seen[1]}
    return found


def slowly(save):
    """A disk so slow that the process that saves nothing is ahead, if it does not wait."""

    def wait_and_save(*args, **kwargs):
        time.sleep(1)
        return save(*args, **kwargs)

    return wait_and_save


def ddp(bases: Path, output: Path) -> None:
    others(bases, output, 2)
    bases = bases / "llama"
    with patch.object(AdemVLProcessor, "save_pretrained", slowly(AdemVLProcessor.save_pretrained)):
        trainer = run(bases, output / "plain", 2)
    saved = (output / "plain" / "training.json").is_file()
    facts = {"wrapped": type(trainer.model_wrapped).__name__, "world": trainer.args.world_size, "saved": saved}
    facts["answers"] = answers(bases, output / "answered", 2)
    arguments = [output / "pictures", "--output-dir", output / "example", "--epochs", 1, "--batch-size", 2]
    arguments += ["--language-model", bases / "llama", "--vision-tower", bases / "clip"]
    sys.argv = ["train.py", *map(str, arguments)]
    scripts.load("examples/train.py").main()
    report(output, facts)


def fsdp2(bases: Path, output: Path) -> None:
    others(bases, output, 2, fsdp=True)
    bases = bases / "llama"
    whole = run(bases, output / "whole", 2, fsdp=True)
    names = {type(module).__name__ for module in whole.model.modules() if type(module).__name__.startswith("FSDP")}
    local = sum(getattr(p, "_local_tensor", p).numel() for p in whole.model.parameters())
    run(bases, output / "cut", 2, stop=3, fsdp=True)
    run(bases, output / "cut", 2, resume=True, fsdp=True)
    total = sum(p.numel() for p in whole.model.parameters())
    dtypes = sorted({str(p.dtype) for n, p in whole.model.named_parameters() if n.startswith("adapter.")})
    report(output, {"wrapped": sorted(names), "share": local / total, "dtypes": dtypes, "world": whole.args.world_size})


def without_compiled_collectives() -> None:
    """Have DeepSpeed use gloo. Its own collectives for CPUs would be compiled first, which takes a minute."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def zero3(bases: Path, output: Path) -> None:
    """All models come first: DeepSpeed's settings, once read, have Transformers load weights in parts."""
    without_compiled_collectives()
    models = {name: build(bases / family) for name, (family, build) in OTHERS.items()}
    first, before, after, broken = (tiny.build(bases / "llama") for _ in range(4))
    trainer = run(bases / "llama", output / "whole", 2, first)
    local = sum(parameter.ds_tensor.numel() for parameter in trainer.model.parameters())
    total = sum(parameter.ds_numel for parameter in trainer.model.parameters())
    run(bases / "llama", output / "cut", 2, before, stop=3)
    run(bases / "llama", output / "cut", 2, after, resume=True)
    others(bases, output, 2, models)
    next(broken.adapter.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    try:
        said = str(run(bases / "llama", output / "broken", 2, broken, **ONE_STEP))
    except FloatingPointError as error:
        said = str(error)
    facts = {"wrapped": type(trainer.model_wrapped).__name__, "share": local / total, "broken": said}
    report(output, facts)


def command(bases: Path, output: Path) -> None:
    """``adem-vl train`` itself, on a folder that has the Llama."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":

        def build(*args, **kwargs):
            as_on_gpus()
            return build_trainer(*args, **kwargs)

        training.build_trainer = build
    else:
        without_compiled_collectives()
    sys.argv = ["adem-vl", "train", *tiny.base_flags(bases), "--data", str(output / "pictures"),
                "--projector-dim", "8", "--batch-size", "2", "--max-steps", "2", "--set", "use_cpu=true",
                "--output-dir", str(output / "run")]  # fmt: skip
    sys.exit(main(sys.argv[1:]))


def report(output: Path, facts: dict) -> None:
    (output / f"rank{PartialState().process_index}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, bases, output = sys.argv[1], *map(Path, sys.argv[2:])
    {"ddp": ddp, "fsdp2": fsdp2, "zero3": zero3, "command": command}[strategy](bases, output)
