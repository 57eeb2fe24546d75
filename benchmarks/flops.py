"""FLOPs of one decoder layer with images, forward only, by the formulas of EVLM (arXiv 2407.14177, Eqs. 1 and 2).

A multiplication and an addition are two operations. Norms, activations, the softmax and position embeddings are left
out, as in the paper.
"""


def full_attention_flops(batch: int, image_tokens: int, text_tokens: int, width: int) -> int:
    """Eq. 1: a layer over images and text in one sequence, with a feed-forward part four times as wide.

    Args:
        batch (int): rows.
        image_tokens (int): tokens of the images of a row.
        text_tokens (int): tokens of the text of a row.
        width (int): h, the width of the language model.

    Returns:
        The operations of one forward pass.
    """
    length = image_tokens + text_tokens
    return 24 * batch * length * width**2 + 4 * batch * length**2 * width


def cross_attention_flops(
    batch: int,
    image_tokens: int,
    text_tokens: int,
    width: int,
    vision_width: int,
    attention_ratio: float = 0.2,
    ffn_ratio: float = 0.5,
    media_tokens: int = 16,
) -> float:
    """Eq. 2: the layer over the text and its media tokens, and a gated cross-attention layer to the image tokens.

    Args:
        batch (int): rows.
        image_tokens (int): tokens of the images of a row.
        text_tokens (int): tokens of the text of a row.
        width (int): h, the width of the language model.
        vision_width (int): d_img, the width of the vision tower.
        attention_ratio (float): r_c, the width of the cross-attention over h.
        ffn_ratio (float): r_f, the width of its feed-forward part over h.
        media_tokens (int): learned tokens in place of the images.

    Returns:
        The operations of one forward pass.
    """
    length = media_tokens + text_tokens
    layer = 4 * (6 + attention_ratio + ffn_ratio) * batch * length * width**2 + 4 * batch * length**2 * width
    keys_and_values = 4 * attention_ratio * batch * image_tokens * vision_width * width
    return layer + keys_and_values + 4 * attention_ratio * batch * length * image_tokens * width
