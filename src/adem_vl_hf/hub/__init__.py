"""Publishing checkpoints: upload, model card, and conversion of the authors' released adapter files."""

from .upload import push

__all__ = ["push"]
