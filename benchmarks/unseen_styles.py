"""Does the shipped adapter name things in a style of drawing that it has never seen, and in photographs? Resumable.

python benchmarks/unseen_styles.py
python benchmarks/write_tables.py          # puts the table into docs/towers.md

It is asked about the 710 things in the styles that it was trained on, in the one that it was not, and about photographs
(``photographs.py``, which downloads 161 MB).
"""

import argparse
from pathlib import Path
from typing import Any

import tables
from photographs import fetch, photographs_of_names
from quality import digest
from torch.utils.data import Dataset
from tower_styles import UNSEEN, share

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.mixture import SEEN_STYLES
from adem_vl_hf.evaluation.predict import predict
from adem_vl_hf.evaluation.score import score
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting

TESTED = 300  # samples in each style, half of each kind
PHOTOGRAPHS = "photographs"
PICTURES = (*SEEN_STYLES, UNSEEN, PHOTOGRAPHS)
IMAGES = ("true", "shuffled")
FILE = "unseen_styles"


def answers(model: Any, processor: Any, data: Dataset, images: str, output: Path) -> dict[str, Any]:
    """Let the adapter answer.

    Args:
        model (Any): the model with the adapter.
        processor (Any): its processor.
        data (Dataset): the test samples.
        images (str): ``"true"``, or ``"shuffled"`` for those of other samples.
        output (Path): the file of predictions.

    Returns:
        The shares of right answers by what is asked, and the numbers of samples.
    """
    result = score("openmoji-names", predict(model, processor, data, output=output, batch_size=20, images=images))  # type: ignore[arg-type]
    found = {kind: share(values["accuracy"], values["n"]) for kind, values in result["questions"].items()}
    if "caption" in result:
        found["caption"] = share(result["caption"]["exact_match"], result["caption"]["n"])
    return found


def cell(own: dict[str, Any], other: dict[str, Any]) -> str:
    """Write right answers in per cent, with the own image / with another.

    Args:
        own (dict[str, Any]): the share with the own image, as ``share`` makes it.
        other (dict[str, Any]): the share with another image.

    Returns:
        The text.
    """
    return " / ".join(f"{100 * found['share']:.1f}" for found in (own, other))


def table(saved: dict[str, Any]) -> str:
    """A row for each kind of picture.

    Args:
        saved (dict[str, Any]): the content of the result file.

    Returns:
        The table. Cells are right answers in per cent, with the own image / with another.
    """
    rows = []
    for name in PICTURES:
        own, other = (saved["answers"][f"{name}, {images}"] for images in IMAGES)
        cells = [cell(own[kind], other[kind]) if kind in own else "" for kind in ("choice", "caption")]
        number = max(found["n"] for found in own.values())
        rows.append([name if name in SEEN_STYLES else f"{name}, never seen", str(number), *cells])
    return tables.markdown(["pictures", "n", "one of four names, %", "the name, exactly, %"], rows)


def sections() -> dict[str, str]:
    """The table of docs/towers.md.

    Returns:
        The text by the name of the section.
    """
    saved = tables.load(FILE)
    whole = saved is not None and len(saved["answers"]) == len(PICTURES) * len(IMAGES)
    return {"unseen styles": table(saved) if saved is not None and whole else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/unseen"), help="where predictions are written")
    parser.add_argument("--photographs", type=Path, default=Path("runs/photographs"), help="where the package is kept")
    args = parser.parse_args()
    keep_freed_memory()
    photographs = photographs_of_names(fetch(args.photographs))
    data = {style: OpenMojiNames("test", size=TESTED, styles=[style]) for style in (*SEEN_STYLES, UNSEEN)}
    model, processor = load_checkpoint(**fastest_setting())
    saved = tables.load(FILE) or {}
    if saved.get("adapter") != (adapter := digest(model)):  # answers of another one
        saved = {"adapter": adapter, "answers": {}}
    for name, samples in {**data, PHOTOGRAPHS: photographs}.items():
        for images in IMAGES:
            if (part := f"{name}, {images}") not in saved["answers"]:
                output = args.output_dir / adapter / f"{name}-{images}.jsonl"
                saved["answers"][part] = answers(model, processor, samples, images, output)
                tables.save(FILE, saved)
    print(sections()["unseen styles"])


if __name__ == "__main__":
    main()
