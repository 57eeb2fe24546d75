"""From samples to a training batch, for the stock ``Trainer``.

The processor does the work (tokens, pixels, -100 outside the answers); what this adds is that every complaint names the
sample. An answer that is silently cut away or empty trains nothing and shows only as a loss of 0 or NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .sample import Pictures, Sample, opened, pictures_of, processor_arguments


class AdemVLCollator:
    """Collates samples of any data set of this package: with a picture, with several, with a video, without, or mixed.

    Pass it as ``Trainer(data_collator=...)`` with ``TrainingArguments(remove_unused_columns=False)``: otherwise Trainer
    takes every field away from the samples before they arrive here.

    Args:
        processor: An ``AdemVLProcessor``. Called with ``text``, ``suffix`` and ``images``, one picture or None per
            sample; if any sample of the batch has ``images`` or ``video``, as ``processor_arguments`` says.
        max_length: Longest sequence in tokens, image prefix and end of text included; None = the tokenizer's limit.
    """

    def __init__(self, processor: Callable[..., Mapping[str, torch.Tensor]], max_length: int | None = None) -> None:
        self.processor = processor
        self.max_length = max_length

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Returns what the processor makes of B samples.

        ``input_ids``, ``attention_mask`` and ``labels`` are [B, T]; with at most one picture a sample ``pixel_values``
        is [B, 3, H, W] and ``image_mask`` [B]. ``labels`` is -100 wherever nothing is supervised: prompt, padding.

        Raises:
            ValueError: A sample without an answer, one too long, one with an unusable image; named by its id.
        """
        if not samples:
            raise ValueError("no samples in the batch; give at least one")
        for place, sample in enumerate(samples):
            _check(sample, place)
        pictures = [opened(pictures_of(sample), sample["id"]) for sample in samples]
        try:
            batch = self._encode(samples, pictures)
        except ValueError:
            self._name_the_culprit(samples, pictures)
            raise
        supervised = (batch["labels"] != -100).any(dim=1).tolist()  # [B]
        for sample, has_labels in zip(samples, supervised, strict=True):
            if not has_labels:
                raise ValueError(f"sample {sample['id']!r}: no token of its answer is supervised; check its answer")
        return batch

    def _encode(self, samples: Sequence[Sample], pictures: Sequence[Pictures]) -> dict[str, torch.Tensor]:
        arguments: dict[str, Any] = processor_arguments(pictures)
        if not any(arguments["images"]):
            arguments["images"] = None
        return dict(
            self.processor(
                **arguments,
                text=[sample["prompt"] for sample in samples],
                suffix=[sample["answer"] for sample in samples],
                max_length=self.max_length,
                return_tensors="pt",
            )
        )

    def _name_the_culprit(self, samples: Sequence[Sample], pictures: Sequence[Pictures]) -> None:
        """The processor knows rows of a batch, the user knows ids: after a refusal each sample is tried alone."""
        for sample, own in zip(samples, pictures, strict=True):
            try:
                self._encode([sample], [own])
            except ValueError as error:
                reason = str(error).removeprefix("sample 0: ")  # its row in a batch of one
                raise ValueError(f"sample {sample['id']!r}: {reason}") from error


def _check(sample: Sample, place: int) -> None:
    for key in ("id", "prompt", "answer"):
        if key not in sample:
            raise ValueError(
                f"sample {place} of the batch has no {key!r} but {sorted(sample)}; with Trainer, set "
                "TrainingArguments(remove_unused_columns=False)"
            )
    if not sample["answer"].strip():
        raise ValueError(f"sample {sample['id']!r}: its answer is empty, so it would train nothing; remove it")
