"""``pipeline("image-to-text", <folder or Hub id>, trust_remote_code=True)``: pictures in, text out.

Transformers 5 took the task out of the library; a checkpoint brings it back through ``custom_pipelines`` in its
config. For a model in hand: ``AdemVLImageToTextPipeline(model=model, processor=processor)``.
"""

from transformers import Pipeline

from .images import open_image

DEFAULT_PROMPT = "a picture of"
MAX_NEW_TOKENS = 32


class AdemVLImageToTextPipeline(Pipeline):
    """Takes a path, a PIL image, or a list of either; an optional ``prompt``; any argument of ``generate``.

    Returns ``[{"generated_text": str}]`` for one picture, a list of such lists for several.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True

    def _sanitize_parameters(self, prompt=None, max_new_tokens=None, generate_kwargs=None, **kwargs):
        preprocess = {} if prompt is None else {"prompt": prompt}
        forward = {**(generate_kwargs or {}), **kwargs}
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        return preprocess, forward, {}

    def __call__(self, inputs=None, **kwargs):
        """Caption ``inputs`` (or ``images=``, the library's older name for them)."""
        if inputs is None:
            inputs = kwargs.pop("images", None)
        if inputs is None:
            raise ValueError("no picture given: pass a path, a PIL image, or a list of either")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image, prompt=DEFAULT_PROMPT):
        return self.processor(images=[open_image(image)], text=[prompt])

    def _forward(self, model_inputs, **generate_kwargs):
        generate_kwargs.setdefault("max_new_tokens", MAX_NEW_TOKENS)
        ids = self.model.generate(**model_inputs, **generate_kwargs)
        return {"generated_ids": ids[:, model_inputs["input_ids"].shape[1] :]}

    def postprocess(self, model_outputs):
        texts = self.processor.batch_decode(model_outputs["generated_ids"], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]


__all__ = ["AdemVLImageToTextPipeline"]
