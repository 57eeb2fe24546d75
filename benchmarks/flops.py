"""FLOPs of one decoder layer with images, by the formulas of EVLM (arXiv 2407.14177, Eqs. 1 and 2), forward only.

A multiply and an add are two. Norms, activations, the softmax and position embeddings are left out, as in the paper.
"""


def full_attention_flops(batch: int, image_tokens: int, text_tokens: int, width: int) -> int:
    """Eq. 1: a layer of width h (feed-forward part of 4h) over images and text in one sequence."""
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
        width: h, of the language model. vision_width: d_img. attention_ratio: r_c. ffn_ratio: r_f.
    """
    length = media_tokens + text_tokens
    layer = 4 * (6 + attention_ratio + ffn_ratio) * batch * length * width**2 + 4 * batch * length**2 * width
    keys_and_values = 4 * attention_ratio * batch * image_tokens * vision_width * width
    return layer + keys_and_values + 4 * attention_ratio * batch * length * image_tokens * width
