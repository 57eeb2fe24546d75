"""Train the small CLIP whose vision tower ships with this package, with open_clip, on the training splits only.

    python examples/train_tower.py --output-dir runs/tower --steps 2000

The vision tower is a ViT of width 192 and depth 6 (96 px, 12 px patches: an 8 x 8 grid). The text tower is small and
causal. Half of every batch are *names*, with no thing twice, so that no negative is false. The other half are *scenes*
in groups of four: a scene, a second one with the same things in other numbers, positions and colours, and two more with
one thing replaced and everything else the same. Only a tower that sees both the things and their arrangement can tell
the captions of a group apart.

After an interruption the same command continues from the last checkpoint. The result is a Hugging Face
``CLIPVisionModel`` folder (config.json, model.safetensors, preprocessor_config.json) with its retrieval accuracy in
training.json.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPVisionModel

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data.openmoji.names import OpenMojiNames
from adem_vl_hf.data.openmoji.scenes import (
    NUMBERS,
    PAIR_NUMBERS,
    RELATIONS,
    Group,
    OpenMojiScenes,
    Scene,
    captions,
    draw_scene,
    is_held_out,
    random_scene,
)
from adem_vl_hf.data.openmoji.things import THINGS
from adem_vl_hf.files import replacing
from adem_vl_hf.modeling.open_clip_tower import open_clip_vision_config

VISION = {"layers": 6, "width": 192, "head_width": 64, "patch_size": 12, "image_size": 96}
TEXT = {"context_length": 24, "width": 128, "heads": 2, "layers": 3}
EMBED_DIM = 192
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def rearranged(scene: Scene, rng: random.Random) -> Scene:
    """Make another training scene of the same things, with new numbers, positions and colour."""
    while True:
        colour = random_scene(rng, "train").colour
        if scene.relation is None:
            other = Scene((Group(scene.groups[0].thing, rng.choice(NUMBERS)),), None, colour)
        else:
            numbers = rng.choice(PAIR_NUMBERS)
            groups = tuple(Group(g.thing, n) for g, n in zip(scene.groups, numbers, strict=True))
            other = Scene(groups, rng.choice(list(RELATIONS)), colour)
        if not is_held_out(other.groups):
            return other


def swapped(scene: Scene, rng: random.Random) -> Scene:
    """Make another training scene with the same numbers, positions and colour, and with one of its things replaced."""
    present = {group.thing for group in scene.groups}
    while True:
        groups, thing = list(scene.groups), rng.randrange(len(THINGS))
        place = rng.randrange(len(groups))
        groups[place] = Group(thing, groups[place].number)
        if thing not in present and not is_held_out(groups):
            return Scene(tuple(groups), scene.relation, scene.colour)


class ContrastiveBatches(Dataset):
    """Draws whole batches on demand: ``(pixels [B, H, W, 3] uint8, captions)``. They depend on seed and index alone."""

    def __init__(self, batches: int, names: int, scenes: int, seed: int) -> None:
        self.batches, self.n_names, self.n_scenes, self.seed = batches, names, scenes, seed
        self.names = OpenMojiNames("train", size=batches * names, seed=seed, kinds=("caption",))
        self.scenes = OpenMojiScenes("train", size=1, seed=seed)

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[str]]:
        rng = random.Random(f"tower-{self.seed}-{index}")
        pixels, texts, seen = [], [], set()
        for i in range(self.n_names):
            sample = self.names[index * self.n_names + i]
            if sample["answer"] not in seen:  # one turn over all things may end in a batch, and the next begin
                seen.add(sample["answer"])
                pixels.append(np.asarray(sample["image"]))
                texts.append(sample["answer"].strip())
        while len(pixels) < self.n_names + self.n_scenes:
            scene = random_scene(rng, "train")
            for member in [scene, rearranged(scene, rng), swapped(scene, rng), swapped(scene, rng)]:
                text = rng.choice(captions(member))
                if not seen & set(captions(member)):
                    seen |= set(captions(member))
                    pixels.append(np.asarray(draw_scene(member, self.scenes.sprites, rng)))
                    texts.append(text)
        return np.stack(pixels[: self.n_names + self.n_scenes]), texts[: self.n_names + self.n_scenes]


def normalise(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn pixels [B, H, W, 3], uint8, into [B, 3, H, W] with CLIP's mean and deviation."""
    x = torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def build() -> open_clip.CLIP:
    """Build an untrained model."""
    return open_clip.CLIP(
        EMBED_DIM,
        open_clip.CLIPVisionCfg(**VISION),
        open_clip.CLIPTextCfg(**TEXT),
        output_dict=True,
    )


@torch.no_grad()
def retrieval(model: open_clip.CLIP, tokenizer, seed: int = 0) -> dict[str, float]:
    """Measure top-1 accuracy of image-to-text retrieval: names among all names, scenes among the 500 test captions."""
    model.eval()
    result = {}
    names = OpenMojiNames("test", kinds=("caption",), seed=seed)
    scenes = OpenMojiScenes("test", size=500, kinds=("caption",), seed=seed)
    for label, data in (("names", names), ("scenes", scenes)):
        samples = [data[i] for i in range(len(data))]
        texts = sorted({s["references"][0] for s in samples})
        parts = [tokenizer(texts[i : i + 256]) for i in range(0, len(texts), 256)]
        text = torch.cat([model.encode_text(part, normalize=True) for part in parts])
        right = 0
        for start in range(0, len(samples), 256):
            part = samples[start : start + 256]
            image = model.encode_image(normalise(np.stack([np.asarray(s["image"]) for s in part])), normalize=True)
            best = (image @ text.T).argmax(1).tolist()
            right += sum(texts[b] in s["references"] for b, s in zip(best, part, strict=True))
        result[f"{label}_top1"] = right / len(samples)
    model.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/tower"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--names", type=int, default=112, help="number of images of single things in a batch")
    parser.add_argument("--scenes", type=int, default=144, help="number of scenes in a batch, in groups of four")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    keep_freed_memory()
    # Without this, the unfused attention below computes in float32 for any inputs.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)

    # The optimizer updates float32 weights. A bfloat16 copy computes, which is several times faster on a CPU with AMX.
    master = build()
    worker = build().bfloat16()
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    decay = [p for p in master.parameters() if p.ndim > 1]
    plain = [p for p in master.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.learning_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    warmup = min(150, args.steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / args.steps))),
    )
    loss_function = open_clip.ClipLoss()
    checkpoint, start = args.output_dir / "resume.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        master.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start = state["step"]
    data = ContrastiveBatches(args.steps, args.names, args.scenes, args.seed)
    loader = DataLoader(
        torch.utils.data.Subset(data, range(start, args.steps)), batch_size=None, num_workers=1, prefetch_factor=4
    )
    log, began = (args.output_dir / "log.jsonl").open("a"), time.time()
    bar = tqdm(loader, initial=start, total=args.steps, desc="CLIP", mininterval=5)
    pairs = list(zip(worker.parameters(), master.parameters(), strict=True))
    for step, (pixels, texts) in enumerate(bar, start):
        with torch.no_grad():
            for copy, weight in pairs:
                copy.copy_(weight)
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU, the backward pass of the fused kernel is slower
            out = worker(normalise(pixels).bfloat16(), tokenizer(texts))
            loss = loss_function(
                out["image_features"].float(), out["text_features"].float(), out["logit_scale"].float()
            )
            loss.backward()
        for copy, weight in pairs:
            weight.grad, copy.grad = copy.grad.float(), None
        torch.nn.utils.clip_grad_norm_(master.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            master.logit_scale.clamp_(0, math.log(100))
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        done = step + 1
        if done % 20 == 0:
            print(json.dumps({"step": done, "loss": loss.item(), "seconds": time.time() - began}), file=log, flush=True)
        if done % args.save_every == 0 or done == args.steps:
            scores = retrieval(master, tokenizer)
            print(json.dumps({"step": done, **scores}), file=log, flush=True)
            bar.write(json.dumps({"step": done, **scores}))
            state = {"model": master.state_dict(), "optimizer": optimizer.state_dict(),
                     "schedule": schedule.state_dict(), "step": done}  # fmt: skip
            with replacing(checkpoint) as beside:
                torch.save(state, beside)
            save(master, args.output_dir / "clip", scores, done, args)


@torch.no_grad()
def clip_vision_from_open_clip(visual: torch.nn.Module) -> CLIPVisionModel:
    """Turn a vision tower of open_clip into a ``CLIPVisionModel`` with the same weights and features."""
    model = CLIPVisionModel(open_clip_vision_config(visual))
    inner = getattr(model, "vision_model", model)  # one level deeper before Transformers 5.16
    embeddings = inner.embeddings
    embeddings.class_embedding.copy_(visual.class_embedding)
    embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
    embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    inner.pre_layrnorm.load_state_dict(visual.ln_pre.state_dict())
    inner.post_layernorm.load_state_dict(visual.ln_post.state_dict())
    for layer, block in zip(inner.encoder.layers, visual.transformer.resblocks, strict=True):
        layer.layer_norm1.load_state_dict(block.ln_1.state_dict())
        layer.layer_norm2.load_state_dict(block.ln_2.state_dict())
        layer.mlp.fc1.load_state_dict(block.mlp.c_fc.state_dict())
        layer.mlp.fc2.load_state_dict(block.mlp.c_proj.state_dict())
        layer.self_attn.out_proj.load_state_dict(block.attn.out_proj.state_dict())
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            getattr(layer.self_attn, name).weight.copy_(weight)
            getattr(layer.self_attn, name).bias.copy_(bias)
    return model.eval()


def save(model: open_clip.CLIP, folder: Path, scores: dict[str, float], steps: int, args: argparse.Namespace) -> None:
    """Write the vision tower as a Hugging Face folder, with its training settings and accuracy in training.json."""
    clip_vision_from_open_clip(model.visual).save_pretrained(folder)
    # Every version of Transformers reads the Hub's tensor names. Versions from 5.16 on would write shorter ones.
    weights = load_file(folder / "model.safetensors")
    weights = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    size = {"height": VISION["image_size"], "width": VISION["image_size"]}
    processor = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD))
    processor.save_pretrained(folder)
    facts = {"steps": steps, "batch_size": args.names + args.scenes, "seed": args.seed, **scores}
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
