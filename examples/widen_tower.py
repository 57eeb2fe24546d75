"""Fine-tune the small CLIP tower of ``examples/train_tower.py`` so that it knows things and shapes, not drawings.

    python examples/widen_tower.py --tower runs/tower/clip --output-dir runs/wide --steps 20000

The tower as it is, frozen, is the teacher. It sees a layout of the OpenMoji data sets. The student sees the same layout
in the styles of OpenMoji, Twemoji and Fluent, changed at random (``tower_pictures.py``), and learns to give the
features that the teacher gives, at the class token and at every patch. So an adapter that was trained on the teacher
works with the student, too: the own part in the tower of the adapter that ships on it is in place on both sides.
Further, a linear classifier that was trained on the teacher's features must name the thing from the student's. With
``--dinov2-weight``, DINOv2-small is a second teacher: another linear layer must find its class token for the thing, the
mean over the styles, whatever the student sees it in. On pictures of basic shapes there is no teacher. Linear heads,
which are thrown away, name the shapes and colours from each patch of the last two blocks, from the class token and from
the mean patch.

After an interruption the same command continues from the last checkpoint; with a smaller ``--steps`` it ends earlier.
The result is a folder like the teacher's. Its weights are a running mean of the trained ones.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tower_pictures import GRID, PAINTS, SHAPES, STYLES, Layouts, draw_shapes
from tqdm import tqdm
from transformers import AutoImageProcessor, CLIPImageProcessor, CLIPVisionModel, Dinov2Model

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.sprites import openmoji
from adem_vl_hf.data.openmoji.styles import OPENMOJI
from adem_vl_hf.embedded.dinov2 import embedded_dinov2
from adem_vl_hf.files import replacing
from adem_vl_hf.loading import CHECKPOINT_ON_CLIP, TOWER
from adem_vl_hf.modeling.vision import VisionAdapter
from adem_vl_hf.training import fastest_setting

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOSSES = ("kept", "distance", "naming", "likeness", "shapes")  # kept is the distance in OpenMoji's own style
BARE = 0.2  # the share of steps in which both towers are without the adapter's part
MEAN_OF = 0.995  # of the running mean of the weights
DINOV2_WIDTH = 384
DRAWINGS = 8  # of each thing, from which the classifier on the teacher's features learns
OWN = 3  # the student sees one layout of so many in OpenMoji's own style, too


class Tower(nn.Module):
    """A CLIP tower with an adapter's bottlenecks beside its MLPs, which can be left out.

    Args:
        folder (Path): The tower.
        checkpoint (Path): The folder of the adapter, whose bottlenecks stay as they are.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        super().__init__()
        attention = {k: v for k, v in fastest_setting().items() if k != "dtype"}
        self.tower = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32, **attention)
        inner = getattr(self.tower, "vision_model", self.tower)  # one level deeper before Transformers 5.16
        self.norm, blocks = inner.post_layernorm, inner.encoder.layers
        config = json.loads((checkpoint / "config.json").read_text())
        dim, self.scale = config["vision_adapter_dim"], config["vision_adapter_scale"]
        width = self.tower.config.hidden_size
        self.adapters = nn.ModuleList(VisionAdapter(width, dim, 0.0) for _ in blocks).requires_grad_(False)
        mark = "adapter.vision_adapters."
        weights = load_file(checkpoint / "model.safetensors").items()
        self.adapters.load_state_dict({k.removeprefix(mark): v.float() for k, v in weights if k.startswith(mark)})
        self.adapted = True
        for block, adapter in zip(blocks, self.adapters, strict=True):
            block.mlp.register_forward_hook(lambda module, args, out, adapter=adapter: self._add(adapter, args[0], out))

    def _add(self, adapter: nn.Module, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out + self.scale * adapter(x) if self.adapted else out

    def forward(self, pixels: torch.Tensor, adapted: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normed features [I, 1+N, C] of the last block but one and of the last, in float32."""
        self.adapted = adapted
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=fastest_setting()["dtype"] == torch.bfloat16):
            states = self.tower(pixels, output_hidden_states=True).hidden_states
        return self.norm(states[-2].float()), self.norm(states[-1].float())


class Heads(nn.Module):
    """Linear heads that name shapes and colours, for one block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Linear(width, 2 + len(SHAPES) + len(PAINTS))  # 0 of either is the background
        self.whole = nn.ModuleList(nn.Linear(width, len(SHAPES) + len(PAINTS)) for _ in range(2))

    def forward(self, features: torch.Tensor, shapes: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
        """Return the loss on features [I, 1+N, C] with the true shape and colour [I, N] of each patch."""
        of_patches = self.patches(features[:, 1:]).split([1 + len(SHAPES), 1 + len(PAINTS)], dim=-1)
        weights = torch.where(shapes > 0, 1.0, 0.2).flatten()  # most patches are background
        loss = sum(
            (F.cross_entropy(found.flatten(0, 1), true.flatten(), reduction="none") * weights).sum() / weights.sum()
            for found, true in zip(of_patches, (shapes, colours), strict=True)
        )
        sizes = ((shapes, len(SHAPES)), (colours, len(PAINTS)))
        present = torch.cat([F.one_hot(true, 1 + size).amax(1)[:, 1:] for true, size in sizes], dim=1).float()
        for head, pooled in zip(self.whole, (features[:, 0], features[:, 1:].mean(1)), strict=True):
            found = head(pooled)
            loss = loss + 4 * F.binary_cross_entropy_with_logits(found, present)
        return loss


class Batches(Dataset):
    """Draws whole batches on demand. They depend on seed and index alone."""

    def __init__(self, steps: int, layouts: int, shapes: int, styles: Sequence[str], seed: int) -> None:
        self.steps, self.n_layouts, self.n_shapes, self.seed = steps, layouts, shapes, seed
        self.own, self.others = [s for s in styles if s == OPENMOJI], [s for s in styles if s != OPENMOJI]
        self.layouts = Layouts(seed)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        drawn, things = [], []
        for i in range(self.n_layouts):
            with_own = i % OWN == 0 or not self.others
            images, thing = self.layouts.draw(index * self.n_layouts + i, self.own * with_own + self.others)
            drawn.append(images)
            things.append(thing)
        own = [np.arange(len(images) - 1) < len(images) - 1 - len(self.others) for images in drawn]
        rng = random.Random(f"shapes-{self.seed}-{index}")
        shapes = [draw_shapes(rng) for _ in range(self.n_shapes)]
        fields = {name: np.stack([getattr(one, name) for one in shapes]) for name in ("shapes", "colours")}
        return {
            "teacher": np.stack([images[0] for images in drawn]),
            "student": np.concatenate([images[1:] for images in drawn]),
            "own": np.concatenate(own),
            "layout": np.repeat(np.arange(len(drawn)), [len(images) - 1 for images in drawn]),  # of the student's
            "things": np.array(things),
            "pictures": np.stack([one.pixels for one in shapes]),
            **fields,
        }


class Normalise:
    """Turns pixels [..., H, W, 3], uint8, into images [I, 3, H, W] as the tower's processor does."""

    def __init__(self, folder: Path) -> None:
        processor = CLIPImageProcessor.from_pretrained(folder)
        self.mean, self.std = (torch.tensor(v, device=DEVICE) for v in (processor.image_mean, processor.image_std))

    def __call__(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        x = torch.as_tensor(pixels).to(DEVICE).flatten(0, -4).float() / 255
        return ((x - self.mean) / self.std).permute(0, 3, 1, 2)


class Teaching(nn.Module):
    """What the teacher's features are like: their deviations, and a linear classifier of the things on top of them.

    The classifier reads the class token and the mean patch. It learns from the teacher alone and then stays as it is.
    So do the features of DINOv2, which are zeros until they are asked for.

    Args:
        things (int): The number of things.
        tokens (int): 1 + N.
        width (int): C.
    """

    def __init__(self, things: int, tokens: int, width: int) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.ones(tokens, width))  # [1+N, C]
        self.register_buffer("pooled_mean", torch.zeros(2 * width))
        self.register_buffer("pooled_deviation", torch.ones(2 * width))
        self.register_buffer("dinov2", torch.zeros(things, DINOV2_WIDTH))  # unit vectors around their mean
        self.classifier = nn.Linear(2 * width, things)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Join the class token and the mean patch, each dimension in units of its deviation: [I, 2 C]."""
        pooled = torch.cat([features[:, 0], features[:, 1:].mean(1)], dim=1)
        return (pooled - self.pooled_mean) / self.pooled_deviation

    def distances(self, found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return mean squared distances [I] of features [I, 1+N, C], half the class token's. A constant has 1."""
        squared = ((found - expected) / self.deviation).square().mean(2)  # [I, 1+N]
        return (squared[:, 0] + squared[:, 1:].mean(1)) / 2

    def name(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [I, things] of features [I, 1+N, C]."""
        return self.classifier(self.pool(features))

    def learn(self, teacher: Tower, normalise: Normalise) -> None:
        """Measure the deviations and train the classifier on drawings of every thing."""
        data, batch = OpenMojiNames("train", size=10**6, seed=77, kinds=("caption",)), 71
        number, whole, pooled = DRAWINGS * len(data.things), [], []
        with torch.no_grad():
            for start in tqdm(range(0, number, batch), desc="the teacher's features of all things", mininterval=5):
                pixels = np.stack([np.asarray(data[i]["image"]) for i in range(start, start + batch)])
                features = teacher(normalise(pixels))[1]
                whole.append(features[:4])
                pooled.append(self.pool(features))
            self.deviation.copy_(torch.cat(whole).std(0))
            x = torch.cat(pooled)
            self.pooled_mean.copy_(x.mean(0))
            self.pooled_deviation.copy_(x.std(0))
            x = (x - self.pooled_mean) / self.pooled_deviation
        things = torch.tensor([data.thing_index(i) for i in range(number)], device=DEVICE)
        optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=3e-3, weight_decay=0.1)
        for _ in tqdm(range(600), desc="the classifier on them", mininterval=5):
            some = torch.randint(number, (512,), device=DEVICE)
            noisy = x[some] + 0.3 * torch.randn_like(x[some])
            loss = F.cross_entropy(self.classifier(noisy), things[some], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def ask_dinov2(self) -> None:
        """Keep DINOv2's class token for every thing: the mean over the styles of the student."""
        folder = embedded_dinov2()
        tower, processor = Dinov2Model.from_pretrained(folder).to(DEVICE), AutoImageProcessor.from_pretrained(folder)
        of_styles = []
        for style in STYLES:
            data = OpenMojiNames("train", size=10**6, seed=78, kinds=("caption",), styles=[style])
            found = torch.zeros_like(self.dinov2)
            for start in tqdm(range(0, len(data.things), 71), desc=f"DINOv2 on {style}", mininterval=5):
                places = range(start, start + 71)  # each thing comes once in so many samples as there are things
                pixels = processor([data[i]["image"] for i in places], return_tensors="pt")["pixel_values"]
                found[[data.thing_index(i) for i in places]] = tower(pixels.to(DEVICE)).last_hidden_state[:, 0]
            of_styles.append(F.normalize(found - found.mean(0), dim=1))
        self.dinov2.copy_(F.normalize(torch.stack(of_styles).mean(0), dim=1))


@torch.inference_mode()
def scores(student: Tower, teaching: Teaching, normalise: Normalise, number: int = 142) -> dict[str, float]:
    """Measure how many test drawings of names in each style the teacher's classifier names rightly."""
    result = {}
    for style in STYLES:
        data = OpenMojiNames("test", size=number, kinds=("caption",), styles=[style])
        pixels = np.stack([np.asarray(data[i]["image"]) for i in range(number)])
        logits = torch.cat([teaching.name(student(normalise(part))[1]) for part in np.array_split(pixels, 2)])
        things = torch.tensor([data.thing_index(i) for i in range(number)], device=DEVICE)
        result[f"{style}_named"] = (logits.argmax(-1) == things).float().mean().item()
    return {name: round(value, 4) for name, value in result.items()}


def save(student: Tower, weights: dict[str, torch.Tensor], source: Path, folder: Path) -> None:
    """Write a tower as its source is written: with the Hub's names, and the same files beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(source / name, folder / name)
    names = [f"vision_model.{name.removeprefix('vision_model.')}" for name in student.tower.state_dict()]
    named = dict(zip(names, weights.values(), strict=True))
    expected = load_file(source / "model.safetensors")
    named = {name: named[name].float().cpu().contiguous() for name in expected}
    with replacing(folder / "model.safetensors") as beside:
        save_file(named, beside, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", type=Path, default=TOWER, help="the teacher, with which the student begins")
    parser.add_argument(
        "--checkpoint", type=Path, default=CHECKPOINT_ON_CLIP, help="the adapter that was trained on it"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs/wide"))
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES), help="what the student sees")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument(
        "--layouts", type=int, default=9, help="layouts in a batch; the student sees each in two styles or more"
    )
    parser.add_argument("--shapes", type=int, default=8, help="pictures of shapes in a batch")
    parser.add_argument("--distance-weight", type=float, default=0.4)
    parser.add_argument("--shapes-weight", type=float, default=0.2)
    parser.add_argument("--things-weight", type=float, default=0.25)
    parser.add_argument("--dinov2-weight", type=float, default=0.0, help="of the second teacher; without it, none")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw; a GPU needs several")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    keep_freed_memory()

    teacher = Tower(args.tower, args.checkpoint).to(DEVICE).eval().requires_grad_(False)
    student = Tower(args.tower, args.checkpoint).to(DEVICE).eval()
    normalise = Normalise(args.tower)
    width = student.tower.config.hidden_size
    heads = nn.ModuleList([Heads(width), Heads(width), nn.Linear(2 * width, DINOV2_WIDTH)]).to(DEVICE)
    trained = [p for p in student.tower.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.02, "factor": 1.0},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
        {"params": list(heads.parameters()), "weight_decay": 0.0, "factor": 15.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
    mean = {name: tensor.clone() for name, tensor in student.tower.state_dict().items()}
    teaching = Teaching(len(openmoji()[0]), 1 + GRID * GRID, width).to(DEVICE)
    learned = args.output_dir / "teaching.safetensors"
    if learned.exists():
        teaching.load_state_dict(load_file(learned))
    else:
        teaching.learn(teacher, normalise)
    if args.dinov2_weight and not teaching.dinov2.any():  # an earlier run may have learned without it
        teaching.ask_dinov2()
    with replacing(learned) as beside:
        save_file(teaching.state_dict(), beside)
    teaching.requires_grad_(False)
    checkpoint, start = args.output_dir / "resume.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=DEVICE)
        student.tower.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        mean, start = state["mean"], state["step"]
    batches = torch.utils.data.Subset(
        Batches(args.steps, args.layouts, args.shapes, args.styles, args.seed), range(start, args.steps)
    )
    loader = DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4)
    log, began = (args.output_dir / "log.jsonl").open("a"), time.time()
    if start == 0:
        print(json.dumps({"step": 0, **scores(student, teaching, normalise)}), file=log, flush=True)
    recent: list[list[float]] = []
    bar = tqdm(loader, initial=start, total=args.steps, desc="tower", mininterval=5)
    for step, batch in enumerate(bar, start):
        rate = args.learning_rate * min(1.0, (step + 1) / 60, (args.steps - step) / (0.35 * args.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        adapted = random.Random(f"{args.seed}-{step}").random() >= BARE
        layout = batch["layout"].to(DEVICE)
        with torch.no_grad():
            expected = teacher(normalise(batch["teacher"]), adapted)[1][layout]
        found = student(normalise(batch["student"]), adapted)[1]
        distances = teaching.distances(found, expected)
        own = batch["own"].to(DEVICE)
        kept, distance = distances[own].mean(), distances[~own].sum() / max(1, int((~own).sum()))
        things = batch["things"].to(DEVICE)[layout]
        naming = F.cross_entropy(teaching.name(found), things, ignore_index=-1)
        likeness = found.new_zeros(())
        if args.dinov2_weight and (named := things >= 0).any():
            like = heads[2](teaching.pool(found[named]))
            likeness = 1 - F.cosine_similarity(like, teaching.dinov2[things[named]]).mean()
        labels = [batch[name].to(DEVICE) for name in ("shapes", "colours")]
        levels = student(normalise(batch["pictures"]), adapted=False)
        shapes = sum(head(features, *labels) for head, features in zip(heads[:2], levels, strict=True)) / 2
        loss = kept + args.distance_weight * distance + args.things_weight * naming + args.shapes_weight * shapes
        loss = loss + args.dinov2_weight * likeness
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        keep = min(MEAN_OF, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, tensor in student.tower.state_dict().items():
                if tensor.is_floating_point():
                    mean[name].lerp_(tensor, 1 - keep)
        recent.append([kept.item(), distance.item(), naming.item(), likeness.item(), shapes.item()])
        done = step + 1
        if done % 20 == 0:
            losses = dict(zip(LOSSES, np.mean(recent, axis=0).round(4).tolist(), strict=True))
            bar.set_postfix(losses, refresh=False)
            print(json.dumps({"step": done, **losses, "seconds": round(time.time() - began)}), file=log, flush=True)
            recent = []
        if done % args.save_every == 0 or done == args.steps:
            now = {name: tensor.clone() for name, tensor in student.tower.state_dict().items()}
            state = {"model": now, "heads": heads.state_dict(), "optimizer": optimizer.state_dict(),
                     "mean": mean, "step": done}  # fmt: skip
            with replacing(checkpoint) as beside:
                torch.save(state, beside)
            student.tower.load_state_dict(mean)
            found_scores = scores(student, teaching, normalise)
            student.tower.load_state_dict(now)
            print(json.dumps({"step": done, **found_scores}), file=log, flush=True)
            save(student, mean, args.tower, args.output_dir / "tower")
            facts = {"steps": done, "layouts": args.layouts, "shapes": args.shapes, "seed": args.seed, **found_scores}
            (args.output_dir / "tower" / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
