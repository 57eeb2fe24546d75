"""Shows the package in two acts: what the shipped checkpoint sees, and a training on easy-VQA from the first step.

python -m adem_vl_hf.demo --output-dir runs/demo
python -m adem_vl_hf.demo --output-dir runs/demo-evlm --model evlm

The first act describes OpenMoji scenes that training never had, and shows where each word comes from. The second trains
a new adapter on easy-VQA, a benchmark that others made, with the stock Trainer; tests it on the benchmark's own test
questions, also with another image and without one; and loads it in a new process, through AutoModel and a pipeline.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from .allocator import keep_freed_memory
from .counting import count_trained
from .data import OpenMojiScenes
from .data.easy_vqa import WHAT, YES_OR_NO, EasyVQA, decision, text_alone
from .data.mixing import mix
from .data.openmoji.sprites import openmoji
from .data.sample import images_of
from .data.turns import EachTurn
from .embedded.dinov2 import embedded_dinov2
from .embedded.smollm2 import embedded_language_model
from .evaluation.metrics import is_right
from .evaluation.predict import evaluate_with_controls, generate_answers
from .feature_cache import FeatureCache
from .files import write_json
from .hub.model_card import write_model_card
from .inspection.look import look
from .inspection.page import GalleryItem, write_page
from .loading import build_model, load_checkpoint
from .openmoji_training import RECIPES as ON_OPENMOJI
from .papers import PAPERS
from .quiet import quiet_libraries
from .report import readable
from .training import build_trainer, fastest_setting, train, training_arguments

SHIPPED = ON_OPENMOJI["shipped"]
FEATURES = "features"  # of the vision tower, in the output folder while the demo runs


class Recipe(NamedTuple):
    """Holds the settings for one kind of model on easy-VQA.

    Args:
        vision_tower (str): The frozen vision tower.
        settings (dict[str, Any]): Fields of its configuration.
        learning_rate (float): The peak learning rate.
        shown (dict[str, str]): The fields of its configuration that the page shows, by the names that it shows.
    """

    vision_tower: str
    settings: dict[str, Any]
    learning_rate: float
    shown: dict[str, str]


# ADEM-VL: the settings of the adapter that ships, without LoRA. EVLM: the settings are the paper's. Nothing trains in
# the towers, so that their features are computed once for each image.
RECIPES = {
    "adem_vl": Recipe(
        SHIPPED.vision_tower,
        {**SHIPPED.settings, "lora": None},
        learning_rate=1.5e-3,  # with 2e-3 some seeds diverge after the warm-up
        shown={
            "visual tokens": "visual_token_counts",
            "drop ratio": "drop_ratio",
            "layer of the tower": "vision_feature_layer",
        },
    ),
    "evlm": Recipe(
        "embedded",
        {},
        learning_rate=2e-3,
        shown={"levels of the tower": "vision_feature_layer", "media tokens": "media_tokens"},
    ),
}
# Small batches learn more from as many questions. An answer of yes or no begins with the comparison ("triangle is not
# circle, no"); with yes or no alone it is learned after 14,000 questions and more. Three questions of four ask for yes
# or no, so that fewer of them are kept.
BATCH_SIZE, STEPS, TEST_IMAGES = 12, 210, 16
IMAGES, KEPT = 700, {WHAT: 0.65, YES_OR_NO: 0.29}  # of 4,000; of the questions about these images
CREDITS = {
    "shipped": ["Pictures: OpenMoji (openmoji.org), CC BY-SA 4.0", "Names: Unicode CLDR"],
    "easy-vqa": ["Images and questions: easy-VQA by Victor Zhou, MIT licence"],
}
ASKED = 4  # questions that a new process answers
SCENES = {"caption": 6, "count": 1, "choice": 1}  # the scenes of the first act by kind
LANGUAGE_MODEL = "SmolLM2-135M-Instruct (frozen)"
TOWERS = {"embedded": "small CLIP, 96 px (frozen)", "embedded-dinov2": "DINOv2-small, 112 px (frozen)"}
SHIPPED_PARTS = {
    "language model": "SmolLM2-135M-Instruct (frozen, with LoRA beside it)",
    "tower": TOWERS[SHIPPED.vision_tower],
}

# what somebody without this package would run; it runs in a process of its own
RELOAD = """
import json, sys
from transformers import AutoModel, pipeline
folder, asked = sys.argv[1], json.loads(sys.argv[2])
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
answerer = pipeline("image-to-text", folder, trust_remote_code=True)
print(json.dumps([answerer(file, prompt=question)[0]["generated_text"] for file, question in asked]))
"""


class Stages:
    """Measures the duration of each stage. ``with stages(name):`` prints it and keeps it in ``seconds``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage.

        Args:
            name (str): The name of the stage.

        Yields:
            The stage is the body of the ``with`` statement.
        """
        print(f"\n=== {name}", flush=True)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)
        print(f"=== {name}: {self.seconds[name]:.1f} s", flush=True)


def gallery(model: Any, processor: Any, samples: Any, answers: list[str]) -> list[GalleryItem]:
    """Make a gallery of samples, with the answers of a model and the places that each word comes from.

    Args:
        model (Any): The trained model.
        processor (Any): Its processor.
        samples (Any): The samples, each with one image.
        answers (list[str]): The answer of the model to each of the first samples.

    Returns:
        The examples.
    """
    items = []
    for number, answer in enumerate(answers):
        sample = samples[number]
        looked_at = look(model, processor, sample["image"], sample["prompt"], answer) if answer else None
        right = is_right(decision(answer) if sample["kind"] == YES_OR_NO else answer, sample["references"])
        items.append(GalleryItem(sample["image"], sample["prompt"], answer, sample["references"], right, looked_at))
    return items


def shipped(output: Path) -> Path:
    """Describe held-out scenes with the checkpoint that ships, print the answers, and write a page about them.

    Args:
        output (Path): The output folder.

    Returns:
        The path of the page.
    """
    model, processor = load_checkpoint(**fastest_setting())
    samples: list[Any] = []
    for kind, number in SCENES.items():
        scenes = OpenMojiScenes("test", size=number, kinds=(kind,))
        samples += [scenes[i] for i in range(number)]
    answers = [
        answer
        for start in range(0, len(samples), 8)
        for answer in generate_answers(
            model, processor, [images_of(sample) for sample in samples[start : start + 8]],
            [sample["prompt"] for sample in samples[start : start + 8]], max_new_tokens=20,
        )
    ]  # fmt: skip
    for sample, answer in zip(samples, answers, strict=True):
        print(f"{sample['prompt']} {answer!r}   truth: {sample['references'][0]!r}")
    return write_page(
        output / "shipped.html",
        "What the shipped checkpoint sees",
        trainable_parameters=count_trained(model.config),
        model={"method": PAPERS["adem_vl"].name, **SHIPPED_PARTS},
        settings={},
        seconds={},
        metrics={},
        gallery=gallery(model, processor, samples, answers),
        links={"The training on easy-VQA": "index.html"},
        credits=CREDITS["shipped"],
    )


def fine_tune(output: Path, kind: str, steps: int, resume: bool = False) -> tuple[Any, Any, dict[str, Any]]:
    """Train a new adapter on the questions of easy-VQA and save it.

    Args:
        output (Path): The output folder.
        kind (str): The kind of model, a key of ``RECIPES``.
        steps (int): The number of training steps.
        resume (bool): Whether to continue from the last checkpoint in the output folder, if there is one.

    Returns:
        The model, the processor and the content of ``training.json``.
    """
    set_seed(0)
    recipe = RECIPES[kind]
    model, processor = build_model("embedded", recipe.vision_tower, kind, **fastest_setting(), **recipe.settings)
    FeatureCache(output / FEATURES).attach(model)
    asked = [EachTurn(EasyVQA("train", IMAGES, kinds=(kind_asked,), comparison_first=True)) for kind_asked in KEPT]
    questions = mix(asked, list(KEPT.values()))
    arguments = training_arguments(
        output,
        samples=len(questions),
        batch_size=BATCH_SIZE,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        max_grad_norm=1.0,
        save_steps=100,
    )
    facts = train(build_trainer(model, processor, questions, arguments), processor, resume)
    facts["data"] = [f"easy-VQA: {IMAGES:,} images with one coloured shape, and questions about them (MIT licence)"]
    write_json(output / "training.json", facts)
    return model, processor, facts


def answer_elsewhere(folder: Path, samples: Any) -> list[tuple[str, str, list[str]]]:
    """Answer the first questions with the saved checkpoint in a new process, which does not have this package.

    Args:
        folder (Path): The folder of the checkpoint. The images are saved in ``pictures`` below it.
        samples (Any): The test questions.

    Returns:
        The question, the answer and the true answers of each.

    Raises:
        RuntimeError: The checkpoint does not load in the new process.
    """
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    asked = []
    for i in range(ASKED):
        samples[i]["image"].save(pictures / f"{i}.png")
        asked.append((str(pictures / f"{i}.png"), samples[i]["prompt"]))
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(folder.resolve()), json.dumps(asked)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the saved checkpoint did not load in a new process:\n{done.stderr}")
    answers = json.loads(done.stdout.splitlines()[-1])
    return [(asked[i][1], answers[i].strip(), samples[i]["references"]) for i in range(ASKED)]


def main(argv: list[str] | None = None) -> None:
    """Run both acts. Each ends with a page.

    Args:
        argv (list[str] | None): The command line without the name of the program. None means that of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--model", choices=RECIPES, default="adem_vl", help="of the second act (default: adem_vl)")
    parser.add_argument("--steps", type=int, default=STEPS,
                        help=f"training steps of {BATCH_SIZE} questions (default: {STEPS})")  # fmt: skip
    parser.add_argument("--test-images", type=int, default=TEST_IMAGES,
                        help=f"test images of ten questions each (default: {TEST_IMAGES} of 1000)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    output, stage, recipe, method = args.output_dir, Stages(), RECIPES[args.model], PAPERS[args.model].name
    keep_freed_memory()
    quiet_libraries()
    with stage("downloads and drawings (once)"):
        embedded_language_model()
        embedded_dinov2()
        openmoji()
        chance = text_alone()
    with stage("act one: the shipped checkpoint describes scenes"):
        print(f"page: {shipped(output)}")
    with stage("act two: train on easy-VQA"):
        model, processor, facts = fine_tune(output, args.model, args.steps, args.resume)
    with stage("test (own image, another image, no image)"):
        questions = EachTurn(EasyVQA("test", args.test_images))
        for stale in (output / "predictions").glob("*.jsonl"):
            stale.unlink()  # it belongs to an earlier run in this folder
        metrics = evaluate_with_controls(model, processor, {"easy-vqa": questions}, output / "predictions")
        write_json(output / "metrics.json", metrics)
        write_model_card(output)
    for kind, found in metrics["easy-vqa"]["true"]["questions"].items():
        other = metrics["easy-vqa"]["shuffled"]["questions"][kind]["accuracy"]
        print(f"{kind}: {found['accuracy']:.1%} of {found['n']} right, {other:.1%} with another image; "
              f"the question alone gives {chance[kind]:.1%}")  # fmt: skip
    with stage("load in a new process and answer"):
        for question, answer, references in answer_elsewhere(output, questions):
            print(f"{question} {answer!r}   truth: {references[0]!r}")
    with stage("page"):
        lines = (output / "predictions/easy-vqa-true.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [json.loads(line)["prediction"] for line in lines[:12]]
        page = write_page(
            output / "index.html",
            f"{method} on easy-VQA",
            kind=args.model,
            trainable_parameters=facts["trained_numbers"],
            model={"method": method, "language model": LANGUAGE_MODEL, "tower": TOWERS[recipe.vision_tower],
                   **{name: getattr(model.config, field) for name, field in recipe.shown.items()}},
            settings={**readable(facts), "precision": str(model.language_model.dtype).removeprefix("torch.")},
            seconds=stage.seconds,
            metrics=metrics,
            gallery=gallery(model, processor, questions, answers),
            links={"What the shipped checkpoint sees": "shipped.html"},
            credits=CREDITS["easy-vqa"],
        )  # fmt: skip
    shutil.rmtree(output / FEATURES)
    print("\nseconds by stage: " + json.dumps(stage.seconds, indent=1))
    print(f"adapter: {output / 'model.safetensors'}   page: {page}")


if __name__ == "__main__":
    main()
