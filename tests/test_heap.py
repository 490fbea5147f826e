# SPDX-License-Identifier: Apache-2.0
"""Freed memory is kept, unless the user has said what is to be done with it: in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from enaf.heap import USERS_OWN

AGAIN = """
import resource, torch, enaf_ext
torch.set_num_threads(1)
enaf_ext.upscale(torch.zeros(3, 8, 8, dtype=torch.uint8))
def work():
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.ones(6 << 20) for _ in range(4)]
    del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first
work()
work()
print(work())
"""
PAGES = 4 * (24 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(**limits: str) -> int:
    """How many pages a process gets from the system when it allocates what it has just freed."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN} | limits
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_unless_the_user_has_set_limits() -> None:
    assert faults() < PAGES / 2
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > PAGES / 2
