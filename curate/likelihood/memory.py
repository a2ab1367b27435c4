"""Memory that the C library has to hand out again and again, and what a batch needs of it."""

import ctypes
import functools
import sys

# Numbers of <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
KEPT = 512 << 20
"""Bytes of freed memory that stay with the process."""


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc hand freed memory out again, in place of giving it to the kernel after every operation and asking anew.

    Activations of some megabytes are mapped and unmapped by default: the kernel clears each page again, which is 5 to 15 % of
    scoring with a small model. Threads that start later share one arena: their own ones map whatever is larger than 64 MB,
    and keep what was freed at their ends.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, which has its own ways
        return
    for what, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, KEPT), (_TRIM_THRESHOLD, KEPT)):
        mallopt(what, value)
