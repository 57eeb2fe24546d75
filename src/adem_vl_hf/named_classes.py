"""Gives the rows of each data set the names of its own classes, of which a ``ClassLabel`` column has the numbers alone.

A stock ``Trainer`` has one collator for the training set and all held-out data. It learns the names of the training
set, and held-out data with others are refused. The loaders of our trainers have a collator each.
"""

import copy
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from .data.cells import class_names
from .data.collator import AdemVLCollator

if TYPE_CHECKING:  # a mixin stands before the Trainer that it completes
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


def _collator_of(loader: Any) -> AdemVLCollator | None:
    """Return our collator of a loader, also that inside ``NamedBatches``, or None."""
    collate = getattr(loader, "collate_fn", None)
    collate = getattr(collate, "collate", collate)
    return collate if isinstance(collate, AdemVLCollator) else None


def _data_of(loader: Any) -> Any:
    """Return the data set of a loader; of a shard, the stream that it reads."""
    return getattr(loader.dataset, "dataset", loader.dataset)


class NamesClasses(TrainerCallback):
    """Tells our collator the names of the classes. Every ``Trainer`` has it by default."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell it those of the training set.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training, which stays as it is.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The ``train_dataloader`` and the rest of what ``Trainer`` passes.
        """
        loader = kwargs.get("train_dataloader")
        if (collator := _collator_of(loader)) is not None:
            collator.name_classes(_data_of(loader))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse held-out data whose classes have other names, which were taken for those of the training set.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training, which stays as it is.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The ``eval_dataloader`` and the rest of what ``Trainer`` passes.

        Raises:
            ValueError: The held-out data have other names.
        """
        loader = kwargs.get("eval_dataloader")
        if (collator := _collator_of(loader)) is None or not collator.classes:
            return
        for column, names in class_names(getattr(_data_of(loader), "features", None)).items():
            if (known := collator.classes.get(column)) not in (None, names):
                raise ValueError(
                    f"the classes of the column {column!r} are {names} in these data and {known} in the training set, "
                    "whose names the collator has; use build_trainer, or give both sets the same classes: "
                    f"rows.align_labels_with_mapping(dict of names and numbers, {column!r})"
                )


class OwnClassNames(_Trainer):
    """A mixin for ``Trainer`` and its subclasses whose held-out data have the names of their own classes."""

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loader of ``Trainer``, with a collator of its own.

        Args:
            *args (Any): As ``Trainer`` takes them.
            **kwargs (Any): As ``Trainer`` takes them.
        """
        return _with_own_names(super().get_eval_dataloader(*args, **kwargs))

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loader of ``Trainer``, with a collator of its own.

        Args:
            *args (Any): As ``Trainer`` takes them.
            **kwargs (Any): As ``Trainer`` takes them.
        """
        return _with_own_names(super().get_test_dataloader(*args, **kwargs))


def _with_own_names(loader: Any) -> Any:
    """Give a loader a collator of its own, which knows the names of the classes of its data."""
    starts = getattr(loader, "base_dataloader", loader)  # what accelerate wraps collates
    if (collator := _collator_of(starts)) is not None:
        own = copy.copy(collator)
        own.name_classes(_data_of(starts))
        starts.collate_fn = own
    return loader
