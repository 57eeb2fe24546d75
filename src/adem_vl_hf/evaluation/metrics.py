"""Scores captions (exact match, BLEU-4, CIDEr) and answers (accuracy beside its chance level).

BLEU-4 (Papineni et al. 2002) and CIDEr-D (arXiv 1411.5726) are computed by ``pycocoevalcap``, the COCO caption code,
from the words that a tokenizer finds. Official COCO numbers use the tokenizer "ptb", which runs Java. Values that
another tokenizer gives may be compared with one another, but differ from published ones in the last digit.

CIDEr weighs a word by the number of samples with that word in their references, so it needs the whole test set at once.

In reading order: the scores, then the tokenizers.
"""

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

TokenizerName = Literal["ptb", "treebank", "simple"]

WORD = re.compile(r"\w+(?:['’-]\w+)*")

# The tokens that pycocoevalcap removes. Its list has brackets as "-LRB-", but at that point words are in lower case, so
# "-lrb-" stays and counts as a word in every published number.
PUNCTUATION = {*"'`.?!,:-;", "''", "``", "--", "..."}

SENTENCE_END = re.compile(r"(?<=\w{3})(?<!\bmrs)\.(?=\s)")  # inside a caption; NLTK looks only at its end

REMEDY = "pip install 'adem-vl-hf[evaluation]'"


def normalise(text: str) -> str:
    """Bring an answer into the form in which answers are compared.

    Args:
        text (str): The answer.

    Returns:
        The answer in lower case, with single spaces and without punctuation at its end.
    """
    return " ".join(text.lower().split()).rstrip(" .,;:!?")


def is_right(prediction: str, references: Sequence[str]) -> bool:
    """Tell whether a prediction equals one of its references after ``normalise``.

    Args:
        prediction (str): The answer of the model.
        references (Sequence[str]): The true answers.

    Returns:
        Whether it is right.
    """
    return normalise(prediction) in {normalise(reference) for reference in references}


def caption_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], words: TokenizerName = "simple"
) -> dict[str, float]:
    """Score one caption per sample against the true captions of that sample.

    Args:
        predictions (Sequence[str]): The caption of each sample.
        references (Sequence[Sequence[str]]): The true captions of each sample.
        words (TokenizerName): The tokenizer that finds the words for BLEU-4 and CIDEr.

    Returns:
        ``exact_match`` (0 ... 1) is the share of predictions that equal a reference after ``normalise``. ``bleu4`` (0
        ... 1) is corpus BLEU-4. ``cider`` (0 ... 10, papers print it times 100) is the mean of CIDEr-D. It is 0 for a
        single sample by definition, because a word in the references of all samples weighs nothing.

    Raises:
        ValueError: There are no predictions, the number of reference lists differs, or a sample has no reference with
            words in it.
        ImportError: ``pycocoevalcap`` or the package of the tokenizer is not installed.
    """
    _check_lengths(predictions, references, "lists of references")
    tokenize = tokenizer(words)
    split = iter(tokenize([*predictions, *(reference for group in references for reference in group)]))
    guesses = [[next(split)] for _ in predictions]
    truths = [[next(split) for _ in group] for group in references]
    for index, group in enumerate(truths):
        if not group or not all(group):
            raise ValueError(
                f"references of prediction {index} ({list(references[index])!r}) hold no words; "
                "give every sample at least one true caption and no empty one"
            )
    bleu_scorer, cider_scorer = _scorers()
    bleu, _ = bleu_scorer.compute_score(dict(enumerate(truths)), dict(enumerate(guesses)), verbose=0)
    cider, _ = cider_scorer.compute_score(dict(enumerate(truths)), dict(enumerate(guesses)))
    exact = [is_right(prediction, group) for prediction, group in zip(predictions, references, strict=True)]
    return {"exact_match": sum(exact) / len(exact), "bleu4": float(bleu[3]), "cider": float(cider)}


def question_accuracy(
    predictions: Sequence[str], samples: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | int]]:
    """Score answers by kind of question, beside the accuracy that is possible without the images.

    An answer is right if it equals a reference after ``normalise``.

    Args:
        predictions (Sequence[str]): The answer to each sample.
        samples (Sequence[Mapping[str, Any]]): Samples of a data set or rows of a prediction file: mappings with
            ``kind``, ``references`` and, for choice questions, ``choices``.

    Returns:
        ``accuracy`` (0 ... 1), ``chance`` (0 ... 1) and ``n`` by kind, in order of appearance. ``chance`` is the
        accuracy of always giving the answer that is right most often in these samples. If every sample has choices, it
        is that or the accuracy of guessing one of them, whichever is higher.

    Raises:
        ValueError: There are no predictions, the number of samples differs, or a sample has no references.
    """
    _check_lengths(predictions, samples, "samples")
    by_kind: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for prediction, sample in zip(predictions, samples, strict=True):
        if not sample["references"]:
            raise ValueError(f"sample {sample.get('id')!r} has no references; give it at least one true answer")
        by_kind[sample["kind"]].append((prediction, sample))
    return {
        kind: {
            "accuracy": sum(is_right(guess, sample["references"]) for guess, sample in pairs) / len(pairs),
            "chance": _chance([sample for _, sample in pairs]),
            "n": len(pairs),
        }
        for kind, pairs in by_kind.items()
    }


def _chance(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the accuracy that is possible without the images, see ``question_accuracy``."""
    counts = Counter(answer for sample in samples for answer in {normalise(text) for text in sample["references"]})
    majority = max(counts.values()) / len(samples)
    if not all(sample.get("choices") for sample in samples):
        return majority
    return max(majority, sum(1 / len(sample["choices"]) for sample in samples) / len(samples))


def _check_lengths(predictions: Sequence[str], others: Sequence[Any], what: str) -> None:
    """Raise ValueError if there are no predictions or another number of ``others``."""
    if len(predictions) != len(others):
        raise ValueError(f"{len(predictions)} predictions and {len(others)} {what}: give one for each prediction")
    if not predictions:
        raise ValueError("no predictions to score; give at least one")


def _scorers() -> tuple[Any, Any]:
    """Load the BLEU and CIDEr scorers of ``pycocoevalcap``."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ImportError(f"caption metrics need 'pycocoevalcap': {REMEDY}") from error
    return Bleu(4), Cider()


def tokenizer(name: TokenizerName) -> Callable[[Sequence[str]], list[str]]:
    """Return a tokenizer by its name.

    Args:
        name (TokenizerName): The name. ``best_tokenizer`` tells which is closest to published numbers on this machine.

    Returns:
        ``ptb``, ``treebank`` or ``simple``.
    """
    return {"ptb": ptb, "treebank": treebank, "simple": simple}[name]


def best_tokenizer() -> TokenizerName:
    """Name the tokenizer that is closest to published COCO numbers on this machine.

    Returns:
        "ptb" if Java is installed, otherwise "treebank".
    """
    return "ptb" if shutil.which("java") else "treebank"


def simple(texts: Sequence[str]) -> list[str]:
    """Split texts into runs of letters and digits, which may have apostrophes and hyphens inside.

    Args:
        texts (Sequence[str]): The texts.

    Returns:
        The words of each text in lower case, joined by spaces.
    """
    return [" ".join(WORD.findall(text.lower())) for text in texts]


def treebank(texts: Sequence[str]) -> list[str]:
    """Split texts with NLTK's Penn Treebank tokenizer, which is close to ``ptb`` and needs no Java.

    Args:
        texts (Sequence[str]): The texts.

    Returns:
        The words of each text in lower case, joined by spaces, without the punctuation that COCO removes.

    Raises:
        ImportError: ``nltk`` is not installed.
    """
    try:
        from nltk.tokenize.treebank import TreebankWordTokenizer
    except ImportError as error:
        raise ImportError(f"COCO captions without Java need 'nltk': {REMEDY}") from error
    split = TreebankWordTokenizer().tokenize
    found = (split(SENTENCE_END.sub(" .", text.lower()), convert_parentheses=True) for text in texts)
    return [" ".join(word.lower() for word in words if word not in PUNCTUATION) for words in found]


def ptb(texts: Sequence[str]) -> list[str]:
    """Split texts with the Stanford tokenizer of COCO's evaluation, on which published numbers are based.

    Args:
        texts (Sequence[str]): The texts.

    Returns:
        The words of each text in lower case, joined by spaces, without the punctuation that COCO removes.

    Raises:
        ImportError: ``pycocoevalcap`` is not installed.
        ValueError: Java is not installed.
    """
    if not shutil.which("java"):
        raise ValueError("the tokenizer 'ptb' runs Java, which is not installed; install a JRE or use 'treebank'")
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise ImportError(f"the tokenizer 'ptb' needs 'pycocoevalcap': {REMEDY}") from error
    # Each text must be one line: a character that Java takes for a line end would shift all texts after it.
    rows = {number: [{"caption": " ".join(text.split())}] for number, text in enumerate(texts)}
    words = PTBTokenizer().tokenize(rows)
    return [words[number][0] for number in rows]
