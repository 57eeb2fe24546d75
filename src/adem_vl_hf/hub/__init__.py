"""Publishes checkpoints: upload, model card, and conversion of the adapter files that the authors' code writes."""

from .upload import push

__all__ = ["push"]
