# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT = 256 << 20
"""Bytes free at the end of the heap from which on they go back to the system: some feature maps of 24 MiB."""
LARGEST = 32 << 20
"""Bytes of the largest block in the heap, others are mapped: what glibc itself comes to when such blocks have been freed."""
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Lets the process keep memory that it has freed, up to ``MOST_KEPT``, and use it again.

    Every layer of a network frees its input and allocates its output. glibc gives the end of its heap back to the system when
    more than 64 MiB are free there, or less, depending on what was freed before; the next layer gets them again page by page,
    a fault every 4 KiB: in some processes a third of a network's time, in others nothing. Done once. Nothing is done for
    a user who has set these limits, and where the C library is another.
    """
    if not any(name in os.environ for name in USERS_OWN):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
