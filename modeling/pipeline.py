"""Defines the pipeline "image-to-text": images in, text out.

Transformers 5 removed the ``image-to-text`` task. A checkpoint registers it again through ``custom_pipelines`` in its
config: ``pipeline("image-to-text", "<folder or Hub id>", trust_remote_code=True)``. For a model that is loaded already:
``AdemVLImageToTextPipeline(model=model, processor=processor)``.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature, Pipeline

from .images import CAPTION_PROMPT, ImageSource

if TYPE_CHECKING:  # never run: Transformers 4.57 finds the files of a checkpoint by these lines, in this file alone
    from .image_forms import plain_form  # noqa: F401

MAX_NEW_TOKENS = 32


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
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call into those of ``preprocess``, ``_forward`` and ``postprocess``."""
        preprocess = {} if prompt is None else {"prompt": prompt}
        forward = {**(generate_kwargs or {}), **kwargs}
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        return preprocess, forward, {}

    def __call__(
        self, inputs: ImageSource | list[ImageSource] | None = None, **kwargs: Any
    ) -> list[dict[str, str]] | list[list[dict[str, str]]]:
        """Write a text for each image.

        Args:
            inputs (ImageSource | list[ImageSource] | None): An image (a path or a PIL image), or a list of images.
            **kwargs (Any): ``prompt``, the text to continue (default "a picture of"); ``max_new_tokens`` (default 32)
                and any other argument of ``generate``, also as a dict in ``generate_kwargs``; ``batch_size`` and the
                other arguments of a Transformers pipeline; ``images``, the older name of ``inputs``.

        Returns:
            list[dict[str, str]] | list[list[dict[str, str]]]: ``[{"generated_text": text}]`` for one image, and a list
            of such lists for a list of images. The text is what follows the prompt.

        Raises:
            ValueError: No image is given, or an image cannot be used.
        """
        if inputs is None:
            inputs = kwargs.pop("images", None)
        if inputs is None:
            raise ValueError("no picture given: pass a path, a PIL image, or a list of either")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: ImageSource, prompt: str = CAPTION_PROMPT) -> BatchFeature:
        """Make the model inputs of one image and the prompt.

        Args:
            image (ImageSource): The image. A list of images is refused.
            prompt (str): The text to continue.

        Returns:
            BatchFeature: ``input_ids`` and ``attention_mask`` [1, T], ``pixel_values`` [1, 3, H, W] and ``image_mask``
            [1].
        """
        return self.processor(images=[[image]], text=[prompt])

    def _forward(self, model_inputs: BatchFeature, **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Generate, and cut the prompt off: [B, T] in, [B, new tokens] out."""
        given = generate_kwargs.get("generation_config")
        if given is None and not generate_kwargs.keys() & {"max_new_tokens", "max_length"}:
            generate_kwargs["max_new_tokens"] = MAX_NEW_TOKENS
        ids = self.model.generate(**model_inputs, **generate_kwargs)
        ids = ids if isinstance(ids, torch.Tensor) else ids.sequences  # return_dict_in_generate
        return {"generated_ids": ids[:, model_inputs["input_ids"].shape[1] :]}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> list[dict[str, str]]:
        """Decode the new tokens.

        Args:
            model_outputs (dict[str, torch.Tensor]): ``generated_ids`` [1, new tokens].

        Returns:
            list[dict[str, str]]: One dict with the text, without surrounding spaces, in ``generated_text``.
        """
        texts = self.processor.batch_decode(model_outputs["generated_ids"], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]


__all__ = ["AdemVLImageToTextPipeline"]
