"""Names the papers behind the models of this package."""

from typing import NamedTuple


class Paper(NamedTuple):
    """Describes the paper behind one kind of model.

    Args:
        name (str): The name of the method.
        subject (str): The method in a few words.
        number (str): The arXiv number.
        citation (str): The citation in Markdown.
    """

    name: str
    subject: str
    number: str
    citation: str


# kind of model -> its paper
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
