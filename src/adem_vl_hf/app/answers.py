"""Answers the turns of a chat about images as a stream of texts, one chat at a time. It knows of no web page."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from transformers import StoppingCriteria, TextIteratorStreamer

from ..data.turns import latest_shown
from ..inspection.look import Look, look
from ..modeling.images import IMAGE_MARK
from ..modeling.videos import VIDEO_MARK


@dataclass
class Turn:
    """Holds what a user says at once, and the answer to it.

    Args:
        text (str): The text.
        images (list[Image.Image]): The images that come with it, in mode RGB.
        videos (list[list[Image.Image]]): The videos that come with it, each a list of frames.
        as_chat (bool): Whether the model reads the turns before, too, as a chat. Otherwise it continues this text
            alone, with the images of the last turn that has any.
        answer (str): The answer, empty as long as there is none.
    """

    text: str
    images: list[Image.Image] = field(default_factory=list)
    videos: list[list[Image.Image]] = field(default_factory=list)
    as_chat: bool = False
    answer: str = ""

    @property
    def shown(self) -> dict[str, list[Any]]:
        """Return the lists ``images`` and ``videos``, or one of them, without empty ones."""
        return {name: entries for name, entries in (("images", self.images), ("videos", self.videos)) if entries}


class _StopWhenSet(StoppingCriteria):
    """Ends a generation when an event is set.

    Args:
        event (threading.Event): The event.
    """

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.new_full((len(input_ids),), self.event.is_set(), dtype=bool)


class Answers:
    """Answers turns with one model, which several threads may ask. Each waits until the one before has its answer.

    Args:
        model (Any): A model of this package.
        processor (Any): Its processor.
        max_new_tokens (int): The greatest length of an answer, in tokens.
    """

    def __init__(self, model: Any, processor: Any, max_new_tokens: int) -> None:
        self.model, self.processor, self.max_new_tokens = model.eval(), processor, max_new_tokens
        self._lock = threading.Lock()

    def stream(self, turns: Sequence[Turn]) -> Iterator[str]:
        """Answer the last turn.

        Args:
            turns (Sequence[Turn]): The turns so far. The last one has no answer yet.

        Yields:
            The answer so far, longer each time.

        Raises:
            ValueError: The turns do not fit the model: too many images, or a text that is longer than its window.
        """
        shown, asked = row_of(turns)
        with self._lock:
            rows = {name: [entries] for name, entries in shown.items() if entries}
            inputs = self.processor(**rows, text=[asked], return_tensors="pt").to(self.model.device)
            streamer: Any = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            failed: list[BaseException] = []
            stopped = threading.Event()

            def generate() -> None:
                try:
                    # beams, which a checkpoint may ask for, cannot be streamed
                    self.model.generate(
                        **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1,
                        num_return_sequences=1, streamer=streamer, stopping_criteria=[_StopWhenSet(stopped)],
                        tokenizer=self.processor.tokenizer,
                    )  # fmt: skip
                except BaseException as error:
                    failed.append(error)
                    streamer.end()

            worker = threading.Thread(target=generate, daemon=True)
            worker.start()
            said = ""
            try:
                for piece in streamer:
                    said += piece
                    yield said.strip()
            finally:  # also when nobody waits for the answer any more
                stopped.set()
                worker.join()
            if failed:
                raise failed[0]

    def look(self, turns: Sequence[Turn]) -> Look:
        """Measure where the answer to the last turn comes from.

        Args:
            turns (Sequence[Turn]): The turns. The last one has its answer.

        Returns:
            The measurement.

        Raises:
            ValueError: There is no image, or no answer.
        """
        shown, asked = row_of(turns)
        with self._lock:
            return look(self.model, self.processor, shown, asked, turns[-1].answer)


def row_of(turns: Sequence[Turn]) -> tuple[dict[str, list[Any]], Any]:
    """Make one row of turns, as the processor takes it.

    Args:
        turns (Sequence[Turn]): The turns.

    Returns:
        The images and videos, and the text or the messages.
    """
    if not turns[-1].as_chat:
        return latest_shown(turn.shown for turn in reversed(turns)) or {"images": []}, turns[-1].text
    messages = []
    for turn in turns:
        marks = IMAGE_MARK * len(turn.images) + VIDEO_MARK * len(turn.videos)
        messages += [{"role": "user", "content": marks + turn.text}, {"role": "assistant", "content": turn.answer}]
    images = [image for turn in turns for image in turn.images]
    videos = [video for turn in turns for video in turn.videos]
    return {"images": images, "videos": videos}, messages[:-1]
