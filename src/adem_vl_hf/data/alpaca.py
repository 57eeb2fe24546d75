"""Text-only instructions in Alpaca's JSON format (``alpaca_data.json``).

The file is a list (or JSON Lines) of ``{"instruction": "...", "input": "..." or "", "output": "..."}``.

ADEM-VL (arXiv 2410.17779, instruction tuning; data preparation from LaVIN) mixes its 52,000 rows with LLaVA's
instructions, each row once. They have no picture: the sequence begins with the processor's text for that, and the
fused term is that of the learned slots alone.
"""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..files import read_entries
from .conversations import INSTRUCTION_PROMPT
from .sample import Sample, continuation


class Alpaca(Dataset[Sample]):
    """Every row as a sample of kind "instruction" without a picture; its id is ``alpaca/row``, rows counted from 0.

    A row with an empty ``output`` (the published file has some) would train nothing and is passed over; ``skipped``
    counts them.

    Args:
        path: The JSON or JSON Lines file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A row that is not as above, or no row at all; the message names the file and the row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._rows: list[tuple[int, str, str]] = []  # place, instruction with its input, output
        self.skipped = 0
        for place, entry in enumerate(read_entries(Path(path), "Alpaca-style rows")):
            where = f"{path}, row {place}"
            instruction, context, output = (_text(entry, key, where) for key in ("instruction", "input", "output"))
            if not instruction:
                raise ValueError(f'{where}: "instruction" is empty; write what is asked, or remove the row')
            if output:
                self._rows.append((place, f"{instruction} {context}".strip(), output))
            else:
                self.skipped += 1
        if not self._rows:
            raise ValueError(f'{path}: no row with an output; give a list of {{"instruction", "input", "output"}}')

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        place, instruction, output = self._rows[index]
        prompt = INSTRUCTION_PROMPT.format(instruction=instruction)
        return Sample(
            id=f"alpaca/{place}",
            image=None,
            prompt=prompt,
            answer=continuation(prompt, output),
            references=[output],
            kind="instruction",
        )


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key, "" if key == "input" else None)
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{key}" is {value!r}; every row needs a text there')
    return value.strip()
