"""Publish a checkpoint on the Hugging Face Hub: the adapter, its code, its processor and a filled-in model card.

What a repository holds is written once, in `stage`; optimizer states, trainer states and checkpoint folders that lie
beside a checkpoint never travel.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from transformers.dynamic_module_utils import get_relative_import_files

import adem_vl_hf.modeling as bundle

from ..files import write_json
from ..loading import MODELS, load_config
from ..modeling.checkpoint import CUSTOM_PIPELINES
from ..modeling.modeling_base import FrozenBasesForConditionalGeneration
from ..modeling.processing_adem_vl import AdemVLProcessor
from .model_card import Metrics, checkpoint_bases, count_adapter_numbers, read_record, write_model_card

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")  # Transformers 5 writes the first, 4.57 both


def push(
    model: FrozenBasesForConditionalGeneration | str | os.PathLike[str],
    repo_id: str,
    *,
    processor: AdemVLProcessor | None = None,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload adapter",
    metrics: Metrics | None = None,
    data: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> CommitInfo:
    """Upload a model, or the checkpoint in a folder, to a model repository of the Hub, in one commit.

    The repository gets `config.json`, `generation_config.json` if there is one, `model.safetensors` (the adapter), the
    bundle's `.py` files, the processor's files and `README.md`, the model card (always written anew); no other file of
    the folder, which may be a Trainer's output folder.

    Args:
        model: a model, or a folder that `save_pretrained` or a Trainer wrote.
        repo_id: `owner/name`; the repository is made if there is none, `private` then.
        processor: needed with a model; with a folder, in place of the processor that is saved in it.
        revision: the branch to commit to, made if there is none; `main` by default.
        metrics, data, settings: for the card, see `write_model_card`; by default what a folder records in
            `metrics.json` and `training.json`.

    Returns:
        The commit, as huggingface_hub describes it.

    Raises:
        ValueError: the checkpoint or its processor is missing, or it holds more than an adapter.

    Warns:
        UserWarning: a base is named by a local folder, which nobody else can load.
    """
    with tempfile.TemporaryDirectory(prefix="adem-vl-push-") as temporary:
        staged = Path(temporary)
        stage(model, processor, staged)
        warn_of_local_bases(staged)
        if isinstance(model, str | os.PathLike):
            metrics = read_record(model, "metrics.json") if metrics is None else metrics
            settings = read_record(model, "training.json") if settings is None else settings
        # before anything is made on the Hub: a record that does not fit the card leaves no empty repository behind
        write_model_card(staged, repo_id=repo_id, metrics=metrics, data=data, settings=settings)
        api = HfApi(token=token)
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if full_id != repo_id:  # the Hub has put the user's name before a bare one
            write_model_card(staged, repo_id=full_id, metrics=metrics, data=data, settings=settings)
        if revision is not None:
            api.create_branch(full_id, branch=revision, exist_ok=True)
        paths = sorted(path for path in staged.rglob("*") if path.is_file())
        files = [CommitOperationAdd(path.relative_to(staged).as_posix(), path) for path in paths]
        # one commit, not upload_folder's possible several: whoever loads meanwhile gets the old files or the new ones
        return api.create_commit(full_id, files, commit_message=commit_message, revision=revision)


def stage(
    model: FrozenBasesForConditionalGeneration | str | os.PathLike[str], processor: AdemVLProcessor | None, target: Path
) -> None:
    """Put into the folder `target` exactly the files that a repository holds, but for the card.

    Raises:
        ValueError: as `push`.
    """
    # by what is no model: one that was loaded through remote code is of another class than the installed one
    if isinstance(model, str | os.PathLike):
        source = Path(model)
        for name in ("config.json", "model.safetensors"):
            if not (source / name).is_file():
                raise ValueError(f"{source} has no {name}: {_remedy(source)}")
        if processor is None and not any((source / name).is_file() for name in PROCESSOR_FILES):
            raise ValueError(f"{source} has no processor: save one there, or give processor=...")
        # saved again, because only the processor knows which of a folder's files are its own
        config = load_config(source)
        (processor or MODELS[config.model_type][1].from_pretrained(source)).save_pretrained(target)
        for path in (source / "config.json", source / "generation_config.json", source / "model.safetensors"):
            if path.is_file():
                shutil.copyfile(path, target / path.name)
        copy_code(source, target)
    else:
        if processor is None:
            raise ValueError("a model alone cannot be used from the Hub: give its processor too (processor=...)")
        processor.save_pretrained(target)
        model.save_pretrained(target)
    count_adapter_numbers(target)  # raises where a tensor is not the adapter's


def warn_of_local_bases(folder: str | os.PathLike[str]) -> None:
    """Warn once for each base that a checkpoint's config names by a local folder."""
    for base in checkpoint_bases(load_config(folder)):
        if base.is_local:
            warnings.warn(
                f"config.{base.field} is a local folder ({base.path_or_id}): nobody else can load this {base.role} by "
                f"that name, and config.json publishes it. Set config.{base.field} to the Hub id of the same model and "
                "save again before you push.",
                stacklevel=3,
            )


def copy_code(source: Path, target: Path) -> None:
    """Put the code of the checkpoint in ``source`` beside its configuration in ``target``.

    It is the checkpoint's own copy if that is complete, and the installed bundle otherwise; never a mixture of both.
    """
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    files = _with_imports(source, config.get("auto_map") or {})
    if not files:
        model_class = MODELS[config["model_type"]][0]
        files = _with_imports(Path(str(bundle.__file__)).parent, model_class.auto_map)
        config |= {"auto_map": model_class.auto_map, "custom_pipelines": CUSTOM_PIPELINES}
        write_json(target / "config.json", config)
    for path in files:
        shutil.copyfile(path, target / path.name)


def _with_imports(folder: Path, auto_map: Mapping[str, str]) -> list[Path]:
    """The files that ``auto_map`` names and those that they import; none if one of them is missing."""
    entries = {folder / f"{place.partition('.')[0]}.py" for place in auto_map.values()}
    if not all(path.is_file() for path in entries):
        return []
    found = {Path(file) for entry in entries for file in get_relative_import_files(entry)} | entries
    return sorted(found) if all(path.is_file() for path in found) else []


def _remedy(source: Path) -> str:
    """What to push in place of a folder that is no checkpoint."""
    steps = sorted(source.glob("checkpoint-*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    return f"push one of its checkpoints, {steps[-1].parent}" if steps else "give a folder that save_pretrained wrote"
