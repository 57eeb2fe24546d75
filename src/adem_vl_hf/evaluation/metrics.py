"""Caption metrics (exact match, BLEU-4, CIDEr) and question accuracy beside its chance level.

BLEU-4 (Papineni et al. 2002) and CIDEr-D (arXiv 1411.5726) are computed by ``pycocoevalcap``, the COCO caption code, on
words that ``tokenizers`` finds. Official COCO numbers run the Java PTBTokenizer first ("ptb"); with the others values
compare among themselves and not, in the last digit, with published ones.
CIDEr weighs words by how many of the given samples' references hold them: it needs the whole test set at once.
"""

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Name = Literal["ptb", "treebank", "simple"]

WORD = re.compile(r"\w+(?:['’-]\w+)*")

# What pycocoevalcap removes after tokenising. Its list has brackets as "-LRB-", but by then words are in lower case:
# "-lrb-" stays, and counts as a word in every published number.
PUNCTUATION = {*"'`.?!,:-;", "''", "``", "--", "..."}

SENTENCE_END = re.compile(r"(?<=\w{3})(?<!\bmrs)\.(?=\s)")  # inside a caption; NLTK looks at the last one only

REMEDY = "pip install 'adem-vl-hf[evaluation]'"


def tokenizer(name: Name) -> Callable[[Sequence[str]], list[str]]:
    """By name; ``available`` says which is closest to published numbers on this machine."""
    return {"ptb": ptb, "treebank": treebank, "simple": simple}[name]


def available() -> Name:
    """ "ptb" where Java is installed, else "treebank"."""
    return "ptb" if shutil.which("java") else "treebank"


def simple(texts: Sequence[str]) -> list[str]:
    """Lower-case runs of letters and digits, with apostrophes and hyphens inside."""
    return [" ".join(WORD.findall(text.lower())) for text in texts]


def treebank(texts: Sequence[str]) -> list[str]:
    """NLTK's Penn Treebank tokenizer, lower case, with COCO's punctuation removed. Close to ``ptb``, without Java.

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
    """The Stanford tokenizer of COCO's evaluation, as ``pycocoevalcap`` runs it: published numbers use it.

    Raises:
        ImportError: ``pycocoevalcap`` is not installed.
        ValueError: there is no Java.
    """
    if not shutil.which("java"):
        raise ValueError("the tokenizer 'ptb' runs Java, which is not installed; install a JRE or use 'treebank'")
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise ImportError(f"the tokenizer 'ptb' needs 'pycocoevalcap': {REMEDY}") from error
    # one line a text: whatever Java takes for the end of a line would shift all that follow
    rows = {number: [{"caption": " ".join(text.split())}] for number, text in enumerate(texts)}
    words = PTBTokenizer().tokenize(rows)
    return [words[number][0] for number in rows]


def normalise(text: str) -> str:
    """What answers are compared by: lower case, single spaces, no punctuation at the end."""
    return " ".join(text.lower().split()).rstrip(" .,;:!?")


def caption_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], words: Name = "simple"
) -> dict[str, float]:
    """Scores of one caption per sample against that sample's true captions.

    Args:
        words: what finds the words, see ``tokenizers``.

    Returns:
        ``exact_match``: share (0 ... 1) of predictions equal to one of their references after ``normalise``;
        ``bleu4``: corpus BLEU-4 (0 ... 1); ``cider``: mean CIDEr-D (0 ... 10; papers print it times 100). CIDEr of a
        single sample is 0 by construction: a word that is in every sample's references weighs nothing.

    Raises:
        ValueError: no predictions, another number of reference lists, or a sample without a reference that has words.
        ImportError: ``pycocoevalcap``, or what finds the words, is not installed.
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
    """Accuracy of answers by kind of question, and what could be had without looking.

    Args:
        predictions: one answer per sample.
        samples: anything with ``kind``, ``references`` and, for choice questions, ``choices``: samples of a data set or
            rows of a prediction file.

    Returns:
        ``{kind: {"accuracy", "chance", "n"}}``, kinds in order of appearance. An answer is right if it equals a
        reference after ``normalise``. ``chance`` is the accuracy of always giving the one answer that is right most
        often in these samples; where every sample has choices, that or of guessing one of them, whichever is higher.

    Raises:
        ValueError: no predictions, another number of samples, or a sample without references.
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


def is_right(prediction: str, references: Sequence[str]) -> bool:
    """Whether the prediction equals one of the references after ``normalise``."""
    return normalise(prediction) in {normalise(reference) for reference in references}


def _chance(samples: Sequence[Mapping[str, Any]]) -> float:
    counts = Counter(answer for sample in samples for answer in {normalise(text) for text in sample["references"]})
    majority = max(counts.values()) / len(samples)
    if not all(sample.get("choices") for sample in samples):
        return majority
    return max(majority, sum(1 / len(sample["choices"]) for sample in samples) / len(samples))


def _check_lengths(predictions: Sequence[str], others: Sequence[Any], what: str) -> None:
    if len(predictions) != len(others):
        raise ValueError(f"{len(predictions)} predictions and {len(others)} {what}: give one for each prediction")
    if not predictions:
        raise ValueError("no predictions to score; give at least one")


def _scorers() -> tuple[Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ImportError("caption metrics need 'pycocoevalcap': pip install 'adem-vl-hf[demo]'") from error
    return Bleu(4), Cider()
