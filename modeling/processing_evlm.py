"""Text, images and videos to the inputs of EVLM, with labels where answers are given."""

from typing import TYPE_CHECKING

import torch

from .pictures_adem_vl import pixels_of_rows
from .processing_adem_vl import AdemVLProcessor

if TYPE_CHECKING:  # never run: 4.57 finds the files that travel together by these lines, and looks no further than here
    from .images_adem_vl import open_image  # noqa: F401
    from .layout_adem_vl import RowLayout  # noqa: F401
    from .quantized_adem_vl import split_gguf  # noqa: F401
    from .tokenizer_adem_vl import load_tokenizer  # noqa: F401
    from .videos_adem_vl import open_video  # noqa: F401


class EvlmProcessor(AdemVLProcessor):
    """The processor of ADEM-VL, which also says which rows are videos (``video_mask`` [B], where there are any)."""

    @property
    def model_input_names(self):
        return [*super().model_input_names, "video_mask"]

    def _pixels(self, pictures) -> dict[str, torch.Tensor]:
        data = pixels_of_rows(pictures, self.image_processor)
        if any(row.is_video for row in pictures):
            data["video_mask"] = torch.tensor([row.is_video for row in pictures])
        return data


EvlmProcessor.register_for_auto_class()

__all__ = ["EvlmProcessor"]
