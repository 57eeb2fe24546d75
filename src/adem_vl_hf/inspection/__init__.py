"""Inspection: the places of an image that a model looked at, as tensors and as a page."""

from .attended_patches import attended_patches
from .kept_tokens import kept_visual_tokens
from .look import look
from .page import write_page

__all__ = ["attended_patches", "kept_visual_tokens", "look", "write_page"]
