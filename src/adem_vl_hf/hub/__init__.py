"""Publishes checkpoints: upload, model card, and conversion of the adapter files that the authors' code writes."""

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .upload import push

__all__ = ["push"]

__getattr__, __dir__ = lazy_exports(__name__, {"upload": ["push"]})
