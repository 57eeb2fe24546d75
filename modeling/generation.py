"""Generation: the tower runs once, and what was computed of the images goes on from step to step."""

from collections.abc import Callable
from typing import Any

import torch

from .labels import padding_token, prompts_alone
from .visual_memory import CACHE, VisualMemory


class VisualGenerationMixin:
    """``generate`` of a model that has ``memory_for``; stands before Transformers' ``GenerationMixin``."""

    config: Any
    memory_for: Callable[..., VisualMemory | None]
    memory_arguments: dict[str, str] = {}  # argument of forward -> field of the memory
    image_arguments: tuple[str, ...] = ("pixel_values", "image_mask")  # what a memory is computed from

    @torch.no_grad()
    def generate(
        self, inputs: torch.Tensor | None = None, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Generate as Transformers does; the tower runs once, and beams expand the memory, not the pixels.

        Args:
            inputs (torch.Tensor | None): [B, T], the prompts' ids (or give ``input_ids``).
            args (Any): the library's.
            labels (torch.Tensor | None): [B, T], those of a training batch: it answers the prompts alone, and returns
                the answers alone. ``max_length`` counts the new tokens then, as ``generation_max_length`` of
                ``Seq2SeqTrainingArguments`` is that of the answers, and prompts of a batch differ in length.
            kwargs (Any): the library's, the image arguments of ``forward``, or a memory (:meth:`get_visual_memory`).

        Raises:
            ValueError: labels without ids, a row without a prompt, or ``assistant_early_exit``.
        """
        if labels is not None:
            return self._answer(labels, inputs, *args, **kwargs)
        if kwargs.get("assistant_early_exit") is not None:
            raise ValueError(
                "assistant_early_exit cuts off layers that have a part in the adapter; use prompt_lookup_num_tokens or "
                "an assistant_model"
            )
        images = {name: kwargs.pop(name, None) for name in self.image_arguments}
        older, cache = kwargs.pop("past_key_values", None), kwargs.pop("cache", None)  # the library's two names
        cache = older if cache is None else cache
        draft, own = kwargs.get("assistant_model"), None
        if cache is not None:
            kwargs[CACHE] = cache
        if kwargs.get("visual_key") is None:
            given = inputs if inputs is not None else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            kwargs |= self.as_arguments(self.memory_for(given, cache, **images))
            if draft is not None and draft is not self and hasattr(draft, "memory_for"):
                seen = {name: images[name] for name in draft.image_arguments if images.get(name) is not None}
                own = draft.as_arguments(draft.memory_for(given, cache, **seen))
        else:  # video_mask is both an image argument and part of a memory that is handed over
            kwargs |= {name: images[name] for name in self.memory_arguments if images.get(name) is not None}
        if draft is not None and (own is not None or draft.config.model_type != self.config.model_type):
            kwargs["assistant_model"] = Draft(draft, tuple(self.memory_arguments), own or {})
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _answer(self, labels: torch.Tensor, inputs: torch.Tensor | None, *args: Any, **kwargs: Any) -> Any:
        """Answer the prompts of a training batch; the new tokens alone, [B, new]."""
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("labels need input_ids, out of which they cut the prompts; leave the labels out")
        given = (getattr(self.config.text_config, name, None) for name in ("pad_token_id", "eos_token_id"))
        padding = padding_token(self.config.image_token_id, *given)
        prompts, mask = prompts_alone(ids, kwargs.pop("attention_mask", None), labels, padding)
        longest = kwargs.pop("max_length", None)
        if longest is not None:
            kwargs.setdefault("max_new_tokens", longest)
        out = VisualGenerationMixin.generate(self, prompts, *args, attention_mask=mask, **kwargs)
        if isinstance(out, torch.Tensor):
            return out[:, prompts.shape[1] :]
        out.sequences = out.sequences[:, prompts.shape[1] :]
        return out

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse the continuous batching of ``generate_batch``, which packs the tokens of several rows into one.

        Args:
            args (Any): the library's.
            kwargs (Any): the library's.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no continuous batching, which takes token ids and no images; "
            "generate takes a batch of rows with their images"
        )

    def as_arguments(self, memory: VisualMemory | None) -> dict[str, torch.Tensor]:
        """Name the parts of a memory as ``forward`` takes them.

        The library repeats tensors that lead with the batch for beams, and hands them on from step to step.

        Args:
            memory (VisualMemory | None): the memory; None gives no arguments.
        """
        if memory is None:
            return {}
        parts = {name: getattr(memory, field) for name, field in self.memory_arguments.items()}
        return {name: part for name, part in parts.items() if part is not None}

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        """The cache keeps the memory from now on, and an image token that is generated gets no embedding."""
        if model_kwargs.get("use_cache"):
            for name in self.memory_arguments:
                model_kwargs.pop(name, None)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)  # type: ignore[misc]


class Draft:
    """A model that drafts for one that sees, with a memory of its own or, as a language model alone, with the text.

    Args:
        model (Any): the model that drafts.
        memory_names (tuple[str, ...]): the arguments that the memory of the other model has.
        own (dict[str, torch.Tensor]): those that stand for its own memory; none without one.
    """

    def __init__(self, model: Any, memory_names: tuple[str, ...], own: dict[str, torch.Tensor]) -> None:
        self.model, self.memory_names, self.own = model, memory_names, own

    def __getattr__(self, name):
        if name.startswith("__") or "model" not in self.__dict__:  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.model, name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        given = [name for name in self.memory_names if kwargs.pop(name, None) is not None]
        if given:  # later calls have a cache that keeps it
            kwargs |= self.own
        return self.model.generate(*args, **kwargs)
