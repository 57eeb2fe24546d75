"""How far scores of captions without Java are from those with COCO's own tokenizer (which runs Java; it must be there).

    python benchmarks/tokenizers_of_captions.py [--captions dataset_coco.json]

Every picture's first caption is scored against its others, on the words that each tokenizer finds; the result goes to
benchmarks/results/tokenizers.json and from there to docs/evaluation.md. Without ``--captions`` they are those of
benchmarks/captions.json: in the manner of COCO's, but with far more contractions, hyphens, quotes, brackets and
abbreviations than those.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import tables

from adem_vl_hf.evaluation.metrics import caption_metrics, tokenizer


def compare(groups: list[list[str]]) -> dict[str, Any]:
    """Scores by tokenizer, and for those without Java the share of captions with exactly the words of COCO's."""
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
    """A row for each tokenizer; scores times 100, as papers print them."""
    labels = {"ptb": "PTBTokenizer (Java)", "treebank": "NLTK's Treebank", "simple": "plain words"}
    lines = [
        f"| {result['captions']} captions of {result['source']} | same words, % | BLEU-4 | CIDEr |",
        "|---|---|---|---|",
    ]
    for name, label in labels.items():
        part = result[name]
        lines.append(f"| {label} | " + " | ".join(f"{100 * value:.1f}" for value in part.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, help="COCO's dataset_coco.json: its test pictures are taken")
    args = parser.parse_args()
    if args.captions is None:
        groups = json.loads((Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))
    else:
        images = json.loads(args.captions.read_text(encoding="utf-8"))["images"]
        groups = [[part["raw"] for part in one["sentences"]] for one in images if one["split"] == "test"]
    result = {"source": "captions.json" if args.captions is None else args.captions.name, **compare(groups)}
    tables.save("tokenizers", result)
    tables.write_readme({"tokenizers table": table(result)}, tables.ROOT / "docs" / "evaluation.md")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
