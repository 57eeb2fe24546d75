"""Inputs that were damaged at random, and the classes of what a reader makes of each: the base of ``tests/fuzz``.

A reader may take an input, or refuse it by a ValueError or an OSError that names the file or the field. Everything else
is unclear. ``FUZZ_EXAMPLES`` multiplies the number of inputs, and ``FUZZ_SEED`` chooses others.
"""

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SECONDS = 20  # a reader that takes longer hangs
OUTCOMES: dict[str, "Outcomes"] = {}  # of every class of inputs in this run, for the table at its end

# in the place of any value of a JSON file
BAD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**400, -(10**9), 5_000_000, 0.0, -0.5, 1.5, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "8", "0.1", "None", "\ud83d", "\0", "../../etc/passwd",
    "\x1b[2J", "é" * 300, [], [None], [1, "x"], [-1], [[1]], ["x"], {}, {"x": 1}, {"a": {"b": [None]}},
]  # fmt: skip


class Outcomes:
    """Counts what a reader made of the inputs of one class."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unclear: list[str] = []
        self.slowest = 0.0

    def run(self, read: Callable[[], Any], culprits: Iterable[Any], about: str = "") -> None:
        """Read one damaged input and count the outcome.

        Args:
            read: Reads it.
            culprits: Names of which an error has to have one: the file, or the field.
            about: Describes the damage, for the list of unclear errors.
        """
        start = time.perf_counter()
        try:
            with time_limit(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
            outcome = "fine"
        except TimeoutError:
            outcome = "hang"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            named = any(str(culprit) in str(error) for culprit in culprits)
            outcome = "clear" if named and isinstance(error, ValueError | OSError) else "unclear"
            about = f"{about}: {type(error).__name__}: {str(error)[:300]}"
        self.slowest = max(self.slowest, time.perf_counter() - start)
        self.counts[outcome] += 1
        if outcome in ("unclear", "hang"):
            self.unclear.append(about)


@contextmanager
def time_limit():
    """Raise a TimeoutError after ``SECONDS``."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, number: int, strategy: Any, check: Callable[[Outcomes, Any], None]) -> None:
    """Draw inputs, check each, and fail if the outcome of one is unclear.

    Args:
        name: The class of inputs, a row of the table.
        number: How many inputs are drawn, where ``FUZZ_EXAMPLES`` is not set.
        strategy: Draws an input.
        check: Counts the outcome of an input.
    """
    outcomes = OUTCOMES.setdefault(name, Outcomes())

    @seed(int(os.environ.get("FUZZ_SEED", 0)))
    @settings(
        max_examples=number * int(os.environ.get("FUZZ_EXAMPLES", 1)),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn):
        check(outcomes, drawn)

    before = len(outcomes.unclear)  # of another test of this class
    run()
    if outcomes.unclear[before:]:
        kinds = Counter(outcomes.unclear[before:])
        listed = "\n".join(f"{count} x {text}" for text, count in kinds.most_common(30))
        pytest.fail(f"{name}: {dict(outcomes.counts)}\n{listed}", pytrace=False)


@st.composite
def damaged_bytes(draw, sources: list[bytes]) -> bytes:
    """One of the files, with bytes of it changed, left out, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        # damage of the head counts more than that of the data behind it
        last = len(data) - 1
        place = draw(st.integers(0, last) | st.integers(0, min(last, 128)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "insert", "number"]))
        if kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, ord('"'), ord("}"), ord("\\")]))
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "repeat":
            size = draw(st.integers(1, 64))
            data[place:place] = data[place : place + size]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        else:
            data[place : place + 4] = draw(st.sampled_from([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"]))
    return bytes(data)


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """The ways to all values inside a JSON value, at most three of each list."""
    found = [way] if way else []
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in inner:
        found += places(one, (*way, key))
    return found


def changed(value: Any, way: tuple, new: Any) -> Any:
    """A copy of a JSON value with one value in it replaced, or left out where the new one is ``...``."""
    if not way:
        return new
    key, *rest = way
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is ...:
        del copy[key]
    else:
        copy[key] = changed(value[key], tuple(rest), new)
    return copy


JSON = st.recursive(
    st.sampled_from(BAD_VALUES) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged_json(draw, value: Any) -> tuple[Any, tuple]:
    """A JSON value with one of the values in it replaced by another or left out, and the way to it."""
    way = draw(st.sampled_from(places(value)))
    new = draw(st.sampled_from([*BAD_VALUES, ...]) | JSON)
    return changed(value, way, new), way


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def table() -> str:
    """The outcomes of this run as a Markdown table."""
    lines = ["| input | cases | taken | refused by name | unclear | hangs | slowest |", "|---|---|---|---|---|---|---|"]
    for name, one in OUTCOMES.items():
        count = one.counts
        cells = [f"{sum(count.values()):,}", *(f"{count[kind]:,}" for kind in ("fine", "clear", "unclear", "hang"))]
        lines.append(f"| {name} | {' | '.join(cells)} | {one.slowest:.1f} s |")
    return "\n".join(lines)
