# SPDX-License-Identifier: Apache-2.0
"""Every registered backbone, untrained, through the runtime."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import enaf_ext
from enaf.adaptive import AdaptiveNetwork
from enaf.estimator import create_estimator
from enaf.models import backbone_names, create_backbone
from enaf_ext import reference
from enaf_ext.grid import PatchGrid


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_each_exit(name: str, scale: int) -> None:
    network = create_backbone(name, scale).eval()
    upscaler = enaf_ext.Upscaler(AdaptiveNetwork(network, create_estimator("paper", network.num_exits)), scale)
    lr, grid = torch.rand(3, 7, 13), PatchGrid(8, 14, 8, 2)  # the grid over the padded image
    patches = reference.unfold_patches(functional.pad(lr[None], (0, 1, 0, 1), mode="replicate"), grid)
    for depth in range(network.num_exits):
        with torch.inference_mode():
            expected = reference.fold_patches(network.exit(depth, patches), grid.scaled(scale), window="linear")[
                0
            ].clamp(0, 1)
        sr = upscaler(lr, force_exit=depth, patch_size=8, overlap=2, dtype=torch.float32)
        torch.testing.assert_close(sr, expected[:, : 7 * scale, : 13 * scale], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", backbone_names())
def test_mixed_exits(name: str) -> None:
    network, estimator = create_backbone(name).eval(), create_estimator("paper")
    lr, grid = torch.rand(3, 38, 38), PatchGrid(38, 38, 8, 2)
    patches = reference.unfold_patches(lr[None], grid)
    with torch.inference_mode():  # estimates that differ from patch to patch, each exit's in its own way
        estimator.last.weight.normal_()
        estimator.last.weight.div_(estimator(patches).std(dim=0)[:, None])
        estimator.last.bias.sub_(estimator(patches).mean(dim=0))
    upscaler = enaf_ext.Upscaler(AdaptiveNetwork(network, estimator, "paper"))
    wish = {"eta": 0.0, "gamma": 0.0, "patch_size": 8, "overlap": 2}
    sr, info = upscaler(lr, **wish, dtype=torch.float32, return_info=True)
    exit_index = info.exit_index.flatten().tolist()
    assert len(set(exit_index)) == network.num_exits
    with torch.inference_mode():
        outputs = torch.cat([network.exit(j, patches[n : n + 1]) for n, j in enumerate(exit_index)])
    expected = reference.fold_patches(outputs, grid.scaled(4))[0].clamp(0, 1)
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-5)
