"""Makes a checkpoint of this package a model of ``lmms-eval`` (arXiv 2407.12772), which must be installed."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from ...data.instructions import INSTRUCTION_PROMPT
from ...data.sample import IMAGE_MARK, Shown, opened, processor_arguments, without_marks
from ...loading import load_checkpoint
from ...modeling.labels import NOT_SUPERVISED
from ..predict import generate_answers
from ..predictions import processes

MAX_NEW_TOKENS = 64  # for tasks that do not set it


class AdemVLModel(lmms):
    """Answers the requests of the harness greedily and in batches, with an ADEM-VL or an EVLM.

    Args:
        pretrained (str | None): A folder or a Hub id. None means the adapter that ships with this package.
        batch_size (int | str): The number of requests per call of ``generate``.
        device (str | None): The device of the model. None means the accelerator of this process, or the CPU.
        prompt (str): The prompt, in which ``{instruction}`` stands for the text of a task. The default is the prompt
            that instructions are trained with.
        max_batch_size (int | None): Ignored. The harness passes it to every model, but batches here never grow.

    Raises:
        ValueError: The prompt has no ``{instruction}``.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        prompt: str = INSTRUCTION_PROMPT,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if "{instruction}" not in prompt:
            raise ValueError(f"prompt {prompt!r} has no {{instruction}}, which stands for the task's text")
        model, self.processor = load_checkpoint(pretrained)
        state = processes()
        self.model = model.to(device or PartialState().device).eval()  # type: ignore[arg-type]  # a module moves itself
        self.batch_size, self.prompt = int(batch_size), prompt
        self._rank, self._world_size = state.process_index, state.num_processes

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Generate one answer for each request.

        Args:
            requests (Sequence[Any]): The harness's ``Instance`` objects, whose ``args`` are context, generation
                settings, a function from a document to its images, document id, task and split.

        Returns:
            The answers in order, each cut off before the first of the task's ``until`` texts.
        """
        answers: list[str | None] = [None] * len(requests)
        # The rows of one batch share the number of new tokens, and whether they have several images.
        groups: dict[tuple[int, bool], list[int]] = {}
        rows = []
        for place, request in enumerate(requests):
            context, settings, visual, doc_id, task, split = request.args
            rows.append(self._row(context, visual(self.task_dict[task][split][doc_id]), f"{task}, {split} {doc_id}"))
            length = settings.get("max_new_tokens", MAX_NEW_TOKENS)
            groups.setdefault((length, rows[-1][0].field == "images"), []).append(place)
        with tqdm(total=len(requests), disable=self.rank != 0, unit="request") as bar:
            for (length, _), places in groups.items():
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    images, prompts = [rows[p][0] for p in batch], [rows[p][1] for p in batch]
                    said = generate_answers(self.model, self.processor, images, prompts, length)
                    for place, text in zip(batch, said, strict=True):
                        answers[place] = _cut(text, requests[place].args[1].get("until") or [])
                        self.cache_hook.add_partial("generate_until", requests[place].args[:2], answers[place])
                    bar.update(len(batch))
        return answers  # type: ignore[return-value]  # every place is in one group

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Compute the log-probability of a continuation for each request.

        Args:
            requests (Sequence[Any]): The harness's ``Instance`` objects, whose ``args`` are context, continuation, a
                function from a document to its images, document id, task and split.

        Returns:
            For each request the log-probability of the whole continuation, and whether it is the greedy one.
        """
        scores = []
        for request in requests:
            context, target, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            shown, prompt = self._row(context, visual(doc), f"{task}, {split} {doc_id}")
            suffix = target if isinstance(target, str) else target(doc)
            inputs = self.processor(
                **processor_arguments([shown]), text=[prompt], suffix=[suffix], return_tensors="pt"
            ).to(self.device)
            labels = inputs.pop("labels")[0, 1:]  # [T - 1]
            kept = labels != NOT_SUPERVISED
            if inputs["input_ids"][0, -1] == self.processor.tokenizer.eos_token_id:
                kept[-1] = False  # the end of text does not belong to the continuation
            logits = self.model(**inputs).logits[0, :-1][kept].float()  # [continuation, vocabulary]
            wanted = labels[kept]
            found = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
            scores.append((found.item(), bool((logits.argmax(-1) == wanted).all())))
        return scores

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse tasks of several rounds.

        Args:
            requests (Sequence[Any]): The harness's requests.

        Raises:
            NotImplementedError: Always. This model answers one question at a time.
        """
        raise NotImplementedError("adem_vl answers one question at a time; leave tasks of several rounds out")

    def _row(self, context: str, visuals: Sequence[Any] | None, where: str) -> tuple[Shown, str]:
        """Return the images of one request and its prompt.

        ``<image>`` marks stay in the prompt only if there are several images, with one mark for each.
        """
        images = list(visuals or [])
        if not all(isinstance(image, Image.Image) for image in images):
            raise ValueError(f"{where}: shows something other than images; leave tasks of videos and sound out")
        field: Any = None if not images else "image" if len(images) == 1 else "images"
        if len(images) < 2 or context.count(IMAGE_MARK) != len(images):
            context = without_marks(context)
        shown = opened(Shown(field, tuple(images)), where)
        return shown, self.prompt.replace("{instruction}", context.strip())


def _cut(text: str, until: str | Sequence[str]) -> str:
    """Cut a text off before the first of the given texts."""
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end)[0] if end else text
    return text.strip()
