"""Puts this package's model card where Transformers' own ways to push write their stock one.

``model.push_to_hub`` hands over the folder that it is about to upload. A ``Trainer`` writes its card by
``create_model_card`` at the end, and none when it pushes a checkpoint before that.
"""

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub import ModelCard
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..auto_classes import model_type_of
from ..training_fields import recorded_fields
from ..whole_checkpoints import checkpoints

CARD = "README.md"
STOCK = "Model Card for Model ID"  # the title of the library's card without content
ADAPTER = ("config.json", "generation_config.json", "model.safetensors")


def replace_stock_card(folder: str, repo_id: str) -> None:
    """Write our card into a folder that ``push_to_hub`` is about to upload. A card that somebody wrote stays.

    Args:
        folder (str): The folder.
        repo_id (str): The name of the repository.
    """
    card = Path(folder) / CARD
    if not (card.is_file() and STOCK not in card.read_text(encoding="utf-8")):
        _write(Path(folder), repo_id, {})


def _write(folder: Path, repo_id: str | None, settings: dict[str, Any]) -> None:
    """Write our card, unless the model carries its bases, of which the card knows nothing."""
    from .model_card import read_record, write_model_card  # this module is imported together with Transformers' Trainer

    try:
        settings = read_record(folder, "training.json") or settings
        write_model_card(folder, repo_id=repo_id, settings=settings, ask_hub=True)
    except ValueError as error:
        if "carries its bases" not in str(error):
            raise


def _settings(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Say what the card says of a training that left no ``training.json``."""
    return {**recorded_fields(args, state), "seed": args.seed}


class CardOfCheckpoint(TrainerCallback):
    """Writes our card when a checkpoint is pushed before the training has ended. Every ``Trainer`` has it."""

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the card of the newest checkpoint into the folder that is uploaded.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training, which stays as it is.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The ``model`` and the rest of what ``Trainer`` passes.
        """
        output = Path(args.output_dir)
        newest = next(iter(checkpoints(output).values()), None)
        if not model_type_of(kwargs.get("model")) or newest is None or not (newest / "model.safetensors").is_file():
            return
        with tempfile.TemporaryDirectory(prefix="adem-vl-card-") as temporary:
            for name in ADAPTER:
                if (newest / name).is_file():
                    shutil.copyfile(newest / name, Path(temporary) / name)
            _write(Path(temporary), args.hub_model_id or output.name, _settings(args, state))
            if (Path(temporary) / CARD).is_file():
                shutil.copyfile(Path(temporary) / CARD, output / CARD)


def take_over_cards(trainer: ModuleType) -> None:
    """Have every ``Trainer`` of one of our models write our card.

    Args:
        trainer (ModuleType): ``transformers.trainer``.
    """
    stock = trainer.Trainer.create_model_card

    @functools.wraps(stock)
    def create_model_card(self: Any, *args: Any, **kwargs: Any) -> None:
        output = Path(self.args.output_dir)
        if not model_type_of(self.model) or not (output / "config.json").is_file():
            stock(self, *args, **kwargs)
        elif self.is_world_process_zero():
            _write(output, self.hub_model_id, _settings(self.args, self.state))
            _add_metadata(output / CARD, **dict(zip(("language", "license", "tags"), args, strict=False)), **kwargs)

    if not hasattr(stock, "__wrapped__"):
        trainer.Trainer.create_model_card = create_model_card
        trainer.DEFAULT_CALLBACKS.append(CardOfCheckpoint)


def _add_metadata(
    path: Path,
    language: str | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    **_: Any,
) -> None:
    """Add what the caller of ``Trainer.push_to_hub`` says. What else it may say stands in our card already."""
    if not path.is_file() or not (language or license or tags or dataset):
        return
    card = ModelCard.load(path)
    card.data.language = language or card.data.language
    card.data.license = license or card.data.license
    card.data.datasets = dataset or card.data.datasets
    given = [tags] if isinstance(tags, str) else list(tags or ())
    card.data.tags = [*card.data.tags, *(tag for tag in given if tag not in card.data.tags)]
    card.save(path)
