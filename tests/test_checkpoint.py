# SPDX-License-Identifier: Apache-2.0
"""Model files: what is written comes back, and nothing else is let in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import load_model, load_parts, model_header, save_backbone, save_model, shipped_models
from enaf.estimator import create_estimator
from enaf.models import backbone_names, create_backbone


@pytest.fixture
def model() -> AdaptiveNetwork:
    torch.manual_seed(1)
    return AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper"))


def test_round_trip(model: AdaptiveNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"recipe": "none"})
    loaded = load_model(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert model_header(path)["recipe"] == "none"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_rejects_damage(model: AdaptiveNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    content, header = path.read_bytes(), model_header(path)
    tensors = load_file(path)

    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
        load_model(path)
    path.write_bytes(content[:-4] + b"\1\2\3\4")
    with pytest.raises(ValueError, match="do not match the hash in the header"):
        load_model(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="expected a header with format 'enaf-1', got None"):
        load_model(path)
    save_file({**tensors, "extra": torch.zeros(1)}, path, metadata=header)
    with pytest.raises(ValueError, match="unexpected tensor extra"):
        load_model(path)
    save_file({**tensors, "network.head.0.bias": torch.zeros(3)}, path, metadata=header)
    with pytest.raises(ValueError, match=r"network\.head\.0\.bias: expected shape \(56,\), got \(3,\)"):
        load_model(path)
    save_model(model, path)
    with pytest.raises(ValueError, match="upscales by 4, asked for 2"):
        load_model(path, scale=2)


def test_shipped_models_load_and_match_their_hash() -> None:
    assert "fsrcnn-x4" in shipped_models()
    for name, path in shipped_models().items():
        model = load_model(name, int(name[-1]))
        assert model.network.scale == int(name[-1])
        assert path.stat().st_size < 10_000_000
        assert path.with_suffix(".md").is_file(), "a model card"


def test_backbone_alone(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    network = create_backbone("carn", 3)
    save_backbone(network, path, {"recipe": "none"})
    header = model_header(path)
    assert header["recipe"] == "none"
    assert "estimator" not in header
    with pytest.raises(ValueError, match=r"backbone\.safetensors: holds a backbone alone"):
        load_model(path, 3)
    loaded, estimator = load_parts(path, 3)
    assert estimator is None
    pairs = zip(loaded.backbone_parameters(), network.backbone_parameters(), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(loaded.exit(3, lr), network.exit(3, lr))

    save_file({**load_file(path), "network.early_exits.0.0.bias": torch.zeros(144)}, path, metadata=header)
    with pytest.raises(ValueError, match=r"unexpected tensor network\.early_exits"):
        load_parts(path, 3)


def test_parts_of_a_whole_model(model: AdaptiveNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    network, estimator = load_parts(path)
    assert network.training
    assert estimator is not None
    loaded = AdaptiveNetwork(network, estimator).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_round_trip_of_every_backbone(name: str, scale: int, tmp_path: Path) -> None:
    model = AdaptiveNetwork(create_backbone(name, scale), create_estimator("gain"))
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    assert path.stat().st_size < 10_000_000
    loaded = load_model(path, scale).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error(content: bytes, data: st.DataObject) -> None:
    """Cut anywhere or changed in any byte, a file is refused: its hash covers every tensor and its header is checked."""
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        header = 8 + int.from_bytes(content[:8], "little")
        ranges = st.sampled_from([(0, 8), (8, header - 1), (header, len(content) - 1)])
        first, last = data.draw(ranges)
        damaged[data.draw(st.integers(first, last))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.safetensors"
        path.write_bytes(damaged)
        try:
            loaded = load_model(path).state_dict()
        except ValueError as error:
            assert "damaged.safetensors" in str(error)  # noqa: PT017  # both outcomes are right
        else:  # a note of the header was changed, which no tensor depends on
            path.write_bytes(content)
            assert all(torch.equal(loaded[key], tensor) for key, tensor in load_model(path).state_dict().items())


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper")), path, {"recipe": "none"})
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vdsr"}, r"model\.safetensors: backbone: expected one of .*, got 'vdsr'"),
        ({"estimator": "oracle"}, r"model\.safetensors: estimator: expected one of .*, got 'oracle'"),
        ({"sha256": None}, r"model\.safetensors: expected a header with sha256, found none"),
        ({"scale": None}, r"model\.safetensors: expected a header with scale, found none"),
    ],
)
def test_rejects_headers(model: AdaptiveNetwork, tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    header = {key: value for key, value in {**model_header(path), **change}.items() if value is not None}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(ValueError, match=message):
        load_model(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((56,), float("nan")), "expected finite values"),
        (torch.zeros(56, dtype=torch.int32), r"expected plain floating numbers, got torch\.int32"),
    ],
)
def test_rejects_values(model: AdaptiveNetwork, tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    header = model_header(path)
    save_file({**load_file(path), "network.head.0.bias": tensor}, path, metadata=header)
    with pytest.raises(ValueError, match=rf"model\.safetensors: network\.head\.0\.bias: {message}"):
        load_model(path)


def test_tiling_is_kept(tmp_path: Path) -> None:
    network = create_backbone("fsrcnn")
    for tiling in ("seamless", "paper"):
        save_model(AdaptiveNetwork(network, create_estimator("paper"), tiling), tmp_path / "model.safetensors")
        assert load_model(tmp_path / "model.safetensors").tiling == tiling
    with pytest.raises(ValueError, match="tiling: expected seamless or paper, got 'diagonal'"):
        AdaptiveNetwork(network, create_estimator("paper"), "diagonal")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("fsrcnn", 5, "scale: 'fsrcnn' is shipped for 2, 3, 4, asked for 5"),
        ("light", 2, "scale: 'light' is shipped for 4, asked for 2"),
        ("fsr", 4, r"model: expected a \.safetensors path or one of the shipped models \(.*\), got 'fsr'"),
    ],
)
def test_what_is_not_shipped(name: str, scale: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        load_model(name, scale)
