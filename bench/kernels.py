# SPDX-License-Identifier: Apache-2.0
"""Times every operator against its floor and its peers, on one device, in one run. See README.md for the contract.

python bench/kernels.py [--device cpu|cuda] [--size 480x270 ...] [--scale 4] [--seconds 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, Row, attempt, copies_beyond_cache, nbytes
from torch import Tensor
from torch.nn import functional as F

from enaf.exits import run_exits
from enaf.fused import FusedNetwork, flat_weights
from enaf.inference import batch_size, prepare
from enaf.models.fsrcnn import FSRCNN
from enaf_ext import ops, reference
from enaf_ext.grid import PatchGrid


def optional(name: str) -> Any:
    """A peer's package, or None."""
    try:
        return importlib.import_module(name)
    except Exception:  # a broken installation must not end the benchmark of the others
        return None


class Bench:
    """The cases over an LR image of `height` x `width`; results are `scale` times as large."""

    def __init__(
        self, report: Report, height: int, width: int, scale: int, patch_size: int, overlap: int, seconds: float
    ):
        self.report = report
        self.device = report.device
        self.scale = scale
        self.seconds = seconds
        self.grid = PatchGrid(height, width, patch_size, overlap)
        self.sr_grid = self.grid.scaled(scale)
        self.float = torch.float16 if self.device.type == "cuda" else torch.float32  # what the runtime computes in
        self.label = f"LR {width}x{height}"
        torch.manual_seed(0)

    def image(self, dtype: torch.dtype, grid: PatchGrid | None = None, *, padded: bool = False) -> Tensor:
        """A random RGB image, of the grid's padded size for peers that know no edge."""
        grid = grid or self.grid
        size = (grid.padded_height, grid.padded_width) if padded else (grid.height, grid.width)
        if dtype.is_floating_point:
            return torch.rand(1, 3, *size, device=self.device).to(dtype)
        return torch.randint(0, 256, (1, 3, *size), device=self.device, dtype=dtype)

    def sets(self, make: Callable[[], Tensor]) -> list[Tensor]:
        """Enough inputs that none is still in the cache when it is used again."""
        first = make()
        return [first, *(make() for _ in range(copies_beyond_cache(nbytes(first), self.device) - 1))]

    def time(self, case: str, name: str, call: Callable[[Tensor], Any], inputs: list[Tensor], **about: Any) -> Row:
        with torch.inference_mode():
            return attempt(
                f"{self.label}: {case}",
                name,
                lambda i: call(inputs[i % len(inputs)]),
                self.device,
                seconds=self.seconds,
                **about,
            )

    def edge_score(self) -> None:
        case = "edge_score, uint8 RGB"
        images = self.sets(lambda: self.image(torch.uint8))
        rows = [
            self.time(case, "enaf_ext", partial(ops.edge_score, grid=self.grid), images, bytes_moved=nbytes(images[0]))
        ]
        interleaved = [image.contiguous(memory_format=torch.channels_last) for image in images]
        rows.append(
            self.time(
                case,
                "enaf_ext, interleaved",
                partial(ops.edge_score, grid=self.grid),
                interleaved,
                bytes_moved=nbytes(images[0]),
            )
        )
        rows.append(self.time(case, "torch, composed, vectorised", self.torch_edge_score, images))
        cv2 = optional("cv2")
        if cv2 is not None and self.device.type == "cpu":
            arrays = [image[0].permute(1, 2, 0).contiguous() for image in images]
            rows.append(
                self.time(case, "OpenCV, a Python loop over patches", partial(self.opencv_edge_score, cv2), arrays)
            )
        kornia = optional("kornia")
        if kornia is not None:
            rows.append(
                self.time(case, "kornia laplacian of unfolded patches", partial(self.kornia_edge_score, kornia), images)
            )
        self.report.add(rows)

    def padded_view(self, image: Tensor) -> Tensor:
        """(N, C, P, P), a copy, of an image brought to the padded size."""
        grid = self.grid
        image = F.pad(
            image.float(), (0, grid.padded_width - grid.width, 0, grid.padded_height - grid.height), mode="replicate"
        )
        windows = image.unfold(2, grid.patch_size, grid.stride).unfold(3, grid.patch_size, grid.stride)
        return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, grid.patch_size, grid.patch_size)

    def torch_edge_score(self, image: Tensor) -> Tensor:
        patches = self.padded_view(image)
        weights = torch.tensor([9798.0, 19235.0, 3735.0], device=image.device).view(1, 3, 1, 1)
        grey = (((patches * weights).sum(1, keepdim=True) + 16384) / 32768).floor()
        kernel = torch.tensor([[2.0, 0, 2], [0, -8, 0], [2, 0, 2]], device=image.device).view(1, 1, 3, 3)
        return F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), kernel).abs().clamp(max=255).mean((1, 2, 3))

    def kornia_edge_score(self, kornia: Any, image: Tensor) -> Tensor:
        grey = kornia.color.rgb_to_grayscale(self.padded_view(image))
        return kornia.filters.laplacian(grey, 3, normalized=False).abs().clamp(max=255).mean((1, 2, 3))

    def opencv_edge_score(self, cv2: Any, image: Tensor) -> list[float]:
        array = image.numpy()
        grid = self.grid
        scores = []
        for n in range(grid.num_patches):
            y, x = grid.origin(n)
            patch = array[y : y + grid.patch_size, x : x + grid.patch_size]
            grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
            scores.append(cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S, ksize=3)).mean())
        return scores

    def cell_details(self) -> None:
        case = "cell_details, float32 RGB, channels_last"
        height, width = (side // 4 * 4 + 2 for side in (self.grid.height, self.grid.width))
        images = self.sets(
            lambda: self.image(torch.float32, PatchGrid(height, width)).contiguous(memory_format=torch.channels_last)
        )
        moved = nbytes(images[0], ops.cell_details(images[0]))
        rows = [
            self.time(case, "enaf_ext", ops.cell_details, images, bytes_moved=moved),
            self.time(case, "torch, composed", self.torch_cell_details, images),
        ]
        self.report.add(rows)

    def torch_cell_details(self, image: Tensor) -> Tensor:
        colours, taps = (torch.tensor(values, device=image.device) for values in zip(*reference.DETAILS, strict=True))
        squares = F.conv2d(image, colours[:, :, None, None] * taps[:, None]).square()
        cells = image[:, :, 1:-1, 1:-1]
        mean = F.avg_pool2d(cells, 4)
        variance = (F.avg_pool2d(cells.square(), 4) - mean.square()).mean(dim=1, keepdim=True).clamp_min(0)
        energies = torch.cat([F.avg_pool2d(squares, 4), F.max_pool2d(squares, 4), variance], dim=1)
        clipping = (mean - 0.5).abs().amax(dim=1, keepdim=True) - 0.45
        return torch.cat([(energies + 2e-6).log() / 4 + 2, (mean - 0.45) * 4, clipping * 8], dim=1)

    def unfold_patches(self) -> None:
        self.unfold(torch.uint8)
        self.unfold(self.float)

    def unfold(self, dtype: torch.dtype) -> None:
        case = f"unfold_patches, {dtype}"
        images = self.sets(lambda: self.image(dtype))
        padded = self.sets(lambda: self.image(dtype, padded=True))
        result = ops.unfold_patches(images[0], self.grid)
        target = torch.empty_like(result)
        sources = self.sets(result.clone)
        p, s = self.grid.patch_size, self.grid.stride
        moved, copied = nbytes(images[0], result), 2 * nbytes(result)

        def windows(x: Tensor) -> Tensor:
            return x.unfold(2, p, s).unfold(3, p, s).permute(0, 2, 3, 1, 4, 5).contiguous()

        rows = [
            self.time(case, "enaf_ext", partial(ops.unfold_patches, grid=self.grid), images, bytes_moved=moved),
            self.time(case, "copy of the bytes written, into new memory", torch.clone, sources, bytes_moved=copied),
            self.time(case, "the same, always into the same memory", target.copy_, sources, bytes_moved=copied),
            self.time(case, "torch Tensor.unfold, contiguous", windows, padded),
        ]
        if dtype.is_floating_point:
            rows.append(self.time(case, "F.unfold (columns, not patches)", lambda x: F.unfold(x, p, stride=s), padded))
            kornia = optional("kornia")
            if kornia is not None:
                extract = partial(kornia.contrib.extract_tensor_patches, window_size=p, stride=s)
                rows.append(self.time(case, "kornia extract_tensor_patches", extract, padded))
        self.report.add(rows)

    def gather_patches(self) -> None:
        case = f"gather_patches, half of the patches, uint8 to {self.float}, channels_last"
        images = self.sets(lambda: self.image(torch.uint8))
        order = torch.randperm(self.grid.num_patches, device=self.device)[: (self.grid.num_patches + 1) // 2]
        gather = partial(ops.gather_patches, grid=self.grid, order=order, dtype=self.float, channels_last=True)
        moved = nbytes(gather(images[0])) + nbytes(images[0]) // 2
        interleaved = [image.contiguous(memory_format=torch.channels_last) for image in images]
        patches = self.sets(lambda: ops.unfold_patches(images[0], self.grid).clone())

        def composed(every: Tensor) -> Tensor:
            return every.index_select(0, order).to(self.float).div(255).contiguous(memory_format=torch.channels_last)

        self.report.add(
            [
                self.time(case, "enaf_ext", gather, images, bytes_moved=moved),
                self.time(case, "enaf_ext, interleaved image", gather, interleaved, bytes_moved=moved),
                self.time(
                    case,
                    "torch index_select of unfolded, /255, layout",
                    composed,
                    patches,
                    note="unfolding not counted",
                ),
            ]
        )

    def bicubic_patches(self) -> None:
        case = f"bicubic_patches x{self.scale}, uint8 to {self.float}"
        images = self.sets(lambda: self.image(torch.uint8))
        order = torch.randperm(self.grid.num_patches, device=self.device)
        enlarge = partial(ops.bicubic_patches, grid=self.grid, order=order, scale=self.scale, dtype=self.float)
        before_shuffle = partial(enlarge, channels_last=True, shuffled=False)
        moved = nbytes(enlarge(images[0]), images[0])
        patches = self.sets(lambda: ops.gather_patches(images[0], self.grid, order, dtype=self.float))

        def interpolate(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)

        note = "gathering not counted"
        self.report.add(
            [
                self.time(case, "enaf_ext, channels_last before shuffle", before_shuffle, images, bytes_moved=moved),
                self.time(case, "enaf_ext, images", enlarge, images, bytes_moved=moved),
                self.time(case, "F.interpolate of float patches", interpolate, patches, note=note),
                self.time(
                    case,
                    "F.interpolate, channels_last",
                    interpolate,
                    [x.contiguous(memory_format=torch.channels_last) for x in patches],
                    note=note,
                ),
            ]
        )

    def fsrcnn_patches(self) -> None:
        """All layers of the full exit, which on CUDA nothing calls unless ENAF_FUSED_CUDA=1 asks for it."""
        case = f"fsrcnn_patches x{self.scale}, uint8 to {self.float}, full exit"
        count, size = self.grid.num_patches, self.grid.patch_size
        images = self.sets(lambda: self.image(torch.uint8))
        order = torch.arange(count, device=self.device)
        running = [count, count, count, count, 0]
        trained = FSRCNN(self.scale)
        network = prepare(trained, self.device, self.float)
        arguments = {"grid": self.grid, "order": order, "running": running}
        layers = partial(run_exits, network, batch=batch_size(network, size, self.device), **arguments)
        weights = flat_weights(trained).to(self.device)
        patches = partial(ops.fsrcnn_patches, weights=weights, scale=self.scale)
        whole = partial(layers, fused=FusedNetwork(patches, None))
        moved = nbytes(images[0]) + 3 * count * (size * self.scale) ** 2 * self.float.itemsize
        self.report.add(
            [
                self.time(case, "enaf_ext", whole, images, bytes_moved=moved),
                self.time(case, "its layers one by one, before the shuffle", layers, images),
            ]
        )

    def route_exits(self) -> None:
        for count in (self.grid.num_patches, 100_000):
            case = f"route_exits, {count} patches, 4 exits"
            exits = self.sets(lambda count=count: torch.randint(0, 4, (count,), device=self.device))
            moved = 2 * nbytes(exits[0])

            def composed(exit_index: Tensor) -> tuple[Tensor, Tensor]:
                order = torch.argsort(exit_index, descending=True, stable=True)
                counts = (exit_index[None] == torch.arange(4, device=exit_index.device)[:, None]).sum(1)
                return order, counts.flip(0).cumsum(0).flip(0)

            self.report.add(
                [
                    self.time(case, "enaf_ext", lambda x: ops.route_exits(x, 4), exits, bytes_moved=moved),
                    self.time(case, "torch.argsort, counts", composed, exits),
                ]
            )

    def fold_patches(self) -> None:
        grid, scale = self.sr_grid, self.scale
        count, side = grid.num_patches, self.grid.patch_size
        order = torch.randperm(count, device=self.device)

        def before_shuffle() -> Tensor:
            x = torch.rand(count, 3 * scale * scale, side, side, device=self.device).to(self.float)
            return x.contiguous(memory_format=torch.channels_last)

        inputs = self.sets(before_shuffle)
        images = [ops.unfold_patches(self.image(self.float, grid), grid)]
        for window in ("average", "linear"):
            case = f"fold_patches x{scale}, {window}, {self.float} before shuffle, channels_last, permuted, to uint8"
            fold = partial(ops.fold_patches, grid=grid, order=order, window=window, dtype=torch.uint8)
            moved = nbytes(inputs[0]) + 3 * grid.height * grid.width
            rows = [self.time(case, "enaf_ext", fold, inputs, bytes_moved=moved)]
            if window == "average":
                rows.append(
                    self.time(
                        case,
                        "pixel_shuffle, index, F.fold / ones, to uint8",
                        partial(self.torch_fold_to_uint8, order),
                        inputs,
                    )
                )
            self.report.add(rows)

        case = f"fold_patches x{scale}, average, {self.float} images to {self.float}"
        fold = partial(ops.fold_patches, grid=grid)
        moved = nbytes(images[0]) + 3 * grid.height * grid.width * images[0].element_size()
        rows = [
            self.time(case, "enaf_ext", fold, images, bytes_moved=moved),
            self.time(case, "F.fold / F.fold(ones)", self.torch_fold, images),
            self.time(
                case, "F.fold / ones folded once", partial(self.torch_fold, divisor=self.divisor(images[0])), images
            ),
        ]
        kornia = optional("kornia")
        if kornia is not None:
            rows.append(self.time(case, "kornia combine_tensor_patches", partial(self.kornia_fold, kornia), images))
        self.report.add(rows)

    def columns(self, patches: Tensor) -> Tensor:
        """(1, C * P * P, N), what F.fold takes."""
        return patches.reshape(1, patches.shape[0], -1).transpose(1, 2)

    def torch_fold_sum(self, patches: Tensor) -> Tensor:
        grid = self.sr_grid
        size = (grid.padded_height, grid.padded_width)
        return F.fold(self.columns(patches), size, grid.patch_size, stride=grid.stride)

    def divisor(self, patches: Tensor) -> Tensor:
        return self.torch_fold_sum(torch.ones_like(patches))

    def torch_fold(self, patches: Tensor, divisor: Tensor | None = None) -> Tensor:
        divisor = self.divisor(patches) if divisor is None else divisor
        return (self.torch_fold_sum(patches) / divisor)[..., : self.sr_grid.height, : self.sr_grid.width]

    def torch_fold_to_uint8(self, order: Tensor, patches: Tensor) -> Tensor:
        images = F.pixel_shuffle(patches, self.scale)
        placed = torch.empty_like(images, memory_format=torch.contiguous_format).index_copy_(0, order, images)
        return self.torch_fold(placed).clamp(0, 1).mul(255).round().to(torch.uint8)

    def kornia_fold(self, kornia: Any, patches: Tensor) -> Tensor:
        grid = self.sr_grid
        size = (grid.padded_height, grid.padded_width)
        return kornia.contrib.combine_tensor_patches(patches[None], size, grid.patch_size, grid.stride)

    def sliding_window(self) -> None:
        """Unfold and fold with nothing between: the price of tiling itself."""
        case = f"unfold and fold, {self.float}, nothing between"
        padded = self.sets(lambda: self.image(self.float, padded=True))
        grid = PatchGrid(self.grid.padded_height, self.grid.padded_width, self.grid.patch_size, self.grid.overlap)
        rows = [self.time(case, "enaf_ext", lambda x: ops.fold_patches(ops.unfold_patches(x, grid), grid), padded)]
        monai = optional("monai.inferers")
        if monai is not None:
            infer = partial(
                monai.sliding_window_inference,
                roi_size=(grid.patch_size, grid.patch_size),
                sw_batch_size=64,
                predictor=lambda x: x,
                overlap=grid.overlap / grid.patch_size,
            )
            rows.append(self.time(case, "MONAI sliding_window_inference", infer, padded))
        self.report.add(rows)

    def all(self) -> None:
        self.edge_score()
        self.cell_details()
        self.unfold_patches()
        self.gather_patches()
        self.bicubic_patches()
        self.fsrcnn_patches()
        self.route_exits()
        self.fold_patches()
        self.sliding_window()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--size", nargs="+", default=None, help="LR widthxheight; 480x270 on CPU, 1920x1080 and 7680x4320 on CUDA"
    )
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=32)
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, each row")
    parser.add_argument("--only", nargs="+", default=None, help="operators by name")
    parser.add_argument("--json", type=Path, default=None, help="where to write; bench/results/<device>/kernels.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    sizes = arguments.size or (["1920x1080", "7680x4320"] if device.type == "cuda" else ["480x270"])
    settings = {name: value for name, value in vars(arguments).items() if name != "json"} | {"size": sizes}
    report = Report("kernels", device, settings)
    report.header()
    for size in sizes:
        width, height = (int(part) for part in size.lower().split("x"))
        bench = Bench(
            report, height, width, arguments.scale, arguments.patch_size, arguments.overlap, arguments.seconds
        )
        if arguments.only:
            for name in arguments.only:
                getattr(bench, name)()
        else:
            bench.all()
    report.write(arguments.json)


if __name__ == "__main__":
    main()
