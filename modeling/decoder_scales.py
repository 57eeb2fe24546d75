"""What a language model multiplies by at its two ends: its input embeddings, and the logits of its head."""

from torch import nn

# fields of a configuration by which a family changes its logits behind the head: Gemma caps, the others scale them
OF_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
SQUARE_ROOT = ("gemma", "gemma2")  # before Transformers 5; since then, the embedding itself does


def decoder_input_scale(language_model: nn.Module) -> float:
    """Find what the decoder multiplies its input embeddings by.

    Granite does so itself, and so did Gemma 1 and 2 before Transformers 5.

    Args:
        language_model (nn.Module): a causal LM.

    Raises:
        ValueError: it multiplies the embeddings of token ids and not those that it is given.
    """
    config = language_model.config
    factor = getattr(config, "embedding_multiplier", None) or 1.0
    if config.model_type == "falcon_h1" and factor != 1:
        raise ValueError(
            f"{type(language_model).__name__} multiplies the embeddings of its text by {factor:g} and those that it is "
            "given by 1, so images can have no place in its text; use media_tokens=0"
        )
    if config.model_type in SQUARE_ROOT and not hasattr(language_model.get_input_embeddings(), "embed_scale"):
        return config.hidden_size**0.5
    return factor
