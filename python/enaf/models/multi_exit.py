# SPDX-License-Identifier: Apache-2.0
"""The protocol every multi-exit backbone follows; estimator, fusion, cost, trainer and runtime know only this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2)}
"""Pixel shuffles by which published networks reach a scale: one after another."""


class MultiExitNetwork(nn.Module, ABC):
    """A super-resolution backbone that can be left at several depths (paper, equations 2 and 3).

    Exit 0 is bicubic interpolation and has no parameters. Exits 1 to ``num_exits - 1`` each consist of a trunk stage,
    which continues the features of the stage before it, and a tail, which turns features into pixels:

        features_j = stage_j(features_{j-1}),  features_0 = lr,   sr_j = tail_j(features_j, lr)

    A copy may compute in half precision. Beside bfloat16, which has eight bits for a colour, images stay float32, and so do the
    layers that see them: those named in ``first`` and ``exact``.

    A subclass defines ``stage`` and ``tail``, and keeps what only early exits need in ``early_exits``. Nothing else of it
    is known outside its file. A stage may be empty, where two exits differ in their tails alone.

    Attributes:
        name: registry name of the backbone.
        num_exits: number of exits, bicubic included.
        scale: upscaling factor.
        shuffled: whether ``tail`` returns pixels (N, 3, s*P, s*P); otherwise it returns the sub-pixel layout
            (N, 3*s*s, P, P) that ``torch.nn.functional.pixel_shuffle`` would turn into pixels, so that the runtime can
            fuse the shuffle with the blend.
        first: names of the layers that ``stage`` applies to the LR patches, one after another.
        exact: names of the layers that ``tail`` applies to them.
        early_exits: the layers that the full exit does without.
    """

    name: ClassVar[str]
    num_exits: ClassVar[int] = 4
    shuffled: ClassVar[bool]
    first: ClassVar[tuple[str, ...]]
    exact: ClassVar[tuple[str, ...]] = ()
    early_exits: nn.ModuleList

    def __init__(self, scale: int) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale: expected 2, 3 or 4, got {scale}")
        self.scale = scale

    @abstractmethod
    def stage(self, depth: int, features: Tensor) -> Tensor:
        """Trunk stage ``depth`` (1 <= depth < num_exits) on the features of stage ``depth - 1`` (the LR patches for 1)."""

    @abstractmethod
    def tail(self, depth: int, features: Tensor, lr: Tensor) -> Tensor:
        """Exit ``depth``: features of stage ``depth`` and LR patches to pixels, laid out as ``shuffled`` says."""

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes: that of all layers but the ``first`` and ``exact`` ones."""
        names, seeing = self.named_parameters(), (*self.first, *self.exact)
        return next(weight.dtype for name, weight in names if name.partition(".")[0] not in seeing)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters of the published network alone, without early exits: what phase 1 trains."""
        early = {id(p) for p in self.early_exits.parameters()}
        return [p for p in self.parameters() if id(p) not in early]

    def pixels(self, output: Tensor) -> Tensor:
        """The result of ``tail`` as pixels (N, 3, s*P, s*P)."""
        return output if self.shuffled else F.pixel_shuffle(output, self.scale)

    def exit(self, depth: int, lr: Tensor) -> Tensor:
        """Run the whole batch to one exit.

        Args:
            depth: exit index, 0 <= depth < num_exits.
            lr: (N, 3, H, W), float, values in [0, 1].

        Returns:
            (N, 3, s*H, s*W), not clamped.
        """
        if depth == 0:
            return bicubic(lr, self.scale)
        features = lr
        for index in range(1, depth + 1):
            features = self.stage(index, features)
        return self.pixels(self.tail(depth, features, lr))

    def forward(self, lr: Tensor) -> list[Tensor]:
        """All learned exits, shallowest first: ``num_exits - 1`` tensors (N, 3, s*H, s*W), not clamped."""
        outputs, features = [], lr
        for depth in range(1, self.num_exits):
            features = self.stage(depth, features)
            outputs.append(self.pixels(self.tail(depth, features, lr)))
        return outputs


Module = TypeVar("Module", bound=nn.Module)


def channels_last(module: Module) -> Module:
    """``module`` with its convolutions' weights laid out for channels_last images, in place."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack memory_format


def bicubic(lr: Tensor, scale: int) -> Tensor:
    """Exit 0: torch's bicubic interpolation (a = -0.75, half-pixel centres), not clamped."""
    return F.interpolate(lr, scale_factor=float(scale), mode="bicubic", align_corners=False)


class SubPixelTransposedConvolution(nn.ConvTranspose2d):
    """A strided transposed convolution, evaluated as an ordinary convolution in sub-pixel layout.

    Output pixel s*q + r of a transposed convolution with stride s and padding p sums x[q + d] * w[r + p - s*d]: every
    phase r is a small ordinary convolution. Parameters, initialisation and state-dict keys are those of
    ``nn.ConvTranspose2d``; the result is the same sum in another order, several times faster on a CPU.
    """

    phase_taps: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, scale: int, padding: int) -> None:
        output_padding = scale + 2 * padding - kernel_size
        super().__init__(in_channels, out_channels, kernel_size, scale, padding, output_padding)
        self.scale = scale
        # tap[r, d + reach] = index into the kernel, or kernel_size (a zero) where the kernel does not reach
        reach = max((kernel_size - 1 - padding) // scale, (scale - 1 + padding) // scale)
        taps = torch.arange(scale)[:, None] + padding - scale * torch.arange(-reach, reach + 1)[None, :]
        taps[(taps < 0) | (taps >= kernel_size)] = kernel_size
        self.reach = reach
        self.register_buffer("phase_taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # output_size has no meaning here
        """(N, C, H, W) -> (N, out_channels*s*s, H, W), the layout before ``pixel_shuffle``."""
        bias = None if self.bias is None else self.bias.repeat_interleave(self.scale * self.scale)
        return F.conv2d(x, self._kernel(), bias, padding=self.reach)

    def _kernel(self) -> Tensor:
        size = 2 * self.reach + 1
        kernel = F.pad(self.weight, (0, 1, 0, 1))[:, :, self.phase_taps]  # (in, out, s, size, k+1)
        kernel = kernel[..., self.phase_taps]  # (in, out, s_y, size_y, s_x, size_x)
        return kernel.permute(1, 2, 4, 0, 3, 5).reshape(-1, self.in_channels, size, size)

    def as_convolution(self) -> nn.Conv2d:
        """The ordinary convolution to the sub-pixel layout that this is; it shares no memory."""
        kernel = self._kernel()
        layer = nn.Conv2d(
            self.in_channels, len(kernel), kernel.shape[-1], padding=self.reach, bias=self.bias is not None
        )
        layer.weight = nn.Parameter(kernel, requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.repeat_interleave(self.scale * self.scale), requires_grad=False)
        return layer
