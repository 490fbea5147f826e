# SPDX-License-Identifier: Apache-2.0
"""Model files: what is written comes back, and nothing else is let in."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import import_authors_fsrcnn, load_model, model_header, save_model, shipped_models
from enaf.estimator import create_estimator
from enaf.models import create_backbone


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


def authors_state() -> dict[str, torch.Tensor]:
    """A state dict in the naming of the paper's authors."""
    torch.manual_seed(2)
    network, estimator = create_backbone("fsrcnn"), create_estimator("paper")
    names = {"head": "head_conv", "shrink": "body_conv.0", "mapping_activation": "body_conv.5", "expand": "body_conv.6"}
    names |= {f"mapping.{i}": f"body_conv.{i + 1}" for i in range(4)}
    names |= {"upsample": "tail_conv", "early_exits": "predictors", "layers": "estimator.CondNet"}
    state = {"estimator.lastOut.weight": estimator.last.weight.detach(), "estimator.lastOut.bias": estimator.last.bias}
    for key, tensor in [*network.state_dict().items(), *estimator.layers.state_dict(prefix="layers.").items()]:
        stem = max((name for name in names if key.startswith(name + ".")), key=len)
        state[names[stem] + key[len(stem) :]] = tensor
    return {key: tensor.detach() for key, tensor in state.items()}


def test_imports_the_authors_format(tmp_path: Path) -> None:
    state = authors_state()
    path = tmp_path / "authors.t7"
    torch.save(state, path)
    model = import_authors_fsrcnn(path)
    assert torch.equal(model.network.upsample.weight, state["tail_conv.weight"])
    assert torch.equal(model.estimator.last.weight, -state["estimator.lastOut.weight"])

    torch.save({**state, "odd.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"authors\.t7: unexpected tensor odd\.weight"):
        import_authors_fsrcnn(path)
    del state["tail_conv.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"authors\.t7: expected a tensor upsample\.bias, found none"):
        import_authors_fsrcnn(path)


class Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.t7").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"hostile\.t7: not a plain torch state dict"):
        import_authors_fsrcnn("hostile.t7")
    assert not Path("executed").exists()
