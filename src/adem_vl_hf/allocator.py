"""How the C library hands memory to PyTorch."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Have the C library keep what PyTorch frees instead of handing it back to the system and asking for it again.

    On a CPU the activations of a step are large blocks that glibc maps and unmaps each time, and the kernel clears
    every page anew: a good part of a training step. Only glibc has the switch; elsewhere nothing happens. It
    holds for the whole process, so programs call it and libraries do not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap, too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks
