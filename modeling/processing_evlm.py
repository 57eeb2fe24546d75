"""Text, images and videos to the inputs of EVLM, with labels where answers are given."""

from typing import TYPE_CHECKING

import torch

from .layout_adem_vl import Row
from .processing_adem_vl import AdemVLProcessor

if TYPE_CHECKING:  # never run: 4.57 finds the files that travel together by these lines, and looks no further than here
    from .images_adem_vl import open_image  # noqa: F401
    from .options_adem_vl import sort_options  # noqa: F401
    from .pictures_adem_vl import Pictures  # noqa: F401
    from .quantized_adem_vl import split_gguf  # noqa: F401
    from .tokenizer_adem_vl import load_tokenizer  # noqa: F401
    from .videos_adem_vl import open_video  # noqa: F401


class EvlmProcessor(AdemVLProcessor):
    """The processor of ADEM-VL, which also says which rows have videos (``video_mask`` [B], where there are any)."""

    @property
    def model_input_names(self):
        return [*super().model_input_names, "video_mask"]

    def _more_inputs(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        videos = [any(row.order) for row in rows]
        return {"video_mask": torch.tensor(videos)} if any(videos) else {}


EvlmProcessor.register_for_auto_class()

__all__ = ["EvlmProcessor"]
