"""Configuration of EVLM (arXiv 2407.14177): gated cross-attention to hierarchical features of a frozen tower.

The paper leaves much open and has no public code. What it states is marked [paper] below; the rest is a choice of this
package, with its reason in ``docs/evlm.md``.

Notation of the EVLM files: B batch, T text positions, I images, n images a row (at most), L cross-attention layers,
k levels, S visual slots, D width of the language model, C width of the tower, W width of the cross-attention.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from .configuration_base import FrozenBasesConfig, PreTrainedConfig
from .field_values import Range
from .lora_fields import complete_lora

if TYPE_CHECKING:  # never run: 4.57 finds the files that a configuration needs by these lines
    from .arguments import library_fields  # noqa: F401
    from .one_save import finish_save  # noqa: F401
    from .reading import errors_naming  # noqa: F401
    from .towers import find_tower  # noqa: F401

MASK_MODES = ("previous_image", "all_frames")
LEVEL_FUSIONS = ("route", "concatenate")


class EvlmConfig(FrozenBasesConfig):
    """Everything that defines an EVLM model; validated when constructed. The defaults are the paper's where it has any.

    Args:
        text_config (dict | PreTrainedConfig | None): configuration of the language model; default Llama 7B.
        vision_config (dict | PreTrainedConfig | None): configuration of the vision tower; default CLIP ViT-L/14.
        cross_attention_interval (int): a cross-attention layer stands before every n-th decoder layer [paper: 1].
        vision_feature_layer (list[int] | int | None): the levels, as indices into the tower's hidden states, ascending.
            Default: 8 [paper] sampled uniformly from the last five eighths of the blocks [paper: 40 of 64] up to the
            last; fewer where the tower is shallower. One index = one level.
        level_fusion (str): ``"route"`` sends level i to the i-th group of cross-attention layers [paper];
            ``"concatenate"`` gives every layer all levels, side by side.
        level_map (list[int] | None): which level each cross-attention layer reads. Default: groups of consecutive
            layers, ascending.
        media_tokens (int): learned input embeddings per image [paper: 16]. 0 = the image token's own embedding stands
            there.
        mask_mode (str): what text sees: ``"previous_image"``, the image immediately before it, or ``"all_frames"``,
            every image of the row [paper: images the former, videos the latter; rows that are videos always see all
            frames]. Media tokens see their own image. Text before the first image sees none.
        zero_vectors (int): all-zero visual slots that every position may attend to [paper: a set].
        cross_attention_ratio (float): r_c, W / D [paper: 0.2]; W is rounded to a multiple of the head size.
        cross_attention_head_dim (int | None): default the language model's, at most 64.
        ffn_ratio (float): r_f, width of the feed-forward part / D [paper: 0.5].
        moe_replicas (int): copies n of the feed-forward part that experts are made of, beside one that is always on
            [paper: 4]. 0 = dense.
        moe_slices (int): slices m, the experts that each copy is cut into [paper: 4].
        moe_top_k (int): how many of the n * m experts each position uses [paper: 4].
        router_aux_loss_coef (float): weight of the load-balancing loss.
        train_vision_blocks (int): how many of the tower's last blocks train, and are saved with the adapter [paper:
            half of them, then a quarter].
        lora (dict[str, Any] | None): LoRA in the language model, trained and saved with the adapter, as fields of
            ``peft.LoraConfig`` (``r``, ``lora_alpha``, ``target_modules``, ``lora_dropout``, ...). Needs PEFT. Default
            None, no LoRA.
        **kwargs (Any): the fields that say where the bases come from, see ``FrozenBasesConfig`` (each frame embedding
            is of width C), and those that Transformers has in every configuration.

    Raises:
        TypeError: a name that is no field, with the nearest field.
        ValueError: a field with an impossible value, with the possible ones.
    """

    model_type = "evlm"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "image_outputs", "router_logits", "router_load"]
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **FrozenBasesConfig.choices,
        "level_fusion": LEVEL_FUSIONS,
        "mask_mode": MASK_MODES,
    }
    ranges: ClassVar[dict[str, Range]] = {
        **FrozenBasesConfig.ranges,
        "cross_attention_interval": (1, 512),
        "vision_feature_layer": (-512, 512),
        "level_map": (0, 512),
        "media_tokens": (0, 2**16),
        "zero_vectors": (0, 2**16),
        "cross_attention_ratio": (0, 1024),
        "cross_attention_head_dim": (1, 2**16),
        "ffn_ratio": (0, 1024),
        "moe_replicas": (0, 64),
        "moe_slices": (1, 64),
        "moe_top_k": (1, 4096),
        "router_aux_loss_coef": (0, 1e4),
        "train_vision_blocks": (0, 512),
    }
    outside_adapter: ClassVar[tuple[str, ...]] = (*FrozenBasesConfig.outside_adapter, "router_aux_loss_coef")

    def __init__(
        self,
        text_config: dict | PreTrainedConfig | None = None,
        vision_config: dict | PreTrainedConfig | None = None,
        cross_attention_interval: int = 1,
        vision_feature_layer: list[int] | int | None = None,
        level_fusion: str = "route",
        level_map: list[int] | None = None,
        media_tokens: int = 16,
        mask_mode: str = "previous_image",
        zero_vectors: int = 1,
        cross_attention_ratio: float = 0.2,
        cross_attention_head_dim: int | None = None,
        ffn_ratio: float = 0.5,
        moe_replicas: int = 0,
        moe_slices: int = 4,
        moe_top_k: int = 4,
        router_aux_loss_coef: float = 0.01,
        train_vision_blocks: int = 0,
        lora: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._check_values(locals())
        self.cross_attention_interval = cross_attention_interval
        self.level_fusion = level_fusion
        self.media_tokens = media_tokens
        self.mask_mode = mask_mode
        self.zero_vectors = zero_vectors
        self.cross_attention_ratio = cross_attention_ratio
        self.ffn_ratio = ffn_ratio
        self.moe_replicas = moe_replicas
        self.moe_slices = moe_slices
        self.moe_top_k = moe_top_k
        self.router_aux_loss_coef = router_aux_loss_coef
        self.train_vision_blocks = train_vision_blocks
        self.lora = complete_lora(lora)
        super().__init__(text_config, vision_config, **kwargs)
        self.cross_attention_head_dim = cross_attention_head_dim or min(64, _head_dim(self.text_config))
        self.check_numbers()
        self.vision_feature_layer = self._levels(vision_feature_layer)
        self.level_map = self._default_map() if level_map is None else list(level_map)
        self._check_levels()

    @property
    def num_cross_attention_layers(self) -> int:
        """L: one before the decoder layers 0, n, 2n, ..."""
        return -(-self.text_config.num_hidden_layers // self.cross_attention_interval)

    @property
    def cross_attention_dim(self) -> int:
        """W, of all heads together."""
        head = self.cross_attention_head_dim
        return max(1, round(self.cross_attention_ratio * self.text_config.hidden_size / head)) * head

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward part, a multiple of the number of slices."""
        parts = self.moe_slices if self.moe_replicas else 1
        return max(1, round(self.ffn_ratio * self.text_config.hidden_size / parts)) * parts

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer; 0 = dense."""
        return self.moe_replicas * self.moe_slices

    @property
    def visual_width(self) -> int:
        """Width of what one cross-attention layer reads."""
        levels = len(self.vision_feature_layer) if self.level_fusion == "concatenate" else 1
        return levels * self.vision_config.hidden_size

    @property
    def image_tokens(self) -> int:
        """How many tokens of the text one image takes: its media tokens, or one as its mark."""
        return max(1, self.media_tokens)

    def _levels(self, given) -> list[int]:
        blocks = self.vision_config.num_hidden_layers
        if given is None:
            span = max(1, round(blocks * 5 / 8))
            number = min(8, span, self.num_cross_attention_layers)
            return [round(blocks - span * (number - 1 - i) / number) for i in range(number)]
        given = [given] if isinstance(given, int) else list(given)
        levels = [self.tower_depth(layer) for layer in given]
        if not levels or any(not 1 <= level <= blocks for level in levels):
            raise ValueError(
                f"vision_feature_layer={given} goes beyond the tower's {blocks} blocks; name hidden states from 1 to "
                f"{blocks}, or -{blocks} to -1"
            )
        if levels != sorted(set(levels)):
            raise ValueError(f"vision_feature_layer={given} is not in ascending order, or names a level twice")
        return levels

    def _default_map(self) -> list[int]:
        layers, levels = self.num_cross_attention_layers, len(self.vision_feature_layer)
        return [0] * layers if self.level_fusion == "concatenate" else [i * levels // layers for i in range(layers)]

    def _check_levels(self):
        layers, levels = self.num_cross_attention_layers, len(self.vision_feature_layer)
        most = 1 if self.level_fusion == "concatenate" else levels
        if len(self.level_map) != layers or not all(0 <= level < most for level in self.level_map):
            raise ValueError(
                f"level_map={self.level_map} must name, for each of the {layers} cross-attention layers, a level from "
                f"0 to {most - 1}"
            )

    def check_numbers(self):
        """Raise a ValueError for a field that cannot be."""
        self._check_values(dict(vars(self)))
        for name in ("cross_attention_ratio", "ffn_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        if self.moe_replicas and self.moe_top_k > self.num_experts:
            raise ValueError(
                f"moe_top_k={self.moe_top_k} is more than the {self.num_experts} experts (moe_replicas x moe_slices)"
            )
        blocks = self.vision_config.num_hidden_layers
        if self.train_vision_blocks > blocks:
            raise ValueError(f"train_vision_blocks={self.train_vision_blocks} is more than the tower's {blocks} blocks")


def _head_dim(text: Any) -> int:
    """Width of the language model's heads."""
    try:
        found = getattr(text, "head_dim", None)
    except RuntimeError:  # in Gemma 4, each kind of layer has its own
        found = None
    heads = getattr(text, "num_attention_heads", None)
    return found or text.hidden_size // (heads or 1)


EvlmConfig.register_for_auto_class()

__all__ = ["EvlmConfig"]
