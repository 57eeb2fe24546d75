"""Defines the pipeline "image-to-text": images in, text out.

Transformers 5 removed the ``image-to-text`` task. A checkpoint registers it again through ``custom_pipelines`` in its
config: ``pipeline("image-to-text", "<folder or Hub id>", trust_remote_code=True)``. For a model that is loaded already:
``AdemVLImageToTextPipeline(model=model, processor=processor)``.
"""

import os
from typing import Any

import torch
from transformers import BatchFeature, Pipeline

from .image_forms import are_several

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
        if "text" in kwargs:  # as pipelines of other tasks call it
            raise ValueError("text is no argument of this pipeline; the text to continue is its prompt")
        kwargs.pop("timeout", None)  # of the library's pipelines, for images that are fetched, and none is here
        preprocess = {"prompt": prompt, "num_frames": num_frames}
        preprocess = {name: value for name, value in preprocess.items() if value is not None}
        # the constructor's, which the library takes before this sees it
        helpers = {name: getattr(self, name, None) for name in ("assistant_model", "assistant_tokenizer")}
        forward = {name: value for name, value in helpers.items() if value is not None}
        forward |= {**(generate_kwargs or {}), **kwargs}
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        return preprocess, forward, {}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model and the whole processor; the library's pipelines leave out what the processor alone knows.

        Args:
            save_directory (str | os.PathLike): The folder.
            **kwargs (Any): Arguments of both, such as ``push_to_hub``.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

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
            raise ValueError("no image given: pass a path, a PIL image, or a list of either")
        if videos is not None:
            if inputs is not None:
                raise ValueError("both images and videos are given: pass a dict with both for each text")
            inputs = [{"videos": one} for one in videos] if isinstance(videos, list) else {"videos": videos}
        if are_several(inputs):
            inputs = list(inputs)  # the library takes lists alone for several inputs
        if isinstance(inputs, list) and not inputs:
            return []
        prompts = kwargs.get("prompt")
        if isinstance(prompts, list | tuple):
            del kwargs["prompt"]
            items = inputs if isinstance(inputs, list) else [inputs] * len(prompts)
            if len(items) != len(prompts):
                raise ValueError(f"{len(items)} images and {len(prompts)} prompts: give as many prompts, or one text")
            inputs = [{**_shown(item), "prompt": prompt} for item, prompt in zip(items, prompts, strict=True)]
        return super().__call__(inputs, **kwargs)

    def preprocess(self, item: Any, prompt: str | None = None, num_frames: int | None = None) -> dict[str, Any]:
        """Say what the model is given for one text. The library's batches would pad token ids as the tokenizer does.

        Args:
            item (Any): An image, a list of images, or a dict with ``images`` or ``videos`` and perhaps ``prompt``.
            prompt (str | None): The text to continue, if the item has none. None means the processor's default.
            num_frames (int | None): How many frames are chosen from a video. None means all.

        Returns:
            dict[str, Any]: A list of one row with the ``images``, ``videos`` and ``text`` of the processor, in
            ``rows``, and its options.
        """
        shown = _shown(item)
        asked = shown.get("prompt", self.processor.default_prompt if prompt is None else prompt)
        row = {"images": shown.get("images") or [], "videos": shown.get("videos"), "text": asked}
        return {"rows": [row], "options": {} if num_frames is None else {"num_frames": num_frames}}

    def _inputs(self, rows: list[dict[str, Any]], options: dict[str, Any]) -> BatchFeature:
        """Make the model inputs of a batch, padded on the left, whatever its rows show."""
        given = {name: [row[name] for row in rows] for name in ("images", "videos", "text")}
        if not any(video is not None for video in given["videos"]):
            del given["videos"]
        return self.processor(**given, **options).to(self.device)

    def _of_constructor(self) -> dict[str, Any]:
        """Return the generation arguments of the constructor, which Transformers keeps and leaves to us to pass on."""
        if hasattr(self, "_generate_kwargs"):
            return self._generate_kwargs
        own, of_model = (holder.generation_config.to_dict() for holder in (self, self.model))  # before 5.24
        return {name: value for name, value in own.items() if of_model.get(name) != value}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Generate for B rows, and cut the prompt off: [B, num_return_sequences, new tokens] come out."""
        if generate_kwargs.get("generation_config") is None:
            generate_kwargs = {**self._of_constructor(), **generate_kwargs}
        given = generate_kwargs.get("generation_config")
        if given is None and not generate_kwargs.keys() & {"max_new_tokens", "max_length"}:
            generate_kwargs["max_new_tokens"] = MAX_NEW_TOKENS
        generate_kwargs.setdefault("tokenizer", self.processor.tokenizer)  # for stop strings, which may be saved ones
        rows, options = model_inputs["rows"], model_inputs["options"]
        if isinstance(rows[0], list):  # a batch, of which each item has brought its list
            rows, options = [row for of_item in rows for row in of_item], options[0]
        inputs = self._inputs(rows, options)
        ids = self.model.generate(**inputs, **generate_kwargs)
        ids = ids if isinstance(ids, torch.Tensor) else ids.sequences  # return_dict_in_generate
        size, length = inputs["input_ids"].shape
        # one row for each input, of which a batch is taken apart afterwards, however many texts each of them has
        return {"generated_ids": ids[:, length:].unflatten(0, (size, -1))}

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
