"""Teach the small CLIP tower of ``examples/train_tower.py`` to see as DINOv2-small does.

    python examples/distil_tower.py --tower runs/tower/clip --output-dir runs/distilled

Teacher and student see the same images: drawings of OpenMoji, Twemoji and Fluent, changed at random, and basic shapes
(``tower_pictures.py``). The student learns to give features from which a linear layer, one for the class token and one
for the patches, finds what the teacher gives at the same place: both divide an image into 8 x 8 patches. The teacher
costs twice as much as a step of the student, so each of its answers is used in four steps. What tells things apart is a
small part of the teacher's features, so another linear layer must name the thing, whatever style it is drawn in.

After an interruption the same command continues from the last checkpoint. The result is a folder ``tower`` like that of
the tower it began with, and ``heads.safetensors``, the linear layers.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tower_pictures import Drawings
from tqdm import tqdm
from transformers import AutoImageProcessor, CLIPVisionModel, Dinov2Model

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.drawing import CANVAS
from adem_vl_hf.data.openmoji.sprites import openmoji
from adem_vl_hf.data.openmoji.styles import STYLES
from adem_vl_hf.embedded.dinov2 import embedded_dinov2
from adem_vl_hf.files import replacing
from adem_vl_hf.training import fastest_setting

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
USES = 4  # of each image and its answer
KEPT = 512  # the number of steps of new images that are kept to be used again
WARMUP = 100
TOKENS = 1 + 8 * 8  # the class token, and the patches of both towers


class Batches(Dataset):
    """Draws the new images of each step on demand. They depend on seed and index alone."""

    def __init__(self, steps: int, images: int, seed: int) -> None:
        self.steps, self.images, self.drawings = steps, images, Drawings(seed)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [self.drawings.draw(index * self.images + i) for i in range(self.images)]
        return np.stack([image for image, _ in drawn]), np.array([thing for _, thing in drawn])


class Normalise:
    """Turns pixels [I, H, W, 3], uint8, into images [I, 3, H', W'] as the image processor of a tower does."""

    def __init__(self, folder: Path) -> None:
        processor = AutoImageProcessor.from_pretrained(folder)
        self.mean, self.std = (torch.tensor(v, device=DEVICE) for v in (processor.image_mean, processor.image_std))
        self.size = (processor.size["height"], processor.size["width"])

    def __call__(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        x = ((torch.as_tensor(pixels, device=DEVICE).float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        if x.shape[-2:] == self.size:
            return x
        return F.interpolate(x, self.size, mode="bicubic", antialias=True)


class Teacher:
    """DINOv2-small: gives features [I, 1+N, C] in units of their deviations, around their means over many drawings."""

    def __init__(self) -> None:
        folder = embedded_dinov2()
        attention = {k: v for k, v in fastest_setting().items() if k != "dtype"}
        self.tower = Dinov2Model.from_pretrained(folder, dtype=fastest_setting()["dtype"], **attention).to(DEVICE)
        self.tower.eval().requires_grad_(False)
        self.width = self.tower.config.hidden_size
        self.normalise = Normalise(folder)
        self.mean, self.deviation = torch.zeros(2, self.width), torch.ones(2, self.width)  # of class token and patches

    @torch.no_grad()
    def raw(self, pixels: np.ndarray) -> torch.Tensor:
        return self.tower(self.normalise(pixels).to(self.tower.dtype)).last_hidden_state.float()

    def measure(self, pixels: np.ndarray) -> None:
        """Measure means and deviations on images."""
        features = self.raw(pixels)
        for place, part in enumerate((features[:, 0], features[:, 1:].flatten(0, 1))):
            self.mean[place], self.deviation[place] = part.mean(0).cpu(), part.std(0).cpu()

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        places = torch.tensor([0] + [1] * (TOKENS - 1))
        return (self.raw(pixels) - self.mean[places].to(DEVICE)) / self.deviation[places].to(DEVICE)


class Student(nn.Module):
    """A CLIP tower and the linear layers on its features.

    Args:
        folder (Path): The tower.
        width (int): C of the teacher.
        things (int): The number of things that are named.
    """

    def __init__(self, folder: Path, width: int, things: int) -> None:
        super().__init__()
        # the fused kernel of a CPU has a slow backward pass
        kernel = "sdpa" if DEVICE.type == "cuda" else "eager"
        self.tower = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)
        self.norm = getattr(self.tower, "vision_model", self.tower).post_layernorm  # the former before 5.16
        own = self.tower.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(own, width) for _ in range(2))
        self.namer = nn.Linear(2 * own, things)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's features [I, 1+N, C] and logits of things [I, T] as the layers find them, in float32."""
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=fastest_setting()["dtype"] == torch.bfloat16):
            states = self.tower(images).last_hidden_state
        states = self.norm(states.float())
        features = torch.cat([self.heads[0](states[:, :1]), self.heads[1](states[:, 1:])], dim=1)
        return features, self.namer(torch.cat([states[:, 0], states[:, 1:].mean(1)], dim=1))


def distance(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of features [I, 1+N, C], half of it the class token's. The mean alone has 1."""
    squared = (found - expected.float()).square().mean(2)  # [I, 1+N]
    return (squared[:, 0].mean() + squared[:, 1:].mean()) / 2


@torch.inference_mode()
def scores(student: Student, teacher: Teacher, normalise: Normalise, number: int = 142) -> dict[str, float]:
    """Measure distance and naming on test drawings in each style, also in that which is never drawn in training."""
    result = {}
    for style in STYLES:
        data = OpenMojiNames("test", size=number, kinds=("caption",), styles=[style])
        pixels = np.stack([np.asarray(data[i]["image"]) for i in range(number)])
        features, logits = student(normalise(pixels))
        things = torch.tensor([data.thing_index(i) for i in range(number)], device=DEVICE)
        result[f"{style}_distance"] = round(distance(features, teacher(pixels)).item(), 4)
        result[f"{style}_named"] = round((logits.argmax(1) == things).float().mean().item(), 4)
    return result


def save(student: Student, teacher: Teacher, source: Path, folder: Path, facts: dict) -> None:
    """Write the tower as its source is written, with the Hub's names, and the linear layers in the teacher's units."""
    tower = folder / "tower"
    tower.mkdir(exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(source / name, tower / name)
    trained = student.tower.state_dict()
    named = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in trained.items()}
    expected = load_file(source / "model.safetensors")
    with replacing(tower / "model.safetensors") as beside:
        save_file({n: named[n].float().cpu().contiguous() for n in expected}, beside, metadata={"format": "pt"})
    layers = {}
    for place, name in enumerate(("cls", "patches")):
        head, deviation, mean = student.heads[place], teacher.deviation[place], teacher.mean[place]
        layers[f"{name}.weight"] = head.weight.detach().cpu() * deviation[:, None]
        layers[f"{name}.bias"] = head.bias.detach().cpu() * deviation + mean
    with replacing(folder / "heads.safetensors") as beside:
        save_file(layers, beside)
    (tower / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", type=Path, required=True, help="the tower with which the student begins")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/distilled"))
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--batch-size", type=int, default=128, help="images in a step, of which a quarter is new")
    parser.add_argument("--naming-weight", type=float, default=0.2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw; a GPU needs several")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    keep_freed_memory()

    teacher, new = Teacher(), args.batch_size // USES
    teacher.measure(Batches(1, 512, args.seed + 1)[0][0])
    student = Student(args.tower, teacher.width, len(openmoji()[0])).to(DEVICE).eval()
    normalise = Normalise(args.tower)
    layers = list(student.heads.parameters()) + list(student.namer.parameters())
    tower = [p for p in student.tower.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tower if p.ndim > 1], "weight_decay": 0.02, "factor": 1.0},
        {"params": [p for p in tower if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
        {"params": layers, "weight_decay": 0.0, "factor": 5.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
    checkpoint, start = args.output_dir / "resume.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=DEVICE)
        student.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    batches = torch.utils.data.Subset(Batches(args.steps, new, args.seed), range(start, args.steps))
    loader = DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4)
    log, began = (args.output_dir / "log.jsonl").open("a"), time.time()
    kept_pixels = torch.empty(KEPT * new, CANVAS, CANVAS, 3, dtype=torch.uint8)
    kept_things = torch.empty(KEPT * new, dtype=torch.long)
    kept_answers = torch.empty(KEPT * new, TOKENS, teacher.width, dtype=torch.bfloat16)
    recent: list[list[float]] = []
    bar = tqdm(loader, initial=start, total=args.steps, desc="tower", mininterval=5)
    for step, (pixels, things) in enumerate(bar, start):
        rate = args.learning_rate * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        age = step - start  # the images of an earlier run are not kept
        rows = torch.arange(new) + age % KEPT * new
        kept_pixels[rows], kept_things[rows] = torch.as_tensor(pixels), torch.as_tensor(things)
        kept_answers[rows] = teacher(pixels).bfloat16().cpu()
        rows = torch.cat([rows, torch.randint(min(KEPT, age + 1) * new, (args.batch_size - new,))])
        features, logits = student(normalise(kept_pixels[rows]))
        apart = distance(features, kept_answers[rows].to(DEVICE))
        naming = F.cross_entropy(logits, kept_things[rows].to(DEVICE), ignore_index=-1)
        loss = apart + args.naming_weight * naming
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        optimizer.step()
        recent.append([apart.item(), naming.item()])
        done = step + 1
        if done % 20 == 0:
            losses = dict(zip(("distance", "naming"), np.mean(recent, axis=0).round(4).tolist(), strict=True))
            facts = {"step": done, **losses, "seconds": round(time.time() - began)}
            bar.set_postfix(facts, refresh=False)
            print(json.dumps(facts), file=log, flush=True)
            recent = []
        if done % args.save_every == 0 or done == args.steps:
            with replacing(checkpoint) as beside:
                torch.save({"model": student.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, beside)
            measured = scores(student, teacher, normalise)
            print(json.dumps({"step": done, **measured}), file=log, flush=True)
            names = ("batch_size", "naming_weight", "learning_rate", "seed")
            facts = {"steps": done, **{name: getattr(args, name) for name in names}, **measured}
            save(student, teacher, args.tower, args.output_dir, facts)


if __name__ == "__main__":
    main()
