# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from cases import assert_compiles_once, random_pixels
from tolerances import assert_same_layout

from enaf_ext import ops, reference

DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32)
SHAPES = [(1, 3, 6, 6), (2, 3, 38, 54), (0, 3, 10, 6), (1, 3, 6, 302), (3, 3, 18, 10)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: torch.device) -> None:
    if layout == "sliced":
        image = random_pixels((shape[0], 3, shape[2] + 3, shape[3] + 5), dtype, device)[:, :, 2:-1, 4:-1]
    else:
        image = random_pixels(shape, dtype, device)
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    details, expected = ops.cell_details(image), reference.cell_details(image)
    assert_same_layout(details, expected)
    torch.testing.assert_close(details, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("contrast", [0, 1e-4, 1 / 255, 1e-2])
def test_faint_detail_counts(contrast: float, device: torch.device) -> None:
    image = (0.5 + contrast * (torch.rand(1, 3, 42, 42, generator=torch.Generator().manual_seed(1)) - 0.5)).to(device)
    energies, expected = (((f(image)[:, :17] - 2) * 4).exp() for f in (ops.cell_details, reference.cell_details))
    torch.testing.assert_close(energies, expected, atol=1e-7, rtol=1e-4)


def test_a_flat_cell_by_hand(device: torch.device) -> None:
    flat = torch.full((1, 3, 6, 6), 0.5, device=device)
    nothing = torch.log(torch.tensor(2e-6)).item() / 4 + 2
    expected = torch.tensor([*[nothing] * 17, *[0.2] * 3, -3.6], device=device)
    torch.testing.assert_close(ops.cell_details(flat)[0, :, 0, 0], expected, atol=2e-6, rtol=0)


def test_a_vertical_edge_by_hand(device: torch.device) -> None:
    edge = torch.zeros(1, 3, 6, 6, device=device)
    edge[..., 3:] = 1  # between the second and the third pixel of the cell
    details = ops.cell_details(edge)[0, :, 0, 0]
    energies = ((details[:17] - 2) * 4).exp() - 2e-6
    # differences to the right: one of four columns; second differences: two of four; variance: 1/4; nothing else
    expected = torch.zeros(17, device=device)
    expected[[0, 8]] = torch.tensor([0.25, 1.0], device=device)
    expected[[2, 10]] = torch.tensor([0.5, 1.0], device=device)
    expected[16] = 0.25
    torch.testing.assert_close(energies, expected, atol=1e-6, rtol=0)


def test_what_is_not_finite_stays_in_its_cells(device: torch.device) -> None:
    image = torch.rand(1, 3, 14, 14, device=device)
    expected = ops.cell_details(image)
    image[0, 0, 6, 6], image[0, 1, 6, 7] = float("nan"), float("inf")
    details = ops.cell_details(image)
    elsewhere = torch.ones(3, 3, dtype=torch.bool, device=device)
    elsewhere[1, 1] = False
    assert torch.equal(details[0][:, elsewhere], expected[0][:, elsewhere])


def test_opcheck(device: torch.device) -> None:
    torch.library.opcheck(torch.ops.enaf_ext.cell_details.default, (torch.rand(2, 3, 14, 18, device=device),))


def test_compile_fullgraph(device: torch.device) -> None:
    calls = [(torch.rand(2, 3, h, w, device=device),) for h, w in ((22, 30), (50, 42), (18, 66))]
    assert_compiles_once(lambda image: ops.cell_details(image) + 1, *calls)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((3, 10, 10), torch.uint8, ValueError, r"image: expected \(B, 3, 4 rows \+ 2, 4 cols \+ 2\), got shape \(3, 10, 10\)"),
        ((1, 1, 10, 10), torch.uint8, ValueError, r"image: expected \(B, 3, .*, got shape \(1, 1, 10, 10\)"),
        ((1, 3, 10, 12), torch.uint8, ValueError, r"image: expected sides of 4n \+ 2, got 10x12"),
        ((1, 3, 2, 10), torch.uint8, ValueError, r"image: expected sides of 4n \+ 2, got 2x10"),
        ((1, 3, 10, 10), torch.float64, TypeError, "image: expected one of .*, got torch.float64"),
    ],
)  # fmt: skip
def test_rejects(shape: tuple[int, ...], dtype: torch.dtype, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.cell_details(torch.zeros(shape, dtype=dtype))


def test_native_entry_rejects() -> None:
    with pytest.raises(RuntimeError, match=r"cell_details: image: expected sides of 4n \+ 2, got 9"):
        torch.ops.enaf_ext.cell_details(torch.zeros(1, 3, 9, 10))
