"""Defines the pipeline "image-to-text": images in, text out.

Transformers 5 removed the ``image-to-text`` task. A checkpoint registers it again through ``custom_pipelines`` in its
config: ``pipeline("image-to-text", "<folder or Hub id>", trust_remote_code=True)``. For a model that is loaded already:
``AdemVLImageToTextPipeline(model=model, processor=processor)``.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature, Pipeline

if TYPE_CHECKING:  # never run: Transformers 4.57 finds the files of a checkpoint by these lines, in this file alone
    from .image_forms import plain_form  # noqa: F401

MAX_NEW_TOKENS = 32


def _is_image(item: Any) -> bool:
    """Tell an image, which may be a dict with its bytes, from a dict or a list of what one text is about."""
    return not isinstance(item, list | tuple) and not (isinstance(item, dict) and not item.keys() <= {"bytes", "path"})


def _shown(item: Any) -> dict[str, Any]:
    """Return ``images`` or ``videos`` and perhaps ``prompt`` of what one text is about."""
    if _is_image(item):
        return {"images": [item]}
    if not isinstance(item, dict):
        return {"images": list(item)}
    if unknown := sorted(item.keys() - {"images", "videos", "prompt"}):
        raise ValueError(f"{unknown[0]!r} is none of images, videos and prompt, which say what a text is about")
    images = item.get("images")
    return {**item, "images": [images]} if images is not None and _is_image(images) else item


def _is_one_image(item: Any) -> bool:
    shown = _shown(item)
    return shown.get("videos") is None and len(shown.get("images") or ()) == 1


class AdemVLImageToTextPipeline(Pipeline):
    """Writes a text for each image.

    The arguments of the constructor are those of ``transformers.Pipeline``; ``model`` and ``processor`` are needed.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True

    def _sanitize_parameters(
        self,
        prompt: str | None = None,
        num_frames: int | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call into those of ``preprocess``, ``_forward`` and ``postprocess``."""
        preprocess = {"prompt": prompt, "num_frames": num_frames}
        preprocess = {name: value for name, value in preprocess.items() if value is not None}
        forward = {**(generate_kwargs or {}), **kwargs}
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        return preprocess, forward, {}

    def __call__(self, inputs: Any = None, **kwargs: Any) -> list[dict[str, str]] | list[list[dict[str, str]]]:
        """Write a text for each image.

        Args:
            inputs (Any): An image (a path, a PIL image, bytes, an array, ...), or several images or a video that one
                text is about, as a dict with ``images`` or ``videos`` and perhaps ``prompt``; or a list, a generator or
                a data set of these. An inner list is several images of one text, too.
            **kwargs (Any): ``prompt``, the text to continue (default: the processor's), or a list with one for each of
                ``inputs`` (of a single one, all about it); ``videos``, a video or a list of videos, and ``num_frames``,
                how many frames are chosen from each; ``max_new_tokens`` (default 32) and any other argument of
                ``generate``, also as a dict in ``generate_kwargs``; ``batch_size`` and the other arguments of a
                Transformers pipeline; ``images``, the older name of ``inputs``.

        Returns:
            list[dict[str, str]] | list[list[dict[str, str]]]: ``[{"generated_text": text}]`` for one image, and a list
            of such lists for a list of images or of prompts. The text is what follows the prompt.

        Raises:
            ValueError: No image is given, an image cannot be used, or there are not as many prompts as images.
        """
        images, videos = kwargs.pop("images", None), kwargs.pop("videos", None)
        inputs = images if inputs is None else inputs
        if inputs is None and videos is None:
            raise ValueError("no picture given: pass a path, a PIL image, or a list of either")
        if videos is not None:
            if inputs is not None:
                raise ValueError("both images and videos are given: pass a dict with both for each text")
            inputs = [{"videos": one} for one in videos] if isinstance(videos, list) else {"videos": videos}
        if isinstance(inputs, list) and not inputs:
            return []
        prompts = kwargs.get("prompt")
        if isinstance(prompts, list | tuple):
            del kwargs["prompt"]
            items = inputs if isinstance(inputs, list) else [inputs] * len(prompts)
            if len(items) != len(prompts):
                raise ValueError(f"{len(items)} images and {len(prompts)} prompts: give as many prompts, or one text")
            inputs = [{**_shown(item), "prompt": prompt} for item, prompt in zip(items, prompts, strict=True)]
        if isinstance(inputs, list) and not all(_is_one_image(item) for item in inputs):
            kwargs["batch_size"] = 1  # rows with several images, or without, do not stack
        return super().__call__(inputs, **kwargs)

    def preprocess(self, item: Any, prompt: str | None = None, num_frames: int | None = None) -> BatchFeature:
        """Make the model inputs of one text.

        Args:
            item (Any): An image, a list of images, or a dict with ``images`` or ``videos`` and perhaps ``prompt``.
            prompt (str | None): The text to continue, if the item has none. None means the processor's default.
            num_frames (int | None): How many frames are chosen from a video. None means all.

        Returns:
            BatchFeature: ``input_ids`` and ``attention_mask`` [1, T], ``pixel_values`` [1, 3, H, W] and ``image_mask``
            [1], or [1, n, 3, H, W] and [1, n] for n images.
        """
        shown = _shown(item)
        options: dict[str, Any] = {} if num_frames is None else {"num_frames": num_frames}
        if shown.get("videos") is not None:
            options["videos"] = [shown["videos"]]
        asked = shown.get("prompt", self.processor.default_prompt if prompt is None else prompt)
        return self.processor(images=[shown.get("images") or []], text=[asked], **options)

    def _forward(self, model_inputs: BatchFeature, **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Generate, and cut the prompt off: [B, T] in, [B, num_return_sequences, new tokens] out."""
        given = generate_kwargs.get("generation_config")
        if given is None and not generate_kwargs.keys() & {"max_new_tokens", "max_length"}:
            generate_kwargs["max_new_tokens"] = MAX_NEW_TOKENS
        if generate_kwargs.get("stop_strings") or getattr(given, "stop_strings", None):
            generate_kwargs.setdefault("tokenizer", self.processor.tokenizer)
        ids = self.model.generate(**model_inputs, **generate_kwargs)
        ids = ids if isinstance(ids, torch.Tensor) else ids.sequences  # return_dict_in_generate
        rows, length = model_inputs["input_ids"].shape
        # one row for each input, of which a batch is taken apart afterwards, however many texts each of them has
        return {"generated_ids": ids[:, length:].unflatten(0, (rows, -1))}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> list[dict[str, str]]:
        """Decode the new tokens.

        Args:
            model_outputs (dict[str, torch.Tensor]): ``generated_ids`` [1, n, new tokens] for n texts of one input.

        Returns:
            list[dict[str, str]]: A dict for each text, without surrounding spaces, in ``generated_text``.
        """
        texts = self.processor.batch_decode(model_outputs["generated_ids"].flatten(0, 1), skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]


__all__ = ["AdemVLImageToTextPipeline"]
