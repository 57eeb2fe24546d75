"""Generation: the tower runs once, and what was computed of the images goes on from step to step."""

from typing import Any

import torch

from .prompts_adem_vl import answers_labelled_batches


class VisualGenerationMixin:
    """``generate`` of a model that has ``_memory_for``; stands before Transformers' ``GenerationMixin``."""

    config: Any
    memory_names: tuple[str, ...] = ()  # what _memory_for gives: arguments of forward that lead with the batch
    names_to_cache: tuple[str, ...] = ()  # those that the cache holds once the prompt was read
    image_argument_names: tuple[str, ...] = ("pixel_values", "image_mask")  # what the memory is computed from

    @torch.no_grad()
    @answers_labelled_batches
    def generate(self, inputs=None, *args, **kwargs):
        """Transformers' ``generate``; the tower runs once, and beams expand the memory, not the pixels.

        With ``labels`` [B, T] (a training batch) it answers the prompts alone and returns the answers alone.
        """
        images = {name: kwargs.pop(name, None) for name in self.image_argument_names}
        memory = images  # of which a memory that is handed over may have a part under its own name
        if kwargs.get("visual_key") is None:
            given = inputs if inputs is not None else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            memory = self._memory_for(given, past_key_values=kwargs.get("past_key_values"), **images)  # type: ignore[attr-defined]
        # tensors that lead with the batch are repeated for beams, and handed on at every step under these names
        kwargs |= {name: memory[name] for name in self.memory_names if memory.get(name) is not None}
        draft = kwargs.get("assistant_model")
        if draft is not None and draft.config.model_type != self.config.model_type:
            kwargs["assistant_model"] = TextDraft(draft, self.memory_names)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        """What is cached needs no image embeddings any more, and an image token that is generated gets none."""
        if model_kwargs.get("use_cache"):
            for name in self.names_to_cache:
                model_kwargs.pop(name, None)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)  # type: ignore[misc]


class TextDraft:
    """A language model that drafts for one that sees: it is asked to go on without the picture."""

    def __init__(self, model, memory_names: tuple[str, ...]) -> None:
        self.model, self.memory_names = model, memory_names

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, *args, **kwargs):
        for name in self.memory_names:
            kwargs.pop(name, None)
        return self.model.generate(*args, **kwargs)
