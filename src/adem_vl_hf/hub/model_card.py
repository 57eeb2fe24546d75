"""The model card of a checkpoint: `model_card_template.md` filled from the folder's own files, nothing made up.

Metadata as the Hub reads it: https://huggingface.co/docs/hub/model-cards, results as a model-index. What a folder does
not record (a metric, the data) and nobody passes is left out of the card.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from ..data.sample import CAPTION_PROMPT
from ..evaluation.image_conditions import CONDITION_LABELS
from ..files import replacing
from ..loading import load_config
from ..modeling.bases import split_gguf
from ..modeling.configuration_base import FrozenBasesConfig
from ..papers import PAPERS

TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ["vision-language", "image-to-text", "adapter", "parameter-efficient"]
TASK = "image-text-to-text"
# an absolute path or one below the home folder, inside any text; the slashes of a URL follow a colon or a slash
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?(?:[/\\][\w.+@-]+){2,}[/\\]?")

CONTROLS = tuple(label for name, label in CONDITION_LABELS.items() if name != "true")

Metrics = Mapping[str, Any]  # data set -> metric -> number, or what `adem_vl_hf.evaluation` returns in its place


class Result(NamedTuple):
    """One metric on one data set."""

    dataset: str
    name: str
    kind: str  # the metric's identifier
    value: float
    n: int | None  # samples, where recorded

    def entry(self) -> EvalResult:
        """As an entry of the card's model-index."""
        return EvalResult(
            task_type=TASK,
            dataset_type=slug(self.dataset),
            dataset_name=self.dataset,
            metric_type=self.kind,
            metric_name=self.name,
            metric_value=self.value,
        )


@dataclass(frozen=True)
class Base:
    """One frozen base of a checkpoint, as its config names it."""

    role: str  # "language model" or "vision tower"
    field: str  # the config field that names it
    path_or_id: str
    revision: str | None
    fingerprint: str | None  # a short digest of the fingerprint in the config
    open_clip: bool = False  # named by open_clip's spelling: hf-hub:owner/name, local-dir:path, architecture/tag

    @property
    def place(self) -> str:
        """The folder or the repository: the name without the GGUF file that it may end in."""
        return split_gguf(self.path_or_id)[0]

    @property
    def is_local(self) -> bool:
        """Whether the name means a folder or a file of this machine."""
        name = self.place
        by_look = name.startswith((".", "/", "~", "local-dir:")) or "\\" in name or name.count("/") > 1
        return by_look or (not self.open_clip and os.path.isdir(name))

    @property
    def hub_id(self) -> str | None:
        """The repository on the Hub, if the name means one."""
        if self.is_local or (self.open_clip and not self.path_or_id.startswith("hf-hub:")):
            return None
        return self.place.removeprefix("hf-hub:")

    @property
    def name(self) -> str:
        """The name without what is nobody else's business: of a local path, the last folder alone."""
        return re.split(r"[/\\]", self.path_or_id.rstrip("/\\"))[-1] if self.is_local else self.path_or_id

    @property
    def shown(self) -> str:
        if self.hub_id is not None:
            shown = self.path_or_id.removeprefix("hf-hub:")
            return f"[{shown}](https://huggingface.co/{self.hub_id})"
        local = "a local folder" if self.place == self.path_or_id else "a local file"
        return f"`{self.name}` ({local if self.is_local else 'of open_clip'})"

    @property
    def revision_shown(self) -> str:
        return f"`{self.revision}`" if self.revision else "not pinned"


def checkpoint_bases(config: FrozenBasesConfig) -> list[Base]:
    """The bases that a config names; none for a self-contained model."""
    bases = []
    for role, prefix in (("language model", "text_model"), ("vision tower", "vision_model")):
        field = f"{prefix}_name_or_path"
        name, revision = getattr(config, field), getattr(config, f"{prefix}_revision")
        if name is not None:
            record = getattr(config, f"{prefix}_fingerprint")
            digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16] if record else None
            open_clip = prefix == "vision_model" and config.vision_backend == "open_clip"
            bases.append(Base(role, field, str(name), revision, digest, open_clip))
    return bases


def write_model_card(
    folder: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    metrics: Metrics | None = None,
    data: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write `README.md`, the checkpoint's card, into its folder (an older one is replaced); returns its path.

    Args:
        folder: holds `config.json` and `model.safetensors`.
        repo_id: the name under which the card shows how to load the model; the folder's name if not given.
        metrics: data set (and split) -> metric -> value, or -> the scores that `adem_vl_hf.evaluation` returns; None
            values are left out. By default `metrics.json`.
        data: one line of Markdown for each data set trained on. By default `data` of `training.json`.
        settings: training setting -> value. By default `training.json`, of which `data`, `license` (of the adapter's
            weights, an id of the Hub) and `prompt` (the text the examples begin with) have places of their own.

    Raises:
        ValueError: a file is missing, or a metric is not a finite number.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: a model card needs the folder of a saved checkpoint")
    config = load_config(folder)
    bases, paper = checkpoint_bases(config), PAPERS[config.model_type]
    metrics = read_record(folder, "metrics.json") if metrics is None else metrics
    settings = dict(read_record(folder, "training.json") if settings is None else settings)
    recorded_data = settings.pop("data", ())
    data = recorded_data if data is None else data
    licence, prompt = settings.pop("license", None), settings.pop("prompt", CAPTION_PROMPT)
    title = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    results = result_rows(metrics)
    hub_ids = [base.hub_id for base in bases if base.hub_id is not None]
    card_data = ModelCardData(
        base_model=hub_ids or None,
        base_model_relation="adapter" if hub_ids else None,
        library_name="transformers",
        license=licence,
        pipeline_tag=TASK,
        tags=[paper.name.lower(), *TAGS],
        model_name=title if results else None,
        # controls are for readers: in the index they would pass for what the model reaches
        eval_results=[result.entry() for result in results if not result.name.startswith(CONTROLS)] or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=title,
        paper=paper,
        repo_id=repo_id or title,
        prompt=json.dumps(prompt, ensure_ascii=False),
        adapter_numbers=f"{count_adapter_numbers(folder):,}",
        bases=bases,
        fingerprints=any(base.fingerprint for base in bases),
        config_fields=[(n, cell(value)) for n in config.adapter_fields if (value := getattr(config, n)) is not None],
        data=[cell(line) for line in ([data] if isinstance(data, str) else data)],
        settings=[(cell(name), cell(value)) for name, value in settings.items() if value is not None],
        metrics=[(cell(x.dataset), cell(x.name), round(x.value, 4), x.n or "") for x in results],
        weights_licence=licence,
    )
    path = folder / "README.md"
    with replacing(path) as beside:
        card.save(beside)
    return path


def read_record(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder; empty where there is no such file."""
    path = Path(folder) / name
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): correct it or remove it") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a JSON {type(record).__name__}: it must be an object")
    return record


def count_adapter_numbers(folder: str | os.PathLike[str]) -> int:
    """How many numbers `model.safetensors` holds, from its header alone.

    Raises:
        ValueError: a tensor in it is not the adapter's (its name does not start with `adapter.`).
    """
    path = Path(folder) / "model.safetensors"
    with safe_open(path, framework="pt") as tensors:
        foreign = [name for name in tensors.keys() if not name.startswith("adapter.")]  # noqa: SIM118 (no mapping)
        if foreign:
            raise ValueError(
                f"{path} holds {len(foreign)} tensors that are not the adapter's, {foreign[0]} the first: a model that "
                "carries its bases is pushed with its own push_to_hub"
            )
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def result_rows(metrics: Metrics) -> list[Result]:
    """The metrics one by one, in the order given; None values and empty lists are left out.

    A nested metric is named by the keys on the way to it; `n`, wherever it stands, counts the samples of what is
    beside and below it.
    """
    if isinstance(metrics.get("task"), str):  # what `adem_vl_hf.evaluation` returns for one task
        metrics = {metrics["task"]: metrics}
    rows: list[Result] = []
    for dataset, values in metrics.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"metrics[{dataset!r}] is {values!r}: nest metrics as {{data set: {{metric: value}}}}")
        _collect(rows, dataset, (), values, None)
    return rows


def _collect(rows: list[Result], dataset: str, way: tuple[str, ...], values: Mapping[str, Any], n: int | None) -> None:
    n = values.get("n", n)
    for key, value in values.items():
        if key in ("task", "n", "chance") or value is None or value == []:
            continue
        if isinstance(value, Mapping):
            _collect(rows, dataset, (*way, CONDITION_LABELS.get(key, key)), value, n)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            name = "".join(f"[{part!r}]" for part in (dataset, *way, key))
            raise ValueError(f"metrics{name} is {value!r}: give a finite number or leave it out")
        else:
            rows.append(Result(dataset, " ".join((*way, key)), slug(key), value, n))


def slug(name: str) -> str:
    """The name as an identifier: lower case, everything but letters, digits and dots as single hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def cell(value: Any) -> str:
    """A value as text for a Markdown table or list: one line, and of a machine's paths the last name alone."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    text = ", ".join(map(str, value)) if listed else str(value)
    text = ABSOLUTE_PATH.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], text)
    return " ".join(text.split()).replace("|", "\\|")
