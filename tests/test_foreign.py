# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other projects, against their networks written down again in plain torch."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model, load_parts
from enaf.cli import main
from enaf.foreign import import_checkpoint
from enaf.models import create_backbone

State = dict[str, Tensor]


def layer(name: str, *shape: int, outputs: int = 0) -> State:
    """Random weight of this shape and bias, at a size that keeps the variance of what passes."""
    fan_in = shape[1] * shape[2] * shape[3]
    return {
        f"{name}.weight": torch.randn(shape) / fan_in**0.5,
        f"{name}.bias": 0.1 * torch.randn(outputs or shape[0]),
    }


def convolve(state: State, name: str, x: Tensor, groups: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, groups=groups)


def leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


def shuffle(x: Tensor, factor: int = 2) -> Tensor:
    return functional.pixel_shuffle(x, factor)


def estimator_state() -> State:
    state = layer("estimator.CondNet.0", 128, 3, 4, 4)
    for index in (2, 4, 6):
        state |= layer(f"estimator.CondNet.{index}", 128, 128, 1, 1)
    state |= layer("estimator.CondNet.8", 32, 128, 1, 1)
    return state | {"estimator.lastOut.weight": torch.randn(4, 32), "estimator.lastOut.bias": torch.randn(4) - 30}


def estimate(state: State, lr: Tensor) -> Tensor:
    """Minus the PSNR."""
    x = functional.conv2d(lr, state["estimator.CondNet.0.weight"], state["estimator.CondNet.0.bias"], stride=4)
    for index in (2, 4, 6, 8):
        x = convolve(state, f"estimator.CondNet.{index}", leaky(x))
    return functional.linear(x.mean(dim=(2, 3)), state["estimator.lastOut.weight"], state["estimator.lastOut.bias"])


def fsrcnn_state(scale: int, complete: bool) -> State:
    state = layer("head_conv.0", 56, 3, 5, 5) | layer("body_conv.0.0", 12, 56, 1, 1)
    for step in range(1, 5):
        state |= layer(f"body_conv.{step}", 12, 12, 3, 3)
    state |= layer("body_conv.6.0", 56, 12, 1, 1) | layer("tail_conv", 56, 3, 9, 9, outputs=3)
    for index, name in enumerate(("head_conv.1", "body_conv.0.1", "body_conv.5", "body_conv.6.1")):
        state[f"{name}.weight"] = torch.tensor([0.1 + 0.1 * index])
    if complete:
        for index, width in enumerate((16, 36)):
            state |= layer(f"predictors.{index}.0", width, 12, 3, 3)
            state |= layer(f"predictors.{index}.2", width, 3, 9, 9, outputs=3)
    return state


def fsrcnn(state: State, lr: Tensor, scale: int) -> dict[int, Tensor]:
    def activate(name: str, x: Tensor) -> Tensor:
        return functional.prelu(x, state[f"{name}.weight"])

    def enlarge(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.conv_transpose2d(x, weight, bias, stride=4, padding=3, output_padding=1)

    x = activate("head_conv.1", convolve(state, "head_conv.0", lr))
    x = activate("body_conv.0.1", convolve(state, "body_conv.0.0", x))
    first = convolve(state, "body_conv.2", convolve(state, "body_conv.1", x))
    second = convolve(state, "body_conv.4", convolve(state, "body_conv.3", first))
    second = activate("body_conv.5", second)
    exits = {3: enlarge("tail_conv", activate("body_conv.6.1", convolve(state, "body_conv.6.0", second)))}
    if "predictors.0.0.weight" in state:
        for index, x in enumerate((first, second)):
            exits[index + 1] = enlarge(f"predictors.{index}.2", leaky(convolve(state, f"predictors.{index}.0", x)))
    return exits


def carn_state(scale: int, complete: bool) -> State:
    state: State = {}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):  # nearly the mean shift that they are meant to be
        state[f"{name}.weight"] = (torch.eye(3) + 0.01 * torch.randn(3, 3)).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * torch.tensor([0.4488, 0.4371, 0.4040]) + 0.01 * torch.randn(3)
    state |= layer("entry", 64, 3, 3, 3)
    for block in ("b1.", "b2.", "b3.", ""):
        if block:
            state |= layer(f"{block}b1.body.0", 64, 16, 3, 3) | layer(f"{block}b1.body.2", 64, 16, 3, 3)
            state |= layer(f"{block}b1.body.4", 64, 64, 1, 1)
        for fusion in (1, 2, 3):
            state |= layer(f"{block}c{fusion}.0", 64, 64 * (fusion + 1), 1, 1)
    state |= layer("upsample.up.body.0", 64 * (9 if scale == 3 else 4), 16, 3, 3)
    if scale == 4:
        state |= layer("upsample.up.body.3", 256, 16, 3, 3)
    state |= layer("exit", 3, 64, 3, 3)
    if complete:
        for index, width in enumerate((16, 32)):
            state |= layer(f"predictors.{index}.0", 4 * width, 16, 3, 3)
            state |= layer(f"predictors.{index}.3", 4 * width, width // 4, 3, 3)
            state |= layer(f"predictors.{index}.6", 3, width, 3, 3)
    return state


def carn(state: State, lr: Tensor, scale: int) -> dict[int, Tensor]:
    def fuse(name: str, *parts: Tensor) -> Tensor:
        return convolve(state, name, torch.cat(parts, dim=1)).relu()

    def unit(name: str, x: Tensor) -> Tensor:
        y = convolve(state, f"{name}.body.0", x, 4).relu()
        y = convolve(state, f"{name}.body.2", y, 4).relu()
        return (convolve(state, f"{name}.body.4", y) + x).relu()

    def block(name: str, x: Tensor) -> Tensor:
        first = unit(f"{name}.b1", x)
        second = unit(f"{name}.b1", fuse(f"{name}.c1.0", x, first))
        third = unit(f"{name}.b1", fuse(f"{name}.c2.0", x, first, second))
        return fuse(f"{name}.c3.0", x, first, second, third)

    x = convolve(state, "entry", convolve(state, "sub_mean", lr))
    first = block("b1", x)
    second = block("b2", fuse("c1.0", x, first))
    third = block("b3", fuse("c2.0", x, first, second))
    trunk = fuse("c3.0", x, first, second, third)
    large = trunk
    for step in (0, 3) if scale == 4 else (0,):
        factor = 3 if scale == 3 else 2
        large = shuffle(convolve(state, f"upsample.up.body.{step}", large, 4).relu(), factor)
    exits = {3: convolve(state, "exit", large)}
    if "predictors.0.0.weight" in state:
        for index in (0, 1):
            y = shuffle(leaky(convolve(state, f"predictors.{index}.0", trunk, 4)))
            y = shuffle(leaky(convolve(state, f"predictors.{index}.3", y, 4)))
            exits[index + 1] = convolve(state, f"predictors.{index}.6", y)
    return {depth: convolve(state, "add_mean", sr) for depth, sr in exits.items()}


def srresnet_state(scale: int, complete: bool) -> State:
    state = layer("conv_first", 64, 3, 3, 3) | layer("upconv1", 64 * (9 if scale == 3 else 4), 64, 3, 3)
    if scale == 4:
        state |= layer("upconv2", 256, 64, 3, 3)
    for index in range(16):
        state |= layer(f"recon_trunk.{index}.conv1", 64, 64, 3, 3)
        state |= layer(f"recon_trunk.{index}.conv2", 64, 64, 3, 3)
        state[f"recon_trunk.{index}.conv2.weight"] *= 0.1
    state |= layer("HRconv", 64, 64, 3, 3) | layer("conv_last", 3, 64, 3, 3)
    if complete:
        for index, (width, kernel) in enumerate(((16, 1), (32, 3))):
            state |= layer(f"predictors.{index}.0", 256, 64, 3, 3)
            state |= layer(f"predictors.{index}.3", 4 * width, 64, 3, 3)
            state |= layer(f"predictors.{index}.6", width, width, 3, 3)
            state |= layer(f"predictors.{index}.8", 3, width, kernel, kernel)
    return state


def srresnet(state: State, lr: Tensor, scale: int) -> dict[int, Tensor]:
    x = leaky(convolve(state, "conv_first", lr))
    after = []
    for index in range(16):
        y = convolve(state, f"recon_trunk.{index}.conv1", x).relu()
        x = x + convolve(state, f"recon_trunk.{index}.conv2", y)
        after.append(x)
    factor = 3 if scale == 3 else 2
    for name in ("upconv1", "upconv2") if scale == 4 else ("upconv1",):
        x = leaky(shuffle(convolve(state, name, x), factor))
    exits = {3: convolve(state, "conv_last", leaky(convolve(state, "HRconv", x)))}
    if "predictors.0.0.weight" in state:
        for index, y in enumerate((after[8], after[15])):
            for step in (0, 3):
                y = leaky(shuffle(convolve(state, f"predictors.{index}.{step}", y)))
            y = leaky(convolve(state, f"predictors.{index}.6", y))
            exits[index + 1] = convolve(state, f"predictors.{index}.8", y)
    base = functional.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    return {depth: sr + base for depth, sr in exits.items()}


NETWORKS: dict[str, tuple[Callable[[int, bool], State], Callable[[State, Tensor, int], dict[int, Tensor]]]] = {
    "fsrcnn": (fsrcnn_state, fsrcnn),
    "carn": (carn_state, carn),
    "srresnet": (srresnet_state, srresnet),
}


def saved(folder: Path, content: object, name: str = "foreign.t7") -> Path:
    torch.save(content, folder / name)
    return folder / name


def doubled(state: State) -> State:
    return {name: tensor.double() for name, tensor in state.items()}


@pytest.mark.parametrize("backbone", NETWORKS)
def test_authors_format_computes_the_same(backbone: str, tmp_path: Path) -> None:
    make, run = NETWORKS[backbone]
    state = make(4, True) | estimator_state()
    model = import_checkpoint(saved(tmp_path, state), backbone)
    assert isinstance(model, AdaptiveNetwork)
    assert not model.training
    lr = torch.rand(2, 3, 12, 9, dtype=torch.float64)
    expected = run(doubled(state), lr, 4)
    for depth, sr in enumerate(model.double().network(lr), start=1):
        torch.testing.assert_close(sr, expected[depth], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.estimator(lr), -estimate(doubled(state), lr), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "scale"), [("fsrcnn", 4), *((name, scale) for name in ("carn", "srresnet") for scale in (2, 3, 4))]
)
def test_published_network_alone_computes_the_same(backbone: str, scale: int, tmp_path: Path) -> None:
    make, run = NETWORKS[backbone]
    state = make(scale, False)
    network = import_checkpoint(saved(tmp_path, state), backbone)
    assert not isinstance(network, AdaptiveNetwork)
    assert network.scale == scale
    lr = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    expected = run(doubled(state), lr, scale)[3]
    torch.testing.assert_close(network.double().exit(3, lr), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["params", "params_ema"])
def test_basicsr_naming(wrapper: str, tmp_path: Path) -> None:
    state = srresnet_state(4, False)
    names = {name: name.replace("recon_trunk", "body").replace("HRconv", "conv_hr") for name in state}
    theirs = {names[name]: tensor for name, tensor in state.items()}
    content = {wrapper: theirs} if wrapper == "params" else {"params": srresnet_state(4, False), wrapper: theirs}
    network = import_checkpoint(saved(tmp_path, content), "srresnet")
    same = import_checkpoint(saved(tmp_path, state), "srresnet")
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(network.exit(3, lr), same.exit(3, lr))


@pytest.mark.parametrize("backbone", NETWORKS)
def test_every_parameter_comes_from_the_file(backbone: str, tmp_path: Path) -> None:
    state = {
        name: torch.full_like(t, 0.125) for name, t in (NETWORKS[backbone][0](4, True) | estimator_state()).items()
    }
    model = import_checkpoint(saved(tmp_path, state), backbone)
    fresh = AdaptiveNetwork(create_backbone(backbone), type(model.estimator)())
    for (name, mine), (_, other) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert not torch.equal(mine, other), name
        assert len(mine.unique()) == 1, name


class Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("write", [pickle.dumps, None])
@pytest.mark.parametrize("content", [Hostile(), {"head_conv.0.weight": Hostile()}])
def test_nothing_is_executed(
    content: object, write: Callable[[object], bytes] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if write is None:
        torch.save(content, "hostile.t7")
    else:
        Path("hostile.t7").write_bytes(write(content))
    with pytest.raises(ValueError, match=r"^hostile\.t7: not a torch state dict, or damaged"):
        import_checkpoint("hostile.t7", "fsrcnn")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"odd.weight": torch.zeros(1)}, "unexpected tensor odd.weight"),
        ({"tail_conv.bias": None}, r"expected a tensor tail_conv\.bias, found none"),
        ({"head_conv.0.bias": torch.zeros(64)}, r"head_conv\.0\.bias: expected shape \(56,\), got \(64,\)"),
        ({"head_conv.0.bias": torch.full((56,), float("inf"))}, r"head_conv\.0\.bias: expected finite values"),
        ({"head_conv.0.bias": torch.zeros(56, dtype=torch.complex64)}, "expected plain floating numbers, got torch.complex"),
        ({"head_conv.0.bias": torch.zeros(56).to_sparse()}, "expected plain floating numbers, got .*sparse"),
        ({"head_conv.0.bias": torch.zeros(56, device="meta")}, "expected plain floating numbers"),
        ({"head_conv.0.bias": 3}, r"head_conv\.0\.bias: expected a tensor, got int"),
        ({1: torch.zeros(1)}, r"1: expected a name, got int"),
        ({"predictors.0.0.bias": torch.zeros(16)}, r"expected a tensor predictors\.0\.0\.weight, found none"),
        ({"estimator.lastOut.bias": torch.zeros(4)}, r"expected a tensor predictors\.0\.0\.weight, found none"),
    ],
)  # fmt: skip
def test_names_file_and_first_mismatch(change: dict, message: str, tmp_path: Path) -> None:
    state = {key: value for key, value in {**fsrcnn_state(4, False), **change}.items() if value is not None}
    path = saved(tmp_path, state)
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        import_checkpoint(path, "fsrcnn")


def test_rejects(tmp_path: Path) -> None:
    path = saved(tmp_path, carn_state(3, False))
    with pytest.raises(ValueError, match="backbone: expected one of carn, fsrcnn, srresnet, got 'light'"):
        import_checkpoint(path, "light")
    with pytest.raises(ValueError, match=rf"scale: {path} upscales by 3, asked for 4"):
        import_checkpoint(path, "carn", 4)
    with pytest.raises(ValueError, match="scale: expected 2, 3 or 4, got 8"):
        import_checkpoint(saved(tmp_path, fsrcnn_state(4, False)), "fsrcnn", 8)
    with pytest.raises(ValueError, match=r"expected a tensor conv_first\.weight, found none"):
        import_checkpoint(path, "srresnet")
    with pytest.raises(ValueError, match="expected a dict of tensors, got list"):
        import_checkpoint(saved(tmp_path, [torch.zeros(1)]), "carn")
    with pytest.raises(FileNotFoundError):
        import_checkpoint(tmp_path / "missing.t7", "carn")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_harmless(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    torch.save(fsrcnn_state(4, False), buffer)
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.t7"
        path.write_bytes(content)
        try:  # the format has no checksum: a changed number may pass
            import_checkpoint(path, "fsrcnn")
        except ValueError as error:
            assert "damaged.t7" in str(error)  # noqa: PT017  # both outcomes are right


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, fsrcnn_state(4, True) | estimator_state())
    target = tmp_path / "imported.safetensors"
    assert main(["import", str(source), "--backbone", "fsrcnn", "-o", str(target)]) == 0
    assert "fsrcnn x4 with its exits and estimator" in capsys.readouterr().out
    lr = torch.rand(1, 3, 32, 32)
    imported = import_checkpoint(source, "fsrcnn")
    assert torch.equal(load_model(target).estimator(lr), imported.estimator(lr))

    alone = saved(tmp_path, srresnet_state(2, False), "alone.pth")
    target.unlink()
    assert main(["import", str(alone), "--backbone", "srresnet", "-o", str(target)]) == 0
    assert "srresnet x2 alone" in capsys.readouterr().out
    assert torch.equal(load_parts(target, 2)[0].exit(3, lr), import_checkpoint(alone, "srresnet").exit(3, lr))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "carn", "-o", "out.safetensors"], "expected a tensor sub_mean.weight, found none"),
        (["--backbone", "fsrcnn", "-o", "out.pth"], "-o: expected a name that ends in .safetensors, got out.pth"),
        (["--backbone", "fsrcnn", "-o", "missing/out.safetensors"], "missing/out.safetensors: cannot be written"),
    ],
)
def test_command_leaves_nothing_behind(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, fsrcnn_state(4, False))
    assert main(["import", "foreign.t7", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir() == ["foreign.t7"]
