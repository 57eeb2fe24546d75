"""The bundle's modules under the names they had up to version 0.1: importing one warns and gives what is there now.

They go with version 0.3. Checkpoints that were saved under the old names carry their own code and need none of this.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

BUNDLE = "adem_vl_hf.modeling."
# old name -> the modules that hold its contents now
MOVED: dict[str, tuple[str, ...]] = {
    "base_configuration_adem_vl": ("configuration_base",),
    "bases_adem_vl": ("bases", "fingerprints", "quantization"),
    "body_adem_vl": ("modeling_base",),
    "checkpoint_adem_vl": ("checkpoint", "loaders"),
    "cross_attention_evlm": ("cross_attention",),
    "decoder_adem_vl": ("decoder", "forward_pass"),
    "distributed_adem_vl": ("forward_pass",),
    "experts_evlm": ("cross_attention",),
    "frozen_adem_vl": ("modeling_base",),
    "fusion_adem_vl": ("fusion", "adapter_adem_vl", "vision"),
    "generation_adem_vl": ("generation",),
    "images_adem_vl": ("images",),
    "inputs_adem_vl": ("image_inputs",),
    "layers_adem_vl": ("fused_layers",),
    "layout_adem_vl": ("row_layout", "processor_parts"),
    "lora_adem_vl": ("trained_in_base", "lora_fields"),
    "options_adem_vl": ("processor_options",),
    "pictures_adem_vl": ("videos",),
    "pipeline_adem_vl": ("pipeline",),
    "precision_adem_vl": ("cross_attention",),
    "prompts_adem_vl": ("labels", "generation"),
    "quantized_adem_vl": ("quantization",),
    "tokenizer_adem_vl": ("processor_parts",),
    "unfrozen_adem_vl": ("trained_in_base",),
    "videos_adem_vl": ("videos",),
    "visibility_evlm": ("visibility", "visual_memory"),
    "vision_adem_vl": ("vision",),
}


class OldPaths(MetaPathFinder, Loader):
    """Finds the old modules; each looks its names up in the new ones."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.removeprefix(BUNDLE) in MOVED and name.startswith(BUNDLE) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        names = [BUNDLE + name for name in MOVED[module.__name__.removeprefix(BUNDLE)]]
        warnings.warn(
            f"{module.__name__} is now {' and '.join(names)}; the old name goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        for new in map(importlib.import_module, reversed(names)):
            vars(module).update({name: value for name, value in vars(new).items() if not name.startswith("__")})


def install() -> None:
    """Let the old names be imported from now on."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
