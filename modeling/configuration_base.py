"""What the configurations of this bundle's models have in common: two frozen bases, and where they come from.

This file imports nothing of the bundle: Transformers 4.57 fetches what a configuration imports, and no further step.
"""

import copy

from transformers import AutoConfig

try:
    from transformers import PreTrainedConfig
except ImportError:  # the name before Transformers 5
    from transformers import PretrainedConfig as PreTrainedConfig

BACKENDS = ("transformers", "open_clip")

# the paper's tower: OpenAI CLIP ViT-L/14 at 224 px
CLIP_VIT_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}

# fields of peft.LoraConfig; those left out change the frozen base, or train parts of it whole
LORA_DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False, "target_modules": None}
LORA_FIELDS = (
    *LORA_DEFAULTS, "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
)  # fmt: skip


def complete_lora(lora: dict | None) -> dict | None:
    """The fields with PEFT's present defaults filled in, as JSON holds them.

    Raises:
        ValueError: naming the field that is unknown or out of its range.
    """
    if lora is None:
        return None
    if not isinstance(lora, dict):
        raise ValueError(f"lora is {lora!r}; give a dict of fields of peft.LoraConfig, such as {{'r': 8}}, or None")
    unknown = [name for name in lora if name not in LORA_FIELDS]
    if unknown:
        raise ValueError(
            f"lora: the field {unknown[0]!r} is not one of {', '.join(LORA_FIELDS)}; "
            "for everything else that PEFT can do, use peft.get_peft_model on the model"
        )
    done = {
        name: sorted(value) if isinstance(value, (set, tuple)) else value
        for name, value in {**LORA_DEFAULTS, **lora}.items()
    }
    r, alpha, dropout = done["r"], done["lora_alpha"], done["lora_dropout"]
    for name, fits, rule in (
        ("r", isinstance(r, int) and r >= 1, "an integer of at least 1"),
        ("lora_alpha", isinstance(alpha, (int, float)) and alpha > 0, "a number above 0"),
        ("lora_dropout", isinstance(dropout, (int, float)) and 0 <= dropout < 1, "a number from 0 to below 1"),
    ):
        if not fits:
            raise ValueError(f"lora: {name} is {done[name]!r}; it must be {rule}")
    return done


def _sub_config(given, model_type, **defaults):
    if given is None:
        return AutoConfig.for_model(model_type, **defaults)
    if isinstance(given, dict):
        given = dict(given)
        return AutoConfig.for_model(given.pop("model_type", model_type), **given)
    # a copy: the constructor below resets the attention implementation of whatever config objects it holds
    return copy.deepcopy(given)


class FrozenBasesConfig(PreTrainedConfig):
    """Base class of the configurations.

    Args:
        text_config, vision_config: the two bases' own configurations (objects or dicts); default Llama 7B and CLIP
            ViT-L/14. The vision config is a ``CLIPVisionConfig`` for both backends.
        text_model_name_or_path, vision_model_name_or_path: where the frozen bases are loaded from: a Hub id, a folder,
            or a folder relative to the checkpoint (``./tower``, ``../tower``). ``None`` for both: the checkpoint holds
            every weight itself.
        text_model_revision, vision_model_revision: the bases' pinned revisions (commit, tag or branch).
        text_model_fingerprint, vision_model_fingerprint: what the bases looked like in training; written when built.
        vision_backend: ``"transformers"`` (``CLIPVisionModel``) or ``"open_clip"`` (any of its ViT image towers).
        image_token_id: the token, inside the language model's vocabulary, that marks where image embeddings go.
        frame_embeddings: how many pictures of a row have a learned embedding of their own that says which of them they
            are (zero at the start); 0 = none, and their order shows in the text alone.

    Raises:
        ValueError: naming the field that cannot be, and what can.
    """

    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}
    adapter_fields: tuple[str, ...] = ()  # what says how an adapter computes: its numbers mean nothing otherwise

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        text_model_name_or_path=None,
        text_model_revision=None,
        text_model_fingerprint=None,
        vision_model_name_or_path=None,
        vision_model_revision=None,
        vision_model_fingerprint=None,
        vision_backend="transformers",
        image_token_id=None,
        frame_embeddings=0,
        **kwargs,
    ):
        self.text_config = _sub_config(text_config, "llama")
        self.vision_config = _sub_config(vision_config, "clip_vision_model", **CLIP_VIT_L14)
        self.text_model_name_or_path = text_model_name_or_path
        self.text_model_revision = text_model_revision
        self.text_model_fingerprint = text_model_fingerprint
        self.vision_model_name_or_path = vision_model_name_or_path
        self.vision_model_revision = vision_model_revision
        self.vision_model_fingerprint = vision_model_fingerprint
        self.vision_backend = vision_backend
        self.image_token_id = image_token_id
        self.frame_embeddings = frame_embeddings
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)
        self._check_bases()

    @property
    def grid(self) -> int:
        """Side G of the tower's patch grid."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def image_tokens(self) -> int:
        """How many tokens of the text stand for one image."""
        raise NotImplementedError

    @property
    def has_external_bases(self) -> bool:
        """Whether a checkpoint is the adapter alone (the bases come from their own folders or repositories)."""
        return self.text_model_name_or_path is not None and self.vision_model_name_or_path is not None

    def tower_depth(self, layer: int) -> int:
        """How many of the tower's blocks lie behind its hidden states ``layer`` (negative: counted from the end)."""
        return layer if layer >= 0 else self.vision_config.num_hidden_layers + 1 + layer

    def _check_choice(self, name, allowed):
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")

    def _check_bases(self):
        self._check_choice("vision_backend", BACKENDS)
        vocab_size = self.text_config.vocab_size
        if self.image_token_id is not None and not 0 <= self.image_token_id < vocab_size:
            raise ValueError(
                f"image_token_id={self.image_token_id} is outside the language model's vocabulary of {vocab_size}; "
                "choose one of its reserved or unused tokens"
            )
        if not isinstance(self.frame_embeddings, int) or self.frame_embeddings < 0:
            raise ValueError(
                f"frame_embeddings is {self.frame_embeddings!r}; give the largest number of pictures in a row, or 0"
            )


__all__ = ["FrozenBasesConfig"]
