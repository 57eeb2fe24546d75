"""Turns by themselves: a sample of each, for the authors' way of training and for evaluation; and their images."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from torch.utils.data import Dataset

from ..modeling.chat_rows import INSTRUCTION_PROMPT
from .sample import IMAGE_MARK, VIDEO_MARK, Chat, Sample, continuation, without_marks
from .stream import Stream
from .stream_notes import StreamNotes

REMEMBERED = 100_000  # rows of a stream whose first turns are known; far more than a DataLoader reads ahead
Context = Literal["none", "history"]
Shows = TypeVar("Shows")


def latest_shown(turns: Iterable[Shows]) -> Shows | None:
    """Choose what a question is about that shows nothing itself: what the latest turn showed.

    Args:
        turns (Iterable[Shows]): What each turn shows, the latest first. It is empty for a turn that shows nothing.

    Returns:
        The first one that is not empty, or None if all are.
    """
    return next(filter(None, turns), None)


class EachTurn(Dataset[Sample]):
    """Gives each turn of a data set as a sample of its own, with the images of its row.

    The id of a sample is ``id/turn``, with answers counted from 0. A sample with one question stays as it is.

    Args:
        dataset (Any): The data set. Its samples are read once to count their turns, unless it has a method
            ``number_of_turns``.
        context (Context): What stands before an answer of a chat. "none" gives the turn alone as an instruction, which
            is how ADEM-VL's authors train; "history" the true turns before it. Questions about one image are asked
            alone in both.
    """

    def __init__(self, dataset: Any, context: Context = "none") -> None:
        self.dataset, self.context = dataset, context
        count: Callable[[int], int] = getattr(dataset, "number_of_turns", lambda index: count_turns(dataset[index]))
        self.places = [(row, turn) for row in range(len(dataset)) for turn in range(count(row))]

    def __len__(self) -> int:
        return len(self.places)

    def row_of(self, index: int) -> int:
        """Tell which row of the data set a turn belongs to.

        Args:
            index (int): The index of the turn.

        Returns:
            The index of its row.
        """
        return self.places[index][0]

    def __getitem__(self, index: int) -> Sample:
        row, turn = self.places[index]
        return each_turn(self.dataset[row], self.context)[turn]


class EachTurnOfStream(Stream):
    """Gives each turn of a stream as a sample of its own, as ``EachTurn`` does with the context "none".

    The turns of a row follow one another. The stream goes on at any turn after an interruption.

    Args:
        stream (Stream): The stream.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.rows, stream.make_sample, stream.seed, stream.buffer, stream.name)
        self._turn: dict[str, Any] = {"sample": 0, "turn": 0, "row": 0}  # where the next iteration begins
        self._begins = StreamNotes(REMEMBERED)  # the first sample of a row, and the row

    def __iter__(self) -> Iterator[Sample]:
        skipped, first_row = self._turn["turn"], self._turn["row"]
        number = self._turn["sample"] - skipped
        self._begins.clear()
        for row, sample in enumerate(super().__iter__(), start=first_row):
            self._begins.add(number, row)
            turns = each_turn(sample)
            yield from turns[skipped:]
            number, skipped = number + len(turns), max(0, skipped - len(turns))

    def follow_worker(self, context: str | None = None) -> None:
        """Follow a worker as ``Stream.follow_worker`` does.

        Args:
            context (str | None): As there.
        """
        super().follow_worker(context)
        self._begins.follow_worker(context)

    def state_dict(self, sample: int) -> dict[str, Any]:
        """Describe where the stream stands.

        Args:
            sample (int): The number of turns that were used, which may be fewer than were given out.

        Returns:
            The state, which JSON can hold.

        Raises:
            ValueError: This process has not read so far, or does not know any more where that turn was.
        """
        if sample == self._turn["sample"]:
            return {"rows_used": super().state_dict(self._turn["row"]), **self._turn}
        note = self._begins.latest(sample, self._turn["sample"] - self._turn["turn"], self._turn["row"])
        if note is None:
            raise ValueError(f"the stream does not know where its turn {sample} was read")
        first, row = note
        return {"rows_used": super().state_dict(row), "sample": sample, "turn": sample - first, "row": row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state when the stream is iterated next.

        Args:
            state (dict[str, Any]): What ``state_dict`` returned.
        """
        super().load_state_dict(state.get("rows_used", {"name": state.get("name", "?")}))
        self._turn = {name: state[name] for name in ("sample", "turn", "row")}


def count_turns(sample: Sample) -> int:
    """Count the turns of a sample that are trained.

    Args:
        sample (Sample): The sample.

    Returns:
        The number of its questions, or of the answers in its chat.
    """
    if "turns" in sample:
        return len(sample["turns"])
    chat = sample.get("messages", [])
    return sum(turn["role"] == "assistant" for turn in chat) if chat and chat[-1]["role"] == "assistant" else 1


def each_turn(sample: Sample, context: Context = "none") -> list[Sample]:
    """Make a sample of each turn.

    Args:
        sample (Sample): The sample.
        context (Context): As for ``EachTurn``.

    Returns:
        One sample for each turn.

    Raises:
        ValueError: A turn of a chat asks nothing, which leaves no instruction.
    """
    rest = {name: value for name, value in sample.items() if name not in ("turns", "messages", "choices")}
    found: list[dict[str, Any]] = []
    if "turns" in sample:
        found = [dict(turn) for turn in sample["turns"]]
    elif "messages" in sample:
        messages = sample["messages"]
        if messages[-1]["role"] != "assistant":  # an answer that stands beside the chat, and it alone
            messages = [*messages, {"role": "assistant", "content": sample["answer"]}]
            places = [len(messages) - 1]
        else:
            places = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
        for place in places:
            answer = messages[place]["content"]
            if context == "history":
                asked: dict[str, Any] = {"messages": messages[:place], "answer": answer, **_shown_before(sample, place)}
                asked["prompt"] = next((t["content"] for t in messages[:place][::-1] if t["role"] == "user"), "")
            else:
                prompt = _instruction(sample["id"], messages, place)
                asked = {"prompt": prompt, "answer": continuation(prompt, answer), "kind": "instruction"}
            found.append(asked | {"references": [answer]})
    else:
        return [sample]
    return [{**rest, **one, "id": f"{sample['id']}/{number}"} for number, one in enumerate(found)]  # type: ignore[typeddict-item]


def _shown_before(sample: Sample, place: int) -> dict[str, Any]:
    """Leave out what later turns show. A chat without marks shows everything before its first turn."""
    contents = [turn["content"] for turn in sample["messages"]]
    whole, before = "".join(contents), "".join(contents[:place])
    found: dict[str, Any] = {}
    if sample.get("images") is not None and IMAGE_MARK in whole:
        found["images"] = sample["images"][: before.count(IMAGE_MARK)] or None
    for field, mark in (("image", IMAGE_MARK), ("video", VIDEO_MARK)):
        if sample.get(field) is not None and mark in whole and mark not in before:
            found[field] = None
    return found


def _instruction(name: str, messages: Chat, place: int) -> str:
    """Make the prompt of an answer alone: of what the user says right before it, and of the system's turn."""
    begin = max((n for n in range(place) if messages[n]["role"] == "assistant"), default=-1) + 1
    asked = [without_marks(turn["content"]).strip() for turn in messages[begin:place] if turn["role"] == "user"]
    instruction = "\n".join(filter(None, asked))
    if not instruction:
        raise ValueError(f"sample {name!r}, turn {place - 1}: empty; write its text, or remove it with its answer")
    system = messages[0]["content"] + "\n" if messages[0]["role"] == "system" else ""
    return system + INSTRUCTION_PROMPT.format(instruction=instruction)
