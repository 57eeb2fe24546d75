"""Defines EVLM's processor: ADEM-VL's, which also says which rows have videos."""

from typing import TYPE_CHECKING

import torch

from .processing_adem_vl import AdemVLProcessor
from .row_layout import Row

if TYPE_CHECKING:  # never run: Transformers 4.57 finds the files of a checkpoint by these lines, in this file alone
    from .arguments import take  # noqa: F401
    from .bases import base_name  # noqa: F401
    from .chat_parts import plain_part  # noqa: F401
    from .chat_rows import chat_passage  # noqa: F401
    from .field_values import fits  # noqa: F401
    from .image_forms import plain_form  # noqa: F401
    from .images import open_image  # noqa: F401
    from .labels import NOT_SUPERVISED  # noqa: F401
    from .one_save import finish_save  # noqa: F401
    from .open_clip_tower import OpenClipVisionTower  # noqa: F401
    from .processor_options import sort_options  # noqa: F401
    from .processor_parts import load_tokenizer  # noqa: F401
    from .quantization import split_gguf  # noqa: F401
    from .reading import errors_naming  # noqa: F401
    from .towers import find_tower  # noqa: F401
    from .video_files import open_animation  # noqa: F401
    from .videos import open_video  # noqa: F401
    from .vision import tower_blocks  # noqa: F401


class EvlmProcessor(AdemVLProcessor):
    """Turns text, images and videos into the inputs of EVLM.

    It is the processor of ADEM-VL with one more output: ``video_mask`` [B] bool, True for a row with a video. It is
    left out if no row has one.
    """

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model inputs that a call may return."""
        return [*super().model_input_names, "video_mask"]

    def _more_inputs(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        videos = [any(row.order) for row in rows]  # [B]
        return {"video_mask": torch.tensor(videos)} if any(videos) else {}


EvlmProcessor.register_for_auto_class()

__all__ = ["EvlmProcessor"]
