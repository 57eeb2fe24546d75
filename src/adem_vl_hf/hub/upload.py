"""Publishes a checkpoint on the Hugging Face Hub: the adapter, its code, its processor and a model card.

``stage`` alone decides which files a repository gets. Optimizer states, trainer states and checkpoint folders beside a
checkpoint are never uploaded.

In reading order: ``push``, ``stage``, and the code that travels with a checkpoint.
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

import adem_vl_hf.modeling as bundle

from ..files import write_json
from ..json_files import LOG
from ..loading import MODELS, by_recorded_name, load_config
from ..modeling.checkpoint import CUSTOM_PIPELINES
from ..modeling.modeling_base import FrozenBasesForConditionalGeneration
from ..modeling.one_save import naming_full_disk
from ..modeling.processing_adem_vl import AdemVLProcessor
from ..modeling.processor_parts import PROCESSOR_FILES
from ..report import draw_loss
from ..sample_answers import LIST, SAMPLES
from .checkpoint_files import check_links, code_files, copy, sample_rows
from .model_card import CURVE, Metrics, checkpoint_bases, count_saved_parameters, read_record, write_model_card
from .repo_id import check_repo_id

PUBLISHED = 6  # sample answers in a card


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
    bases: Mapping[str, str] | None = None,
    samples: bool = False,
) -> CommitInfo:
    """Upload a model, or the checkpoint in a folder, to a model repository of the Hub, in one commit.

    The repository gets ``config.json``, ``generation_config.json`` if there is one, ``model.safetensors`` (the
    adapter), the ``.py`` files of the bundle, the files of the processor, and ``README.md``, the model card, which is
    always written anew. No other file of the folder is uploaded, so the folder may be the output folder of a
    ``Trainer``.

    Args:
        model (FrozenBasesForConditionalGeneration | str | os.PathLike[str]): A model, or a folder that
            ``save_pretrained`` or a ``Trainer`` wrote.
        repo_id (str): ``owner/name``. The repository is made if there is none.
        processor (AdemVLProcessor | None): The processor. It is needed with a model. With a folder, it replaces the
            processor that is saved there.
        private (bool): Whether a repository that is created is private.
        token (str | None): A token of the Hub. None means the saved one.
        revision (str | None): The branch to commit to, which is made if there is none. None means ``main``.
        commit_message (str): The message of the commit.
        metrics (Metrics | None): The metrics in the card, see ``write_model_card``. None means those in the folder's
            ``metrics.json``.
        data (str | Sequence[str] | None): The training data in the card. None means that in ``training.json``.
        settings (Mapping[str, Any] | None): The training settings in the card. None means those in ``training.json``.
        bases (Mapping[str, str] | None): Where others find the bases, by field of the configuration:
            ``{"text_model_name_or_path": "meta-llama/Llama-3.2-1B"}``. The folder or model itself stays as it is.
        samples (bool): Whether six of the sample answers of ``report.html`` are published in the card, with their
            images, which are yours to publish or not.

    Returns:
        The commit, as huggingface_hub describes it.

    Raises:
        OSError: The disk of the temporary folder is full.
        ValueError: The name can be none, the checkpoint or its processor is missing, it has more than an adapter, or a
            link or a name in it leads to files outside it.

    Warns:
        UserWarning: A base is named by a local folder, which nobody else can load.
    """
    check_repo_id(repo_id)
    temporary = tempfile.TemporaryDirectory(prefix="adem-vl-push-")
    with temporary as folder, naming_full_disk(Path(folder), written=Path(folder)):
        staged = Path(folder)
        stage(model, processor, staged)
        if bases:
            config = json.loads((staged / "config.json").read_text(encoding="utf-8"))
            for field in bases:  # a commit and a folder of the old place mean nothing in the new one
                config |= {field.replace("name_or_path", part): None for part in ("revision", "subfolder")}
            write_json(staged / "config.json", config | by_recorded_name(bases))
        _warn_of_local_bases(staged)
        if isinstance(model, str | os.PathLike):
            metrics = read_record(model, "metrics.json") if metrics is None else metrics
            settings = read_record(model, "training.json") if settings is None else settings
            draw_loss(Path(model) / LOG, staged / CURVE)
        if samples:
            _stage_samples(model, staged)
        # The card is written before anything is made on the Hub, so that an error in it leaves no empty repository.
        card: dict[str, Any] = {"metrics": metrics, "data": data, "settings": settings, "ask_hub": True, "token": token}
        write_model_card(staged, repo_id=repo_id, **card)
        api = HfApi(token=token)
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if full_id != repo_id:  # the Hub adds the name of the user to a name without an owner
            write_model_card(staged, repo_id=full_id, **card)
        if revision is not None:
            api.create_branch(full_id, branch=revision, exist_ok=True)
        paths = sorted(path for path in staged.rglob("*") if path.is_file())
        files = [CommitOperationAdd(path.relative_to(staged).as_posix(), path) for path in paths]
        # upload_folder may make several commits. With one, anybody who loads meanwhile gets all old or all new files.
        return api.create_commit(full_id, files, commit_message=commit_message, revision=revision)


def stage(
    model: FrozenBasesForConditionalGeneration | str | os.PathLike[str], processor: AdemVLProcessor | None, target: Path
) -> None:
    """Write exactly the files that a repository gets, except for the model card, into a folder.

    Args:
        model (FrozenBasesForConditionalGeneration | str | os.PathLike[str]): A model, or the folder of a checkpoint.
        processor (AdemVLProcessor | None): The processor, as for ``push``.
        target (Path): The folder to write.

    Raises:
        ValueError: The checkpoint or its processor is missing, it has more than an adapter, or a link or a name in it
            leads to files outside it.
    """
    # This tests for a path and not for our class, because a model that was loaded as remote code has another class.
    if isinstance(model, str | os.PathLike):
        source = Path(model)
        for name in ("config.json", "model.safetensors"):
            if not (source / name).is_file():
                raise ValueError(f"{source} has no {name}: {_remedy(source)}")
        if processor is None and not any((source / name).is_file() for name in PROCESSOR_FILES):
            raise ValueError(f"{source} has no processor: save one there by processor.save_pretrained")
        check_links(source)
        # The processor is loaded and saved again, because only it knows which files of the folder belong to it.
        config = load_config(source)
        (processor or MODELS[config.model_type][1].from_pretrained(source)).save_pretrained(target)
        for path in (source / "config.json", source / "generation_config.json", source / "model.safetensors"):
            if path.is_file():
                copy(source, path, target)
        _copy_code(source, target)
    else:
        if processor is None:
            raise ValueError("a model alone cannot be used from the Hub: give its processor too (processor=...)")
        processor.save_pretrained(target)
        model.save_pretrained(target)
    count_saved_parameters(target)  # raises an error if a tensor does not belong to the adapter


def _stage_samples(model: Any, target: Path) -> None:
    """Copy some sample answers, from all over the twelve of the report, with their images."""
    source = Path(model) / SAMPLES if isinstance(model, str | os.PathLike) else None
    rows = [] if source is None else sample_rows(source.parent)
    if source is None or not rows:
        raise ValueError(f"{source or 'a model alone'} has no sample answers: push the output folder of adem-vl train")
    rows = rows[:: max(1, len(rows) // PUBLISHED)][:PUBLISHED]
    (target / SAMPLES).mkdir()
    for row in rows:
        copy(source.parent, source / Path(row["image"]).name, target / SAMPLES)
    write_json(target / SAMPLES / LIST, rows)


def _warn_of_local_bases(folder: Path) -> None:
    """Warn once for each base that a checkpoint's config names by a local folder."""
    from ..cli.config_flags import NO_FLAG  # which needs the whole command line

    for base in checkpoint_bases(load_config(folder)):
        if base.is_local:
            warnings.warn(
                f"config.{base.field} is a local folder ({base.path_or_id}): nobody else can load this {base.role} by "
                f"that name, and config.json publishes it. Give its Hub id, by {NO_FLAG[base.field]} on the "
                f"command line or bases={{'{base.field}': ...}} in Python.",
                stacklevel=3,
            )


def _copy_code(source: Path, target: Path) -> None:
    """Put the code of the checkpoint in ``source`` beside its configuration in ``target``.

    The code is the checkpoint's own copy if that is complete, and the installed bundle otherwise, but never a mixture.
    """
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    files = code_files(source, config.get("auto_map") or {})
    for path in files:
        copy(source, path, target)
    if not files:
        model_class = MODELS[config["model_type"]][0]
        for path in code_files(Path(str(bundle.__file__)).parent, model_class.auto_map):
            shutil.copyfile(path, target / path.name)
        config |= {"auto_map": model_class.auto_map, "custom_pipelines": CUSTOM_PIPELINES}
        write_json(target / "config.json", config)


def _remedy(source: Path) -> str:
    """Say what to push in place of a folder that is not a checkpoint."""
    steps = sorted(source.glob("checkpoint-*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    return f"push one of its checkpoints, {steps[-1].parent}" if steps else "give a folder that save_pretrained wrote"
