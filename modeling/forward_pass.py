"""One pass of a model: pair, features, see, place, language model, loss; and what a subclass defines of it.

Shapes: B batch, T text positions, n images a row (at most), I images in the batch, m input embeddings an image, N
patches, D width of the language model, C width of the tower.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .decoder_scales import OF_LOGITS
from .image_inputs import ImageRows, merge_image_embeds, require
from .labels import NOT_SUPERVISED
from .supervised_loss import mean_loss, operator_takes
from .vision import vision_features
from .visual_memory import CACHE, VisualCacheLayer, VisualMemory, visual_cache_layer


@dataclass
class SeeingCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Transformers' own outputs of a causal LM, and the vision tower's.

    ``logits`` are None in training with labels, where only supervised positions are computed.

    Args:
        image_outputs (BaseModelOutputWithPooling | None): the vision tower's outputs, when ``pixel_values`` are given.
    """

    image_outputs: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple:
        """Convert to a tuple of all that is not None, the tower's outputs to one of their own."""
        return tuple(self[key].to_tuple() if key == "image_outputs" else self[key] for key in self.keys())


class ForwardPass:
    """The pass of a model that has ``language_model``, ``vision_tower``, ``adapter`` and ``config``.

    A model is its adapter (from features to a :class:`VisualMemory`) and these, which subclasses define or extend:
    :meth:`attach` (teach the bases' layers), :meth:`see` (features to memory), :meth:`join` (a memory to the one before
    it), :meth:`for_layers` (the layers' arguments), :meth:`tower_always_runs`, ``has_plain_head``, ``adapts_tower``;
    and ``memory_arguments``, the names under which ``forward`` takes a memory.
    """

    config: Any
    language_model: Any
    vision_tower: nn.Module
    adapter: nn.Module
    training: bool
    loss_function: Any
    cache_argument: str  # in which the language model takes its key-value cache
    input_scale = 1.0  # attach() says what the language model multiplies its input embeddings by
    adapts_tower = False  # whether attach() put parts of the adapter into the vision tower
    feature_cache: Any = None  # has features that were computed before

    # what a subclass defines or extends

    def attach(self) -> None:
        """Teach the layers of the language model (and of the vision tower) to use the adapter."""
        raise NotImplementedError

    def see(self, features: torch.Tensor | None, rows: ImageRows) -> VisualMemory | None:
        """Turn features into a memory.

        Args:
            features (torch.Tensor | None): [I, 1+N, C] ([I, k, 1+N, C] of k levels); None where there is no image.
            rows (ImageRows): the rows that the images belong to.

        Returns:
            The memory, with ``embeds`` [B, n, m, D] or None; None where there is nothing to see.
        """
        return self.adapter(features, rows)

    def join(self, before: VisualMemory, new: VisualMemory) -> VisualMemory:
        """Join new images to those that the text in the cache was read with; here they take their place.

        Args:
            before (VisualMemory): what the cache holds.
            new (VisualMemory): what this call gives.

        Returns:
            What the text reads from now on.
        """
        return new

    def for_layers(
        self,
        memory: VisualMemory,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        tokens_read: torch.Tensor | None,
    ) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Make the keyword arguments that the language model hands to its layers.

        Args:
            memory (VisualMemory): what this pass reads.
            input_ids (torch.Tensor | None): [B, T], the text.
            inputs_embeds (torch.Tensor | None): [B, T, D], the text where ``input_ids`` is None.
            tokens_read (torch.Tensor | None): [B], image tokens of the text in the cache.

        Returns:
            The arguments, and the image tokens read after this pass, [B] (None where nothing counts them).
        """
        return {"visual_memory": memory}, None

    def tower_trains(self) -> bool:
        """Say whether anything inside the vision tower gets a gradient."""
        return self.adapts_tower or any(p.requires_grad for p in self.vision_tower.parameters())

    def tower_always_runs(self) -> bool:
        """Say whether the tower runs for batches without images, too.

        Other processes may have an image, and all must use the same parameters.
        """
        return several_processes()

    @property
    def has_plain_head(self) -> bool:
        """Whether the LM's logits are its head's output as it stands."""
        return not any(getattr(self.config.text_config, name, None) for name in OF_LOGITS)

    # one pass: pair, features, see, place, language model, loss

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling | tuple:
        """Run images through the vision tower with its adapters (and PEFT's).

        Args:
            pixel_values (torch.Tensor): [I, 3, H, W].
            kwargs (Any): ``output_hidden_states``, ``output_attentions`` and ``return_dict`` as in Transformers.

        Returns:
            The tower's outputs; ``pooler_output`` are the features, [I, 1+N, C], class token first ([I, k, 1+N, C]
            where ``config.vision_feature_layer`` lists k levels).

        Raises:
            ValueError: the images are not of the size that the model takes, or are rows of images.
        """
        if pixel_values.dim() != 4:
            raise ValueError(
                f"pixel_values is {list(pixel_values.shape)}, and [I, 3, H, W] is needed; of rows with several images "
                "[B, n, 3, H, W], take pixel_values[image_mask]"
            )
        height, width = pixel_values.shape[-2:]
        if height != self.config.image_size or width != self.config.image_size:
            raise ValueError(
                f"pixel_values has images of {height} x {width} pixels, and the model takes {self.config.image_size} x "
                f"{self.config.image_size} (config.image_size): let the model's own processor make them"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tower_trains()):
            return vision_features(self.vision_tower, pixel_values, self.config.vision_feature_layer, **kwargs)

    def features_of(self, rows: ImageRows) -> torch.Tensor | None:
        """Compute the features of a batch's images.

        Args:
            rows (ImageRows): the images and their places; no places where the tower runs for none.

        Returns:
            [I, 1+N, C] ([I, k, 1+N, C] of k levels), or None where there is no image.
        """
        if rows.pixels is not None and len(rows.pixels):
            if self.feature_cache is None:
                outputs = self.get_image_features(rows.pixels, return_dict=True)
            else:
                outputs = self.feature_cache.outputs(self, rows.pixels)
            rows.outputs = without_graph(outputs)
            return outputs.pooler_output  # type: ignore[union-attr]
        if not self.tower_always_runs():
            return None
        # none of them shows: the same output as a batch without images, but every parameter gets a (zero) gradient
        size = self.config.image_size
        blank = self.get_image_features(torch.zeros(1, 3, size, size), return_dict=True)
        of_one = blank.pooler_output  # type: ignore[union-attr]
        features = of_one.expand(rows.batch, *of_one.shape[1:]) if torch.compiler.is_compiling() else of_one[:0]
        rows.mask = torch.zeros(rows.batch, 1, dtype=torch.bool, device=features.device)
        return features

    def look(
        self,
        pixel_values: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        batch: int,
        ids: torch.Tensor | None = None,
        **of_rows: Any,
    ) -> VisualMemory | None:
        """Look at the images of a call, once for all layers and steps.

        Args:
            pixel_values (torch.Tensor | None): [B, n, 3, H, W], or [B, 3, H, W] for one image a row.
            image_mask (torch.Tensor | None): [B, n] or [B] bool, images that exist; the others never reach the tower.
            batch (int): B, the rows of text.
            ids (torch.Tensor | None): [B, T], the text, to check that every image has its place in it; None =
                unchecked.
            of_rows (Any): more that :meth:`see` takes.

        Returns:
            The memory in the language model's dtype, with ``embeds`` [B, n*m, D] or None; None = nothing to see.

        Raises:
            ValueError: images and rows do not pair up, a row has more images than frame embeddings or image tokens.
        """
        rows = ImageRows.pair(pixel_values, image_mask, batch)  # pixels [I, 3, H, W]
        features = self.features_of(rows)  # [I, 1+N, C]
        memory = self.see(features, rows, **of_rows)
        if memory is None:
            return None
        embed = self.language_model.get_input_embeddings()
        dtype = embed.weight.dtype
        embeds = memory.embeds
        if embeds is not None:
            embeds = rows.input_embeds(embeds, embed, self.config.image_token_id, self.input_scale, ids)
        key, value = memory.key.to(dtype), memory.value.to(dtype)
        return memory._replace(key=key, value=value, embeds=embeds, image_outputs=rows.outputs)

    def memory_for(
        self,
        text: torch.Tensor | None,
        cache: Any = None,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        **of_rows: Any,
    ) -> VisualMemory | None:
        """Look at what is new in a call.

        Args:
            text (torch.Tensor | None): [B, T] ids or [B, T, D] embeddings; None = one row.
            cache (Any): the key-value cache of the text before, or None.
            pixel_values (torch.Tensor | None): as for :meth:`look`.
            image_mask (torch.Tensor | None): as for :meth:`look`.
            of_rows (Any): more that :meth:`see` takes.

        Returns:
            A memory, or None where there are no images and the cache holds what its text was read with.

        Raises:
            ValueError: as :meth:`look`.
        """
        if cache is not None and pixel_values is None:
            kept = visual_cache_layer(cache)
            if kept is not None and kept.memory is not None:
                return None
        ids = text if cache is None and text is not None and text.dim() == 2 else None
        return self.look(pixel_values, image_mask, 1 if text is None else text.shape[0], ids, **of_rows)

    def read(
        self,
        memory: VisualMemory | None,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: Any = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        without_head: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, torch.Tensor | None, torch.Tensor | None, Any]:
        """Read the text with what is seen: the language model's part of a forward.

        Args:
            memory (VisualMemory | None): what this call gives; None = nothing but what the cache holds.
            input_ids (torch.Tensor | None): [B, T].
            inputs_embeds (torch.Tensor | None): [B, T, D], in place of ``input_ids``.
            cache (Any): the key-value cache, or None.
            labels (torch.Tensor | None): [B, T], -100 = not supervised.
            logits_to_keep (int | torch.Tensor): the library's.
            without_head (bool): leave out the LM head.
            kwargs (Any): the language model's own arguments and the loss function's.

        Returns:
            The language model's outputs; loss and logits (None where there are none); the layers' memory.

        Raises:
            ValueError: labels without a single supervised position, no image token set.
        """
        if labels is not None:
            supervised = (labels[:, 1:] != NOT_SUPERVISED).any()
            if torch.compiler.is_compiling() or not supervised:  # no call of another file in every step
                require(
                    supervised,
                    "no position of the batch is supervised: every label is -100; give the samples an answer",
                )
        embeds = None if memory is None else memory.embeds  # [B, n*m, D]: what the cache holds is in its text already
        kept = None if cache is None else visual_cache_layer(cache)
        memory = self._recall(memory, kept)
        arguments: dict[str, Any] = {}
        tokens_read = None if kept is None else kept.tokens_read  # [B]
        if memory is not None:
            arguments, tokens_read = self.for_layers(memory, input_ids, inputs_embeds, tokens_read)
        placed: torch.Tensor | int = 0 if kept is None else kept.placed  # [B]
        if embeds is not None:
            embed, token = self.language_model.get_input_embeddings(), self.config.image_token_id
            inputs_embeds, placed = merge_image_embeds(input_ids, inputs_embeds, embeds, embed, token, placed)
            input_ids = None
        supervised_only = labels is not None and self.training and self.has_plain_head
        headless = supervised_only or without_head
        if supervised_only and kwargs.get("use_cache") is None:
            kwargs["use_cache"] = False  # a cache that nobody reads would copy every layer's keys and values
        outputs = (self.language_model.get_decoder() if headless else self.language_model)(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **{self.cache_argument: cache},
            **arguments,
            **({} if headless else {"logits_to_keep": logits_to_keep}),
            **kwargs,
        )
        cache = getattr(outputs, CACHE, None)
        if cache is not None and memory is not None:
            if kept is None:
                kept = VisualCacheLayer(memory)
                cache.layers.append(kept)
            kept.placed, kept.tokens_read = placed, tokens_read
        loss: torch.Tensor | None = None
        logits = getattr(outputs, "logits", None)
        if supervised_only:
            loss = self._supervised_loss(outputs.last_hidden_state, labels, **kwargs)
        elif labels is not None and not without_head:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return outputs, loss, logits, arguments.get("visual_memory")

    def _recall(self, memory: VisualMemory | None, kept: VisualCacheLayer | None) -> VisualMemory | None:
        """What this pass reads: what is new, what the cache holds, or both."""
        if kept is None or kept.memory is None:
            if kept is not None and memory is not None:
                kept.keep(memory, memory)
            return memory
        # a prompt that is read in parts comes with the same images each time
        if memory is not None and kept.newest is not memory.key:
            kept.keep(self.join(kept.memory, memory), memory)
        return kept.memory

    def _supervised_loss(self, hidden_states, labels, **kwargs):
        """Cross-entropy with the LM head run on supervised positions alone: the answer is a small part of a row.

        A graph that ``torch.compile`` traces does so by an operator; what that does not take runs on all positions.
        """
        head = self.language_model.get_output_embeddings()
        shifted = kwargs.pop("shift_labels", None)
        if shifted is None:
            shifted, hidden_states = labels[:, 1:], hidden_states[:, :-1]
        targets = shifted.to(hidden_states.device)
        if torch.compiler.is_compiling():
            targets, hidden_states = targets.flatten(), hidden_states.flatten(0, 1)
            if operator_takes(head, self.loss_function, hidden_states, kwargs):
                return mean_loss(hidden_states, head.weight, targets, kwargs.get("num_items_in_batch"))
        else:
            if targets.shape != hidden_states.shape[:2]:
                raise ValueError(f"labels are {list(labels.shape)} for a text of {hidden_states.shape[1] + 1} tokens")
            supervised = targets != NOT_SUPERVISED  # [B, T-1]
            targets, hidden_states = targets[supervised], hidden_states[supervised]
        logits = head(hidden_states)  # [positions, vocabulary]
        vocab_size = self.config.text_config.vocab_size
        return self.loss_function(logits=logits, labels=None, vocab_size=vocab_size, shift_labels=targets, **kwargs)


def without_graph(outputs: Any) -> Any:
    """Detach the tower's outputs, which a model returns for people to look at.

    FSDP runs the backward of every tensor that a model returns. A process without images returns none of these, and
    would leave the others waiting.

    Args:
        outputs (Any): the outputs, a ``ModelOutput`` of tensors and tuples of tensors.

    Returns:
        The same without their graph.
    """
    return type(outputs)(
        **{
            name: tuple(one.detach() for one in value) if isinstance(value, tuple) else value.detach()
            for name, value in outputs.items()
        }
    )


def several_processes() -> bool:
    """Say whether this process is one of several that train or predict together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
