# SPDX-License-Identifier: Apache-2.0
"""Bands from the host and back: the bytes of the whole-image call, in order, each row once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import enaf.engine
import enaf.whole_or_routed
import enaf_ext
from enaf.record import UpscaleInfo


@pytest.fixture(scope="module")
def upscaler() -> enaf_ext.Upscaler:
    return enaf_ext.Upscaler()


def picture(channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Flat on the left, ever noisier to the right."""
    noise = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    unit = 0.25 + 0.5 * torch.linspace(0, 1, width) * noise
    return (unit * torch.iinfo(dtype).max).int().to(dtype) if not dtype.is_floating_point else unit.to(dtype)


def stream(
    upscaler: enaf_ext.Upscaler, lr: Tensor, read: Callable[[int, int], Tensor] | None = None, **keywords: object
) -> tuple[Tensor, UpscaleInfo]:
    """The result put together, after a check that each row came once and in order."""
    parts: list[Tensor] = []

    def write(top: int, rows: Tensor) -> None:
        assert top == sum(part.shape[1] for part in parts)
        parts.append(rows.clone())

    info = upscaler.stream(read or (lambda top, bottom: lr[:, top:bottom]), tuple(lr.shape), write, **keywords)
    return torch.cat(parts, dim=1), info


@pytest.mark.parametrize("band", [1, 12, 100])
@pytest.mark.parametrize(
    ("lr", "keywords"),
    [
        (picture(3, 150, 170, torch.uint8), {"eta": 1.0}),
        (picture(3, 150, 170, torch.uint8), {"budget": 0.4}),
        (picture(3, 70, 90, torch.uint16), {"force_exit": 2, "patch_size": 24, "overlap": 6}),
        (picture(1, 131, 90, torch.float32), {"budget": 0.5}),
        (picture(3, 5, 200, torch.float16), {"budget": 0.5}),
        (picture(3, 100, 100, torch.uint8), {"budget": 0.5, "dtype": torch.bfloat16}),
        (torch.randint(0, 256, (3, 100, 90), dtype=torch.uint8), {"eta": 0.0}),
    ],
)
def test_equals_the_whole_image_call(
    upscaler: enaf_ext.Upscaler, lr: Tensor, keywords: dict, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, whole = upscaler(lr, return_info=True, **keywords)
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, "cpu", band)
    monkeypatch.setattr(enaf.engine, "SCORED_PIXELS", 2 * band * 28**2)
    sr, info = stream(upscaler, lr, device="cpu", **keywords)
    assert sr.dtype == lr.dtype
    assert torch.equal(sr, expected)
    assert info.static == whole.static
    assert torch.equal(info.exit_index, whole.exit_index)
    assert bool(whole.psnr_db.isfinite().all())
    known = info.psnr_db.isfinite()
    assert torch.equal(info.psnr_db[known], whole.psnr_db[known])
    assert {name: info.cost[name] for name in ("paper", "macs")} == {
        name: whole.cost[name] for name in ("paper", "macs")
    }


def test_reads_ascending_bands_and_no_more_than_it_must(
    upscaler: enaf_ext.Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = picture(3, 600, 116, torch.uint8)
    monkeypatch.setitem(enaf.engine.BAND_PATCHES, "cpu", 8)
    monkeypatch.setattr(enaf.engine, "SCORED_PIXELS", 2 * 28 * 116)
    monkeypatch.setitem(enaf.whole_or_routed.LOOKED_AT, "cpu", lr[0].numel() - 1)
    monkeypatch.setitem(enaf.whole_or_routed.IN_MEMORY, "cpu", lr[0].numel() - 1)
    for keywords, passes in (({"budget": 0.4}, 2), ({"force_exit": 1}, 1), ({"eta": 2.0}, 2)):
        asked: list[tuple[int, int]] = []

        def read(top: int, bottom: int, asked: list = asked) -> Tensor:
            asked.append((top, bottom))
            return lr[:, top:bottom]

        _, info = stream(upscaler, lr, read, device="cpu", **keywords)
        assert info.static == []
        falls = sum(later < earlier for (earlier, _), (later, _) in pairwise(asked))
        assert falls == passes - 1
        assert max(bottom - top for top, bottom in asked) <= 2 * 28 + 4 + 2 * upscaler.model.estimator.margin
        assert sorted({row for top, bottom in asked for row in range(top, bottom)}) == list(range(600))
    monkeypatch.setitem(enaf.whole_or_routed.IN_MEMORY, "cpu", lr[0].numel())
    asked.clear()
    stream(upscaler, lr, read, device="cpu", eta=2.0)
    assert asked == [(0, 600)]


@pytest.mark.parametrize(
    ("shape", "rows", "error", "message"),
    [
        ((3, 40), None, ValueError, r"shape: expected \(1 or 3 channels, height, width\), got \(3, 40\)"),
        ((2, 40, 40), None, ValueError, "shape: expected"),
        ((3, 32, 40), [1], ValueError, r"read: expected a CPU tensor of \(3, 32, 40\), got list"),
        (
            (3, 40, 40),
            torch.zeros(3, 40, 39),
            ValueError,
            r"read: expected a CPU tensor of .* got \(3, 40, 39\) on cpu",
        ),
        ((3, 32, 40), torch.full((3, 32, 40), 2.0), ValueError, r"image: expected floating values in \[0, 1\]"),
        ((3, 32, 40), torch.zeros(3, 32, 40, dtype=torch.int8), TypeError, "image: expected uint8"),
    ],
)
def test_rejects(
    upscaler: enaf_ext.Upscaler, shape: tuple[int, ...], rows: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        upscaler.stream(lambda top, bottom: rows, shape, lambda top, rows: None, device="cpu")


def test_a_reader_that_changes_its_dtype(upscaler: enaf_ext.Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(enaf.whole_or_routed.LOOKED_AT, "cpu", 0)
    monkeypatch.setitem(enaf.whole_or_routed.IN_MEMORY, "cpu", 0)
    dtypes = iter([torch.uint8] + 10 * [torch.float32])
    with pytest.raises(TypeError, match=r"read: expected torch\.uint8 as before, got torch\.float32"):
        upscaler.stream(
            lambda top, bottom: torch.zeros(3, bottom - top, 64, dtype=next(dtypes)),
            (3, 100, 64),
            lambda top, rows: None,
            device="cpu",
        )
