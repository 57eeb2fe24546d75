"""Collates samples into a training batch for the stock ``Trainer``.

The processor does the work: token ids, pixels, and labels that leave the prompt out. The collator adds error messages
that name the sample. An answer that is empty or silently cut away would train nothing, and the only sign of it would be
a loss of 0 or NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..modeling.labels import NOT_SUPERVISED
from .cells import class_names, with_class_names
from .columns import sample_of
from .sample import Sample, Shown, asked_and_answered, images_of, opened, processor_arguments


class AdemVLCollator:
    """Collates rows of any data set, in any mixture of image, images, video and text alone, with one turn or several.

    Rows are samples of this package or rows of Hugging Face ``datasets``, whose columns ``sample_of`` recognises. Pass
    the collator as ``Trainer(data_collator=...)`` together with ``TrainingArguments(remove_unused_columns=False)``.
    Otherwise ``Trainer`` removes every column before the rows arrive here.

    Args:
        processor (Callable[..., Mapping[str, torch.Tensor]]): An ``AdemVLProcessor``. It is called with ``text``,
            ``suffix`` and the images, as ``processor_arguments`` returns them.
        max_length (int | None): The greatest length of a sequence in tokens, with the image prefix and the end of text.
            None means the limit of the tokenizer.
        columns (Mapping[str, str] | None): The names of columns that ``sample_of`` does not know, by what they are for:
            ``{"image": "photo_file", "text": "description"}``.
    """

    def __init__(
        self,
        processor: Callable[..., Mapping[str, torch.Tensor]],
        max_length: int | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.processor = processor
        self.max_length = max_length
        self.columns = columns
        self.classes: dict[str, list[str]] = {}

    def name_classes(self, dataset: Any) -> None:
        """Learn the names of the classes of a data set, whose rows have their numbers alone.

        ``Trainer`` does so by itself before it trains one of this package's models.

        Args:
            dataset (Any): The data set. One without ``features`` has no classes.
        """
        self.classes = class_names(getattr(dataset, "features", None))

    def __call__(self, rows_of_data: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B samples.

        Args:
            rows_of_data (Sequence[Mapping[str, Any]]): The B samples, or rows of a data set.

        Returns:
            The output of the processor. ``input_ids``, ``attention_mask`` and ``labels`` are [B, T]. With at most one
            image per sample, ``pixel_values`` is [B, 3, H, W] and ``image_mask`` is [B]. ``labels`` is -100 at every
            position that is not supervised, such as the prompt and the padding.

        Raises:
            ValueError: A sample has no answer, is too long, or has an image that cannot be used. The message names
                the sample by its id.
        """
        if not rows_of_data:
            raise ValueError("no samples in the batch; give at least one")
        samples = [sample_of(self._named(row), position, self.columns) for position, row in enumerate(rows_of_data)]
        for sample in samples:
            _check(sample)
        rows = [opened(images_of(sample), sample["id"]) for sample in samples]
        try:
            batch = self._encode(samples, rows)
        except ValueError:
            self._raise_for_one_sample(samples, rows)
            raise
        supervised = (batch["labels"] != NOT_SUPERVISED).any(dim=1).tolist()  # [B]
        for sample, has_labels in zip(samples, supervised, strict=True):
            if not has_labels:
                raise ValueError(f"sample {sample['id']!r}: no token of its answer is supervised; check its answer")
        return batch

    def _named(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the numbers of classes in a row by their names."""
        return with_class_names(row, self.classes) if self.classes else row

    def _encode(self, samples: Sequence[Sample], rows: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """Call the processor with the texts and the images of all samples."""
        arguments: dict[str, Any] = processor_arguments(rows)
        if not any(arguments["images"]):
            arguments["images"] = None
        pairs = [asked_and_answered(sample) for sample in samples]
        return dict(
            self.processor(
                **arguments,
                text=[asked for asked, _ in pairs],
                suffix=[answered for _, answered in pairs],
                max_length=self.max_length,
                return_tensors="pt",
            )
        )

    def _raise_for_one_sample(self, samples: Sequence[Sample], rows: Sequence[Shown]) -> None:
        """Encode each sample alone, and raise the error of the first that fails, with its id.

        The processor knows only the rows of a batch, but the user knows the samples by their ids.
        """
        for sample, row in zip(samples, rows, strict=True):
            try:
                self._encode([sample], [row])
            except ValueError as error:
                reason = str(error).removeprefix("sample 0: ")  # the name of its row in a batch of one
                raise ValueError(f"sample {sample['id']!r}: {reason}") from error


def _check(sample: Sample) -> None:
    """Raise ValueError for a sample with an empty answer."""
    for turn in sample.get("turns") or [sample]:
        if not turn["answer"].strip():
            raise ValueError(f"sample {sample['id']!r}: its answer is empty, so it would train nothing; remove it")
