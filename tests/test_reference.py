# SPDX-License-Identifier: Apache-2.0
"""The authors' checkpoint in our runtime against what their own code gave. Needs `../shared` beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import enaf_ext
from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model, save_model
from enaf.cost import relative_cost
from enaf.decision import choose_exits
from enaf.foreign import import_checkpoint
from enaf.metrics import psnr
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
REFERENCE, PHOTOGRAPHS = SHARED / "reference", SHARED / "corpus" / "public" / "test2k"
NAMES = sorted(path.name.removesuffix("_fsrcnn.npz") for path in (REFERENCE / "public_test2k").glob("*_fsrcnn.npz"))
MARGIN = 1e-4
"""Of the best score over the second: decisions closer than this may fall either way, in dB."""

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference data is not beside this checkout")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AdaptiveNetwork:
    """Imported, saved and loaded, as a user would."""
    imported = import_checkpoint(REFERENCE / "authors_fsrcnn_x4.t7", "fsrcnn")
    assert isinstance(imported, AdaptiveNetwork)
    path = tmp_path_factory.mktemp("imported") / "fsrcnn.safetensors"
    save_model(imported, path)
    return load_model(path)


@pytest.fixture(scope="module")
def upscaler(model: AdaptiveNetwork) -> enaf_ext.Upscaler:
    return enaf_ext.Upscaler(model)


def read(path: Path) -> Tensor:
    """(3, H, W) uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def clear_decisions(upscaler: enaf_ext.Upscaler, minus_psnr: Tensor, edge_score: Tensor, eta: float) -> Tensor:
    """Patches whose best score is clearly the best, by the authors' own figures; (N,) bool."""
    score = -minus_psnr.double() - eta * upscaler.cost
    score[:, 0] += edge_score <= 10
    best = score.topk(2, dim=1).values
    return best[:, 0] - best[:, 1] > MARGIN


def assert_same_routing(upscaler: enaf_ext.Upscaler, lr: Tensor, theirs: np.lib.npyio.NpzFile) -> dict[float, Tensor]:
    """Estimates, edge scores and decisions at every eta of the file; the upscaled images."""
    minus_psnr, edge_score = (torch.from_numpy(theirs[name]) for name in ("minus_psnr", "edge_score"))
    images = {}
    for key in theirs.files:
        if not key.startswith("decisions_eta"):
            continue
        eta = float(key.removeprefix("decisions_eta"))
        decisions = torch.from_numpy(theirs[key]).long()
        rows, cols = decisions.shape
        covered = lr[:, : 28 * rows + 4, : 28 * cols + 4].float() / 255
        images[eta], info = upscaler(covered, eta=eta, gamma=1.0, return_info=True)
        torch.testing.assert_close(info.psnr_db.view(-1, 4), -minus_psnr, rtol=0, atol=1e-3)
        torch.testing.assert_close(info.edge_score.view(-1).double(), edge_score, rtol=0, atol=1e-4)
        clear = clear_decisions(upscaler, minus_psnr, edge_score, eta)
        assert clear.float().mean() > 0.95
        assert torch.equal(info.exit_index.flatten()[clear], decisions.flatten()[clear])
    assert images
    return images


def test_one_image(upscaler: enaf_ext.Upscaler) -> None:
    lr, hr = read(REFERENCE / "chelsea_lr.png"), read(REFERENCE / "chelsea_hr.png")
    figures = json.loads((REFERENCE / "chelsea_fsrcnn.json").read_text())
    theirs = np.load(REFERENCE / "chelsea_fsrcnn.npz")
    for eta, sr in assert_same_routing(upscaler, lr, theirs).items():
        fused = torch.from_numpy(theirs[f"fused_eta{eta}"]).permute(2, 0, 1)
        torch.testing.assert_close(sr, fused.clamp(0, 1), rtol=0, atol=1e-5)
        height, width = fused.shape[1:]
        reached = psnr(fused[None], hr[None, :, :height, :width].float() / 255, 4)
        assert float(reached) == pytest.approx(figures["psnr"][str(eta)], abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_routing_of_photographs(upscaler: enaf_ext.Upscaler, name: str) -> None:
    lr = read(REFERENCE / "public_test2k" / f"{name}_lr.png")
    assert_same_routing(upscaler, lr, np.load(REFERENCE / "public_test2k" / f"{name}_fsrcnn.npz"))


@pytest.mark.slow
def test_quality_on_photographs(model: AdaptiveNetwork) -> None:
    anchors = json.loads((REFERENCE / "anchors.json").read_text())["authors"]["fsrcnn"]["test2k"]
    curve, cost = anchors["enaf_eta_psnr_flopspct"], relative_cost(model.network)
    reached = {eta: torch.zeros(2, dtype=torch.float64) for eta in curve}
    for name, expected in anchors["per_image"].items():
        stem = name.removeprefix("test2k-").removesuffix(".webp")
        lr, hr = read(REFERENCE / "public_test2k" / f"{stem}_lr.png"), read(PHOTOGRAPHS / name)
        height, width = ((side - 32) // 28 * 28 + 32 for side in lr.shape[1:])
        lr, hr = lr[None, :, :height, :width], hr[None, :, : 4 * height, : 4 * width].float() / 255
        grid = PatchGrid(height, width, 32, 4)
        assert grid.num_patches == expected["patches"]
        exits = exits_of_patches(model, lr, grid)

        def quality(exit_index: Tensor, exits=exits, hr=hr, grid=grid) -> float:
            chosen = exits[exit_index, torch.arange(len(exit_index))]
            return float(psnr(ops.fold_patches(chosen, grid.scaled(4)), hr, 4))

        for depth, psnr_db in enumerate(expected["psnr_uniform_exit"]):
            assert quality(torch.full((grid.num_patches,), depth)) == pytest.approx(psnr_db, abs=0.001)
        predicted = model.estimator.on_grid(lr.float() / 255, grid)
        edge_score = ops.edge_score(lr, grid)
        for eta, sums in reached.items():
            exit_index = choose_exits(predicted, edge_score, cost, float(eta), gamma=1.0)
            sums += torch.tensor([quality(exit_index), 100 * float(cost[exit_index].mean())], dtype=torch.float64)
    for eta, (psnr_db, percent) in curve.items():
        mean_psnr, mean_cost = (reached[eta] / len(anchors["per_image"])).tolist()
        assert mean_psnr == pytest.approx(psnr_db, abs=0.001)
        assert mean_cost == pytest.approx(percent, abs=0.1)  # one patch is 0.03, and at some eta one is undecided


@torch.inference_mode()
def exits_of_patches(model: AdaptiveNetwork, lr: Tensor, grid: PatchGrid) -> Tensor:
    """(E, N, 3, 128, 128), not clamped."""
    patches = ops.unfold_patches(lr.float() / 255, grid).split(32)
    depths = range(model.network.num_exits)
    return torch.stack([torch.cat([model.network.exit(depth, part) for part in patches]) for depth in depths])
