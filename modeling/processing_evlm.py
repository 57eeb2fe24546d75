"""Text, images and videos to the inputs of EVLM, with labels where answers are given."""

from typing import TYPE_CHECKING

import torch

from .processing_adem_vl import AdemVLProcessor
from .row_layout import Row

if TYPE_CHECKING:  # never run: 4.57 finds the files that travel together by these lines, and looks no further than here
    from .bases import split_gguf  # noqa: F401
    from .images import open_image  # noqa: F401
    from .videos import open_video  # noqa: F401
    from .vision import tower_blocks  # noqa: F401


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
