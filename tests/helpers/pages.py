"""Reads the parts of README.md and docs/ that tests check."""

import re


def fences(text, language):
    """The contents of fenced blocks of this language ("" = none named)."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [content for name, content in blocks if name == language]
