"""How far caption scores without Java are from those with COCO's own tokenizer. That one needs Java.

    python benchmarks/tokenizers_of_captions.py [--captions dataset_coco.json]

The first caption of each image is scored against its others, on the words that each tokenizer finds. The result goes
to benchmarks/results/tokenizers.json and from there to docs/evaluation.md. Without ``--captions`` the script takes the
captions in benchmarks/captions.json: they resemble COCO's, but have far more contractions, hyphens, quotes, brackets
and abbreviations.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf.evaluation.metrics import caption_metrics, tokenizer


def compare(groups: list[list[str]]) -> dict[str, Any]:
    """Score captions on the words of each tokenizer.

    Args:
        groups (list[list[str]]): the captions of each image; the first is scored against the others.

    Returns:
        For each tokenizer BLEU-4, CIDEr and the share of captions in which it finds the same words as COCO's.
    """
    predictions, references = [group[0] for group in groups], [group[1:] for group in groups]
    texts = [text for group in groups for text in group]
    official = tokenizer("ptb")(texts)
    result: dict[str, Any] = {"pictures": len(groups), "captions": len(texts)}
    for name in ("ptb", "treebank", "simple"):
        scores = caption_metrics(predictions, references, name)
        same = sum(a == b for a, b in zip(official, tokenizer(name)(texts), strict=True)) / len(texts)
        result[name] = {"same_words": same, "bleu4": scores["bleu4"], "cider": scores["cider"]}
    return result


def table(result: dict[str, Any]) -> str:
    """A row for each tokenizer.

    Args:
        result (dict[str, Any]): of ``compare``, and the ``source`` of the captions.

    Returns:
        The table; scores are times 100, as papers print them.
    """
    labels = {"ptb": "PTBTokenizer (Java)", "treebank": "NLTK's Treebank", "simple": "plain words"}
    rows = [[label, *(f"{100 * value:.1f}" for value in result[name].values())] for name, label in labels.items()]
    source = f"{result['captions']} captions of {result['source']}"
    return tables.markdown([source, "same words, %", "BLEU-4", "CIDEr"], rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, help="COCO's dataset_coco.json, for its test images")
    args = parser.parse_args()
    if args.captions is None:
        groups = json.loads((Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))
    else:
        images = json.loads(args.captions.read_text(encoding="utf-8"))["images"]
        groups = [[part["raw"] for part in one["sentences"]] for one in images if one["split"] == "test"]
    result = {"source": "captions.json" if args.captions is None else args.captions.name, **compare(groups)}
    tables.save("tokenizers", result)
    tables.write_sections({"tokenizers table": table(result)}, [tables.ROOT / "docs" / "evaluation.md"])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
