"""The methods of this package, by the name of their kind of model, and the papers they are from."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A method's name, what it is in a few words, its arXiv number, and how the paper is cited."""

    name: str
    subject: str
    number: str
    citation: str


PAPERS = {
    "adem_vl": Paper(
        "ADEM-VL",
        "adaptive and embedded fusion for efficient vision-language tuning",
        "2410.17779",
        "Hao et al., *ADEM-VL: Adaptive and Embedded Fusion for Efficient Vision-Language Tuning*, 2024",
    ),
    "evlm": Paper(
        "EVLM",
        "an efficient vision-language model for visual understanding",
        "2407.14177",
        "Chen et al., *EVLM: An Efficient Vision-Language Model for Visual Understanding*, 2024",
    ),
}
