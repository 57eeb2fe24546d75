"""How many captions of scenes have the right colour, a right thing, all right things, right numbers, everything right.

python benchmarks/caption_parts.py runs/quality/*/openmoji-scenes-true.jsonl
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

CAPTION = re.compile(r"(?P<body>.*) on (?P<colour>\w+)")
BETWEEN = re.compile(r" (?:left of|right of|above|below) ")
PARTS = ("colour", "a thing", "all things", "numbers", "everything")


def parse(caption: str) -> dict | None:
    """Take a caption of a scene apart.

    Args:
        caption (str): the caption.

    Returns:
        Its ``colour``, ``things`` (sorted, without a final s) and ``numbers`` (sorted); None if it has another form.
    """
    found = CAPTION.fullmatch(caption)
    if found is None:
        return None
    phrases = [phrase.partition(" ") for phrase in BETWEEN.split(found["body"])]
    return {
        "colour": found["colour"],
        "things": sorted(thing.rstrip("s") for _, _, thing in phrases),
        "numbers": sorted("a" if number == "an" else number for number, _, _ in phrases),
    }


def right_parts(prediction: str, references: list[str]) -> set[str]:
    """Compare a caption with the truth, part by part.

    Args:
        prediction (str): the caption.
        references (list[str]): all true captions.

    Returns:
        The names, out of ``PARTS``, of the parts that are right.
    """
    said, true = parse(prediction), parse(references[0])
    if said is None or true is None:
        return set()
    checks = (
        said["colour"] == true["colour"],
        bool(set(said["things"]) & set(true["things"])),
        said["things"] == true["things"],
        said["numbers"] == true["numbers"],
        prediction in references,
    )
    return {part for part, right in zip(PARTS, checks, strict=True) if right}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="a file of predictions about scenes")
    rows = [json.loads(line) for line in parser.parse_args().predictions.read_text(encoding="utf-8").splitlines()]
    captions = [row for row in rows if row["kind"] == "caption"]
    counts = Counter(part for row in captions for part in right_parts(row["prediction"], row["references"]))
    print("\n".join(f"{part}: {counts[part]} of {len(captions)}" for part in PARTS))


if __name__ == "__main__":
    main()
