# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import CASES, Case, assert_compiles_once, image_of, random_pixels

from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid

SCORED = [case for case in CASES if case.values[0].channels in (1, 3)]
DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SCORED)
def test_matches_reference(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    image = image_of(case, dtype, device)
    score = ops.edge_score(image, case.grid)
    assert torch.equal(score, reference.edge_score(image, case.grid))
    assert score.dtype == torch.float32


@pytest.mark.parametrize("patch_size", [2, 3, 5, 8, 31, 32, 64, 300])
@pytest.mark.parametrize("channels", [1, 3])
def test_matches_opencv(channels: int, patch_size: int, device: torch.device) -> None:
    cv2 = pytest.importorskip("cv2")
    grid = PatchGrid(2 * patch_size + 1, 3 * patch_size - 1, patch_size, patch_size // 2)
    image = random_pixels((1, channels, grid.height, grid.width), torch.uint8, torch.device("cpu"))
    # Smooth content keeps |L| below the clamp, which random noise rarely does.
    smooth = torch.nn.functional.avg_pool2d(image.float(), 5, 1, 2).to(torch.uint8)
    for picture in (image, smooth):
        expected = []
        for patch in ops.unfold_patches(picture, grid).permute(0, 2, 3, 1).numpy():
            grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY) if channels == 3 else patch[..., 0].copy()
            expected.append(cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S, ksize=3)).mean())
        score = ops.edge_score(picture.to(device), grid).cpu().numpy()
        np.testing.assert_array_equal(score, np.array(expected, np.float32))


def test_bounds(device: torch.device) -> None:
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    image = (255 * board).to(torch.uint8)[None, None].to(device)
    grid = PatchGrid(32, 32, 32, 0)
    # On a checkerboard all diagonal neighbours are equal to the centre.
    assert ops.edge_score(image, grid).item() == 0
    stripes = (255 * (torch.arange(32) % 2)).to(torch.uint8).expand(1, 1, 32, 32).to(device)
    assert ops.edge_score(stripes, grid).item() == 255


def test_values_out_of_range_are_clamped(device: torch.device) -> None:
    grid = PatchGrid(4, 4, 4, 0)
    wild = torch.tensor([float("nan"), float("-inf"), -1.0, 0.0, 1.0, 2.0, float("inf"), 0.5] * 2, device=device)
    tame = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5] * 2, device=device)
    assert torch.equal(ops.edge_score(wild.view(1, 1, 4, 4), grid), ops.edge_score(tame.view(1, 1, 4, 4), grid))


def test_opcheck(device: torch.device) -> None:
    image = torch.rand(2, 3, 13, 17, device=device)
    torch.library.opcheck(torch.ops.enaf_ext.edge_score.default, (image, 8, 2))


def test_compile_fullgraph(device: torch.device) -> None:
    def score(image: torch.Tensor) -> torch.Tensor:
        return ops.edge_score(image, PatchGrid(image.shape[2], image.shape[3], 8, 2))

    calls = [(torch.rand(2, 3, h, w, device=device),) for h, w in ((23, 30), (50, 41), (19, 64))]
    assert_compiles_once(score, *calls)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((3, 8, 8), torch.uint8, ValueError, r"image: expected \(B, C, H, W\), got shape \(3, 8, 8\)"),
        ((1, 2, 8, 8), torch.uint8, ValueError, "image: expected 1 or 3 channels, got 2"),
        ((1, 3, 8, 9), torch.uint8, ValueError, "image: expected the grid's 8x8 pixels, got 8x9"),
        ((1, 3, 8, 8), torch.float64, TypeError, "image: expected one of .*, got torch.float64"),
        ((1, 3, 8, 8), torch.int32, TypeError, "image: expected one of .*, got torch.int32"),
    ],
)
def test_rejects(shape: tuple[int, ...], dtype: torch.dtype, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.edge_score(torch.zeros(shape, dtype=dtype), PatchGrid(8, 8, 8, 0))


def test_native_entry_rejects() -> None:
    with pytest.raises(RuntimeError, match=r"edge_score: overlap: expected 0 <= overlap <= patch_size // 2, got 5"):
        torch.ops.enaf_ext.edge_score(torch.zeros(1, 3, 8, 8), 8, 5)
