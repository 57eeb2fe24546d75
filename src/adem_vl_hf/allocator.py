"""Tunes the memory allocator of the C library for training on a CPU."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Make the C library keep the memory that PyTorch frees, so that a training step on a CPU takes less time.

    The activations of a step are large blocks. By default, glibc returns them to the system and asks for them again in
    each step, and the kernel has to clear every page. Without glibc nothing happens. The setting holds for the whole
    process, so a program should call this function and a library should not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks
