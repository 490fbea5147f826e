# SPDX-License-Identifier: Apache-2.0
"""Memory is that of a few bands, whatever the size of the image: measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from enaf.image_io import Layout, create_image, open_image

PRELUDE = """
import resource, sys
import numpy as np, torch, enaf
from enaf.image_io import Layout, create_image, open_image, reading
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def write(path, height, width, channels=3, dtype="uint8"):
    with create_image(path, Layout(height, width, channels, np.dtype(dtype))) as writer:
        for top in range(0, height, 64):
            count = min(64, height - top)
            ramp = np.arange(count * width * channels, dtype=np.int64).reshape(count, width, channels) + top
            writer.write((ramp // 7 % 256).astype(dtype))
"""


def measured(code: str, *arguments: str) -> float:
    """The figure in MiB that the code prints; large blocks that are freed go back to the system at once, to be measured."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *arguments], capture_output=True, text=True, timeout=1800, check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


UPSCALE = """
write(sys.argv[1] + "/small.png", 384, 1024, int(sys.argv[3]))
write(sys.argv[1] + "/in.png", 1536, 1024, int(sys.argv[3]))
for name in ("small", "in"):
    (result,) = enaf.upscale_files(sys.argv[1] + f"/{name}.png", sys.argv[1] + "/out" + sys.argv[2], force_exit=0)
    assert result.status == "done", result.error
    before, after = (peak(), 0) if name == "small" else (before, peak())
print(after - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".tif", 3), (".png", 4)])
def test_writing_is_banded(tmp_path: Path, suffix: str, channels: int) -> None:
    """The result has 72 or 96 MiB, a quarter of its height 18 or 24: the difference is not what the peaks differ by."""
    assert measured(UPSCALE, str(tmp_path), suffix, str(channels)) < 36


READ = """
write(sys.argv[1], 6000, 6000, dtype=sys.argv[2])
reading.BANDED_PIXELS = 1
before = peak()
with open_image(sys.argv[1]) as reader:
    for _ in range(2):
        for top in range(0, 6000, 48):
            assert len(reader.rows(max(0, top - 8), top + 48)) == top + 48 - max(0, top - 8)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", "uint8"), (".tif", "uint8"), (".png", "uint16"), (".ppm", "uint8")]
)
def test_reading_is_banded(tmp_path: Path, suffix: str, dtype: str) -> None:
    """The pixels are 103 or 206 MiB."""
    pytest.importorskip("pyvips")
    assert measured(READ, str(tmp_path / f"in{suffix}"), dtype) < 50


@pytest.mark.slow
def test_more_than_four_gibibytes_of_pixels_become_bigtiff(tmp_path: Path) -> None:
    """Offsets of 64 bits where they are needed; the strips of a constant take no space."""
    pytest.importorskip("pyvips")
    layout = Layout(44000, 33000, 3, np.dtype(np.uint8))
    band = np.full((400, layout.width, 3), 77, np.uint8)
    with create_image(tmp_path / "image.tif", layout) as writer:
        for _ in range(layout.height // 400):
            writer.write(band)
    assert (tmp_path / "image.tif").read_bytes()[:4] == b"II+\0"
    with open_image(tmp_path / "image.tif", max_pixels=2 * 10**9) as reader:
        assert reader.layout == layout
        assert np.array_equal(reader.rows(43999, 44000), band[:1])
