"""How well the frozen language model answers from the true caption, as text, instead of the image. Nothing is trained.

python benchmarks/caption_as_text.py

Eight answered samples of the same kind come first, which show the form of the answer. An answer counts as right if the
first token of a true one is the likeliest among those of all answers that the kind allows. Questions about presence
are also scored by AUC, which does not depend on a threshold between yes and no.
"""

import argparse
import random

import tables
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.scenes import DIRECTIONS, NUMBER_WORDS, ask
from adem_vl_hf.embedded.smollm2 import embedded_language_model

ANSWERS = {
    "presence": ("yes", "no"),
    "count": tuple(NUMBER_WORDS.values()),
    "relation": tuple(DIRECTIONS.values()),
}
SHOTS = 8


def told(data: OpenMojiScenes, index: int) -> tuple[str, dict]:
    """A question with the true caption in front.

    Args:
        data (OpenMojiScenes): the data set.
        index (int): the sample.

    Returns:
        The text, and the sample.
    """
    scene, _, _ = data.scene(index)
    caption = ask(scene, "caption", random.Random(index))["answer"].strip()
    sample = dict(data[index])
    return f"Image: {caption}\n{sample['prompt']}", sample


def options(sample: dict) -> tuple[str, ...]:
    """All possible answers of a question.

    Args:
        sample (dict): the sample.

    Returns:
        The answers that its kind allows, or its choices.
    """
    return ANSWERS.get(sample["kind"]) or tuple(sample["choices"])


@torch.no_grad()
def scores(model, cache, tokenizer, text: str, answers: tuple[str, ...]) -> list[float]:
    """Score answers by the logit of their first token.

    Args:
        model: the language model.
        cache: its cache after the answered samples; it is left as it was.
        tokenizer: its tokenizer.
        text (str): the question.
        answers (tuple[str, ...]): the answers.

    Returns:
        One logit for each answer.
    """
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    logits = model(ids, past_key_values=cache).logits[0, -1]
    cache.crop(-ids.shape[1])
    first = [tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][0] for answer in answers]
    return logits[first].tolist()


def auc(right: list[float], wrong: list[float]) -> float:
    """The area under the ROC curve: the share of pairs (one of each list) that the score puts in order.

    Args:
        right (list[float]): scores that should be the higher ones.
        wrong (list[float]): scores that should be the lower ones.

    Returns:
        0.5 at chance, 1 if all pairs are in order.
    """
    return sum((a > b) + 0.5 * (a == b) for a in right for b in wrong) / (len(right) * len(wrong))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="number of samples of each kind")
    args = parser.parse_args()
    folder = embedded_language_model()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = {"samples": args.samples, "shots": SHOTS}
    for kind in ("choice", *ANSWERS):
        shown = OpenMojiScenes("train", size=SHOTS, kinds=(kind,))
        shots = "".join("{}{}\n\n".format(text, s["answer"]) for text, s in (told(shown, i) for i in range(SHOTS)))
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(tokenizer(shots, return_tensors="pt")["input_ids"], past_key_values=cache)
        asked = OpenMojiScenes("test", size=args.samples, kinds=(kind,))
        right, leaning = 0, {True: [], False: []}
        for i in tqdm(range(args.samples), desc=kind):
            text, sample = told(asked, i)
            answers = options(sample)
            found = scores(model, cache, tokenizer, text, answers)
            right += answers[found.index(max(found))] in sample["references"]
            if kind == "presence":
                leaning["yes" in sample["references"]].append(found[0] - found[1])
        result[kind] = right / args.samples
        if kind == "presence":
            result["presence_auc"] = auc(leaning[True], leaning[False])
    tables.save("caption_as_text", result)
    print(result)


if __name__ == "__main__":
    main()
