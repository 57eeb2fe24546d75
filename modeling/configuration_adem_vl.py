"""Configuration of ADEM-VL (arXiv 2410.17779): a frozen decoder LLM, a frozen tower, a small trained adapter.

Notation of the whole bundle: B batch, T text positions, S memory slots, D width of the language model, C width of the
vision tower, N patches, G = sqrt(N) side of the patch grid.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar

from .configuration_base import FrozenBasesConfig, PreTrainedConfig
from .field_values import Range
from .lora_fields import complete_lora

if TYPE_CHECKING:  # never run: 4.57 finds the files that a configuration needs by these lines
    from .arguments import library_fields  # noqa: F401
    from .one_save import finish_save  # noqa: F401
    from .reading import errors_naming  # noqa: F401
    from .towers import find_tower  # noqa: F401

POOLINGS = ("avg", "max")
KERNELS = ("none", "softmax", "relu", "elu", "silu", "silu-min")
PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out")


class AdemVLConfig(FrozenBasesConfig):
    """Everything that defines an ADEM-VL model; validated when constructed. The defaults are the paper's, at 7B.

    Args:
        text_config (dict | PreTrainedConfig | None): configuration of the language model; default Llama 7B.
        vision_config (dict | PreTrainedConfig | None): configuration of the vision tower; default CLIP ViT-L/14.
        vision_feature_layer (int): index into the tower's hidden states; -2 is the output of the last block but one.
        visual_token_counts (list[int] | int | None): the scales of the multiscale visual prompt, each a square; default
            the whole grid and half its side, which is [256, 64] for ViT-L/14 (Table "scales").
        pooling (str): ``"avg"`` or ``"max"``.
        drop_ratio (float): gamma of the adaptive fusion, the share of the scores dropped per position and layer.
        fusion_scale (float): alpha, the weight of the fused term.
        visual_scale (float): beta, the weight of the visual prompt.
        kernel (str): feature map of queries and keys: none, softmax, relu, elu, silu, silu-min.
        query_from (str): where the query is taken: ``attn_in``, ``attn_out``, ``mlp_in`` or ``mlp_out``.
        add_to (str): where the result is added; in the same sub-layer as ``query_from``, and not before it.
        projector_dim (int): width of the low-rank projectors.
        vision_adapter_dim (int): width of the bottleneck adapters beside the tower's MLPs; 0 leaves them out (the tower
            then runs without gradient).
        vision_adapter_scale (float): weight of the tower's adapters.
        vision_adapter_dropout (float): dropout inside the tower's adapters.
        use_cls_token (bool): the tower's class token becomes one input embedding.
        input_visual_tokens (int): 0, or a square: that many pooled patches become input embeddings too.
        lora (dict[str, Any] | None): LoRA in the language model, trained and saved with the adapter, as fields of
            ``peft.LoraConfig`` (``r``, ``lora_alpha``, ``target_modules``, ``lora_dropout``, ...). Needs PEFT. Default
            None, no LoRA.
        **kwargs (Any): the fields that say where the bases come from, see ``FrozenBasesConfig`` (each frame embedding
            is of width D), and those that Transformers has in every configuration.

    Raises:
        TypeError: a name that is no field, with the nearest field.
        ValueError: a field with an impossible value, with the possible ones.
    """

    model_type = "adem_vl"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "image_outputs", "image_hidden_states"]
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **FrozenBasesConfig.choices,
        "pooling": POOLINGS,
        "kernel": KERNELS,
        "query_from": PLACES,
        "add_to": PLACES,
    }

    ranges: ClassVar[dict[str, Range]] = {
        **FrozenBasesConfig.ranges,
        "vision_feature_layer": (-512, 512),
        "fusion_scale": (-1e4, 1e4),
        "visual_scale": (-1e4, 1e4),
        "projector_dim": (1, 2**20),
        "vision_adapter_dim": (0, 2**20),
        "vision_adapter_scale": (-1e4, 1e4),
    }

    def __init__(
        self,
        text_config: dict | PreTrainedConfig | None = None,
        vision_config: dict | PreTrainedConfig | None = None,
        vision_feature_layer: int = -2,
        visual_token_counts: list[int] | int | None = None,
        pooling: str = "avg",
        drop_ratio: float = 0.1,
        fusion_scale: float = 0.1,
        visual_scale: float = 0.01,
        kernel: str = "silu",
        query_from: str = "mlp_in",
        add_to: str = "mlp_out",
        projector_dim: int = 128,
        vision_adapter_dim: int = 12,
        vision_adapter_scale: float = 0.1,
        vision_adapter_dropout: float = 0.1,
        use_cls_token: bool = True,
        input_visual_tokens: int = 0,
        lora: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._check_values(locals())
        self.vision_feature_layer = vision_feature_layer
        self.pooling = pooling
        self.drop_ratio = drop_ratio
        self.fusion_scale = fusion_scale
        self.visual_scale = visual_scale
        self.kernel = kernel
        self.query_from = query_from
        self.add_to = add_to
        self.projector_dim = projector_dim
        self.vision_adapter_dim = vision_adapter_dim
        self.vision_adapter_scale = vision_adapter_scale
        self.vision_adapter_dropout = vision_adapter_dropout
        self.use_cls_token = use_cls_token
        self.input_visual_tokens = input_visual_tokens
        self.lora = complete_lora(lora)
        super().__init__(text_config, vision_config, **kwargs)
        self.visual_token_counts = self._token_counts(visual_token_counts)
        self._validate_fields()

    @property
    def memory_size(self) -> int:
        """S, the number of memory slots: the sum of the scales."""
        return sum(self.visual_token_counts)

    @property
    def image_tokens(self) -> int:
        """How many input embeddings one image takes: the class token and the input visual tokens."""
        return int(self.use_cls_token) + self.input_visual_tokens

    @property
    def num_vision_adapters(self) -> int:
        """How many tower blocks the features depend on: the live ones, each with an adapter."""
        return self.tower_depth(self.vision_feature_layer)

    def _token_counts(self, counts):
        if counts is None:
            return [self.grid**2, max(1, self.grid // 2) ** 2]
        return [counts] if isinstance(counts, int) else list(counts)

    def _validate_fields(self):
        if not self.visual_token_counts:
            raise ValueError("visual_token_counts is empty: name at least one scale, e.g. [256, 64]")
        for count in self.visual_token_counts:
            self._check_square("visual_token_counts", count)
        if self.input_visual_tokens:
            self._check_square("input_visual_tokens", self.input_visual_tokens)
        if self.query_from.split("_")[0] != self.add_to.split("_")[0]:
            raise ValueError(
                f"query_from={self.query_from!r} and add_to={self.add_to!r} name different sub-layers; "
                "take both from the attention or both from the MLP"
            )
        if PLACES.index(self.query_from) > PLACES.index(self.add_to):
            raise ValueError(f"add_to={self.add_to!r} comes before query_from={self.query_from!r}: nothing to add yet")
        if not 0 <= self.drop_ratio < 1:
            raise ValueError(f"drop_ratio is {self.drop_ratio}; it must be at least 0 and below 1")
        if not 0 <= self.vision_adapter_dropout < 1:
            raise ValueError(f"vision_adapter_dropout is {self.vision_adapter_dropout}; it must be from 0 to below 1")
        layers = self.vision_config.num_hidden_layers
        if not 1 <= self.num_vision_adapters <= layers:
            raise ValueError(
                f"vision_feature_layer={self.vision_feature_layer} is outside the tower's {layers} blocks; "
                f"use -{layers} to -1"
            )

    def _check_square(self, name, count):
        side = math.isqrt(count) if isinstance(count, int) and count > 0 else 0
        if side < 1 or side * side != count or side > self.grid:
            squares = ", ".join(str(s * s) for s in range(self.grid, max(0, self.grid - 4), -1))
            raise ValueError(
                f"{name}: {count!r} does not fit the tower's {self.grid} x {self.grid} patch grid; "
                f"use squares up to {self.grid**2} (such as {squares})"
            )


AdemVLConfig.register_for_auto_class()

__all__ = ["AdemVLConfig"]
