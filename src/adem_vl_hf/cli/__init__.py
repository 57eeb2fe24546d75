"""The command line, ``adem-vl``."""

from .parser import build_parser, main

__all__ = ["build_parser", "main"]
