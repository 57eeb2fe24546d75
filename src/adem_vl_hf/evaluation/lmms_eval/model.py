"""A checkpoint of this package as a model of ``lmms-eval`` (arXiv 2407.12772), which must be installed."""

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
from ..predict import generate_answers
from ..predictions import processes

MAX_NEW_TOKENS = 64  # where a task does not say


class AdemVLModel(lmms):
    """Answers greedily, in batches; ADEM-VL and EVLM alike.

    Args:
        pretrained: folder or Hub id; None = the adapter that ships with this package.
        batch_size: requests per call of ``generate``.
        device: default this process's accelerator, or the CPU.
        prompt: what a task's text stands in; the default is what instructions are trained with.

    Raises:
        ValueError: a ``prompt`` without ``{instruction}``.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        prompt: str = INSTRUCTION_PROMPT,
        max_batch_size: int | None = None,  # handed to every model; batches here never grow
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
        """Where the model is."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer per request, cut before the first of the task's ``until``."""
        answers: list[str | None] = [None] * len(requests)
        # rows of one batch share the number of new tokens and the kind of pictures
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
                    pictures, prompts = [rows[p][0] for p in batch], [rows[p][1] for p in batch]
                    said = generate_answers(self.model, self.processor, pictures, prompts, length)
                    for place, text in zip(batch, said, strict=True):
                        answers[place] = _cut(text, requests[place].args[1].get("until") or [])
                        self.cache_hook.add_partial("generate_until", requests[place].args[:2], answers[place])
                    bar.update(len(batch))
        return answers  # type: ignore[return-value]  # every place is in one group

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each request the log-probability of its continuation, and whether it is the greedy one."""
        scores = []
        for request in requests:
            context, target, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            pictures, prompt = self._row(context, visual(doc), f"{task}, {split} {doc_id}")
            suffix = target if isinstance(target, str) else target(doc)
            inputs = self.processor(
                **processor_arguments([pictures]), text=[prompt], suffix=[suffix], return_tensors="pt"
            ).to(self.device)
            labels = inputs.pop("labels")[0, 1:]  # [T - 1]
            kept = labels != -100
            if inputs["input_ids"][0, -1] == self.processor.tokenizer.eos_token_id:
                kept[-1] = False  # the end of the text is no part of the continuation
            logits = self.model(**inputs).logits[0, :-1][kept].float()  # [continuation, vocabulary]
            wanted = labels[kept]
            found = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
            scores.append((found.item(), bool((logits.argmax(-1) == wanted).all())))
        return scores

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises NotImplementedError: this model is asked once per question."""
        raise NotImplementedError("adem_vl answers one question at a time; leave tasks of several rounds out")

    def _row(self, context: str, visuals: Sequence[Any] | None, where: str) -> tuple[Shown, str]:
        """The pictures of one request, and its prompt; marks stay where they stand for several pictures, one each."""
        pictures = list(visuals or [])
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise ValueError(f"{where}: shows something other than pictures; leave tasks of videos and sound out")
        field: Any = None if not pictures else "image" if len(pictures) == 1 else "images"
        if len(pictures) < 2 or context.count(IMAGE_MARK) != len(pictures):
            context = without_marks(context)
        shown = opened(Shown(field, tuple(pictures)), where)
        return shown, self.prompt.replace("{instruction}", context.strip())


def _cut(text: str, until: str | Sequence[str]) -> str:
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end)[0] if end else text
    return text.strip()
