"""How captions become words for BLEU and CIDEr: by COCO's own Java program, by NLTK, or simply.

Every function takes N texts and gives N texts of words between single spaces.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from typing import Literal

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
