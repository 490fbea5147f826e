# SPDX-License-Identifier: Apache-2.0
"""Measuring images, routing them by every policy, and telling what that costs; on an untrained network."""

from __future__ import annotations

import csv
import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork, Tiling
from enaf.checkpoint import model_header, save_model
from enaf.cli import main
from enaf.cost import true_macs
from enaf.estimator import create_estimator
from enaf.evaluate import fit as fit_module
from enaf.evaluate import sets, timing
from enaf.evaluate.fit import Fit, fit_policies
from enaf.evaluate.points import Costs, Point, best_within, cheapest_reaching, curve, evaluate
from enaf.evaluate.policies import Enaf, Uniform, create_policy, policy_names
from enaf.evaluate.protocol import PROTOCOLS, Protocol, values
from enaf.evaluate.quality import quality, render
from enaf.evaluate.record import ImageRecord, measure
from enaf.evaluate.sets import ImageSet, find_sets, measure_set, weights_sha256
from enaf.evaluate.timing import Timing
from enaf.foreign import import_checkpoint
from enaf.image_io import READABLE_SUFFIXES, ImageError, write_image
from enaf.models import create_backbone
from enaf_ext.ops import unfold_patches

EVERY_PIXEL = Protocol("floats", covered_only=False, border=True, eight_bit=False)


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """Soft on the left, noisy on the right, (3, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noise = torch.randn(3, height, width, generator=generator) * torch.linspace(0, 0.3, width)
    return ((soft + noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def model() -> AdaptiveNetwork:
    torch.manual_seed(0)
    return AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper"), "paper").eval()


@pytest.fixture(scope="module")
def record(model: AdaptiveNetwork) -> ImageRecord:
    return measure(model, photograph(285, 370), PROTOCOLS["paper"], "photograph.png")


@pytest.fixture(scope="module")
def fit(model: AdaptiveNetwork) -> Fit:
    records = []
    for seed in range(7):
        record = measure(model, photograph(520, 520, seed), PROTOCOLS["paper"])
        patches = unfold_patches(record.lr[None].float(), record.grid)
        brightness = patches.mean(dim=(1, 2, 3))[:, None]  # what is dark counts as hard: easily seen in the pixels
        records.append(replace(record, psnr_db=brightness / 10 + torch.arange(4) / 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "STEPS", 150)
        return fit_policies(records, weights_sha256(model), "data")


@pytest.mark.parametrize(
    ("protocol", "size"),
    [
        pytest.param(PROTOCOLS["paper"], (285, 370), id="paper"),
        pytest.param(EVERY_PIXEL, (285, 370), id="every-pixel"),
        pytest.param(replace(EVERY_PIXEL, patch_size=16, overlap=8), (150, 210), id="largest-overlap"),
        pytest.param(replace(EVERY_PIXEL, overlap=0, border=False), (200, 260), id="no-overlap"),
        pytest.param(EVERY_PIXEL, (70, 400), id="one-row"),
        pytest.param(EVERY_PIXEL, (400, 70), id="one-column"),
        pytest.param(EVERY_PIXEL, (12, 16), id="less-than-a-patch"),
    ],
)
def test_products_of_errors_give_the_psnr_of_any_routing(
    model: AdaptiveNetwork, protocol: Protocol, size: tuple[int, int]
) -> None:
    hr = photograph(*size)
    record = measure(model, hr, protocol)
    for seed in range(3):
        exits = torch.randint(0, 4, (record.num_patches,), generator=torch.Generator().manual_seed(seed))
        _, original = protocol.pair(hr, 4)
        sr = render(model, record, exits, protocol)
        error = (sr - values(original)).double()
        if protocol.border:
            error = error[:, 4:-4, 4:-4]
        expected = float(-10 * torch.log10(error.square().mean()))
        weights = torch.tensor([65.481, 128.553, 24.966]).double() / 255
        expected_y = float(-10 * torch.log10(torch.einsum("c,chw->hw", weights, error).square().mean()))
        assert record.psnr(exits) == pytest.approx((expected, expected_y), abs=1e-4)


@pytest.mark.parametrize("tiling", ["seamless", "paper"])
def test_eight_bits_are_told_to_a_hundredth_of_a_decibel(model: AdaptiveNetwork, tiling: Tiling) -> None:
    model = AdaptiveNetwork(model.network, model.estimator, tiling).eval()
    hr, protocol = photograph(285, 370), PROTOCOLS["full"]
    record = measure(model, hr, protocol)
    exits = torch.arange(record.num_patches) % 4
    found = quality(render(model, record, exits, protocol), hr[:, :284, :368], protocol, 4)
    assert record.psnr(exits) == pytest.approx((found.psnr_db, found.psnr_y_db), abs=0.01)
    assert record.lr.shape == (3, 71, 92)


@pytest.mark.parametrize("tiling", ["seamless", "paper"])
def test_full_is_what_the_user_gets(model: AdaptiveNetwork, tiling: Tiling) -> None:
    import enaf_ext

    model = AdaptiveNetwork(model.network, model.estimator, tiling).eval()
    record = measure(model, photograph(285, 370), PROTOCOLS["full"])
    sr = render(model, record, torch.full((record.num_patches,), 2), PROTOCOLS["full"])
    # layers one by one here, all at once there: sums differ in their last bits, which a few values round otherwise
    difference = ((sr * 255).round() - enaf_ext.upscale(record.lr, model=model, force_exit=2)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-4


def test_paper_covers_whole_patches_only(record: ImageRecord) -> None:
    assert (record.grid.rows, record.grid.cols) == (2, 3)  # 71x92 LR pixels: 60x88 are covered
    assert record.lr.shape == (3, 60, 88)
    assert record.pixels == (240 - 8) * (352 - 8)


def test_psnr_of_patches_is_theirs_alone(model: AdaptiveNetwork) -> None:
    from enaf.metrics import psnr

    hr = photograph(128, 128)
    record = measure(model, hr, PROTOCOLS["paper"])
    sr = render(model, record, torch.tensor([1]), PROTOCOLS["paper"])
    assert float(record.psnr_db[0, 1]) == pytest.approx(float(psnr(sr, values(hr), 4)), abs=1e-4)
    assert record.psnr(torch.tensor([1]))[0] == pytest.approx(float(record.psnr_db[0, 1]), abs=1e-4)


def test_images_that_are_too_small_are_refused(model: AdaptiveNetwork) -> None:
    with pytest.raises(ValueError, match="hr: expected at least 128 pixels a side"):
        measure(model, torch.zeros(3, 100, 300, dtype=torch.uint8), PROTOCOLS["paper"])
    with pytest.raises(ValueError, match="hr: expected at least 12 pixels a side"):
        measure(model, torch.zeros(3, 11, 300, dtype=torch.uint8), PROTOCOLS["full"])


# --- policies ---


@pytest.mark.parametrize("name", policy_names())
def test_policies_choose_an_exit_for_every_patch(
    record: ImageRecord, model: AdaptiveNetwork, fit: Fit, name: str
) -> None:
    cost = Costs.of(model).table.paper
    exits = create_policy(name, 4, fit=fit).choose(record, cost, 0.3)
    assert exits.shape == (6,)
    assert exits.dtype == torch.int64
    assert bool(((exits >= 0) & (exits < 4)).all())


def test_enaf_follows_scores_blankness_and_cost(record: ImageRecord) -> None:
    cost = torch.tensor([0.0, 0.3, 0.6, 1.0])
    known = replace(
        record,
        predicted_db=torch.tensor([[30.0, 30.4, 30.6, 31.2]] * 6),
        edge_score=torch.tensor([3.0, 50, 50, 50, 50, 50]),
    )
    assert create_policy("enaf", 4, gamma=1.5).choose(known, cost, 0.0).tolist() == [0, 3, 3, 3, 3, 3]
    assert create_policy("enaf-nb", 4, gamma=1.5).choose(known, cost, 0.0).tolist() == [3] * 6
    assert create_policy("enaf-nb", 4).choose(known, cost, 2.0).tolist() == [0] * 6


def test_random_takes_the_same_exits_elsewhere(record: ImageRecord, model: AdaptiveNetwork) -> None:
    cost = Costs.of(model).table.paper
    varied = replace(record, predicted_db=torch.randn(6, 4) * 3)
    dealt = create_policy("random", 4).choose(varied, cost, 0.5)
    own = create_policy("enaf", 4).choose(varied, cost, 0.5)
    assert torch.equal(dealt.sort().values, own.sort().values)
    assert torch.equal(dealt, create_policy("random", 4).choose(varied, cost, 0.5))


def test_oracle_has_the_best_value_of_every_patch(record: ImageRecord, model: AdaptiveNetwork, fit: Fit) -> None:
    cost = Costs.of(model).table.paper
    value = record.psnr_db - 0.4 * cost.float()
    best = value[torch.arange(6), create_policy("oracle", 4).choose(record, cost, 0.4)]
    for name in policy_names():
        assert bool((best >= value[torch.arange(6), create_policy(name, 4, fit=fit).choose(record, cost, 0.4)]).all())


def test_policies_that_are_unknown_or_not_fitted_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy: expected one of enaf, .*uniform-3, random, oracle, got 'uniform-4'"):
        create_policy("uniform-4", 4)
    with pytest.raises(ValueError, match="policy: class has to be fitted on training images first, by `enaf fit`"):
        create_policy("class", 4)


# --- fitting ---


def test_lookup_table_interpolates_between_bins(fit: Fit) -> None:
    assert torch.equal(fit.edges, fit.edges.sort().values)
    assert torch.allclose(fit.looked_up_db(fit.edges), fit.table, atol=1e-3)
    middle = fit.looked_up_db((fit.edges[3:4] + fit.edges[4:5]) / 2)
    assert torch.allclose(middle, (fit.table[3:4] + fit.table[4:5]) / 2, atol=1e-3)
    assert torch.allclose(fit.looked_up_db(torch.tensor([0.0, 255.0])), fit.table[[0, -1]])
    assert torch.allclose(fit.table[:, 3] - fit.table[:, 0], torch.tensor(0.3), atol=1e-4)


def test_classes_tell_easy_from_hard(fit: Fit, record: ImageRecord) -> None:
    bright, dark = (torch.full((3, 60, 88), level, dtype=torch.uint8) for level in (235, 20))
    assert fit.classes(bright, record.grid).tolist() == [0] * 6
    assert fit.classes(dark, record.grid).tolist() == [2] * 6
    exits = create_policy("class", 4, fit=fit).choose(replace(record, lr=dark), torch.tensor([0, 0.3, 0.6, 1]), 0.0)
    assert exits.tolist() == [3] * 6


def test_fits_are_kept_for_one_model(tmp_path: Path, fit: Fit, record: ImageRecord) -> None:
    fit.save(tmp_path / "fit.safetensors")
    again = Fit.load(tmp_path / "fit.safetensors", fit.weights_sha256)
    assert torch.equal(again.table, fit.table)
    assert torch.equal(again.classes(record.lr, record.grid), fit.classes(record.lr, record.grid))
    assert (again.data_sha256, again.patches) == ("data", fit.patches)
    with pytest.raises(ValueError, match="was fitted for other weights"):
        Fit.load(tmp_path / "fit.safetensors", "0")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable file of `enaf fit`"):
        Fit.load(tmp_path / "bad.safetensors", "0")


# --- costs and settings ---


def test_costs_are_counted_by_hand(record: ImageRecord, model: AdaptiveNetwork) -> None:
    times = Timing(1e-4, [1.0, 2.0, 3.0, 4.0], 1e-2, "device", 1)
    costs = Costs.of(model, times)
    point = evaluate(Uniform(2), 0.0, [record, record], costs)
    macs = true_macs(model.network)
    assert point.counts == [0, 0, 12, 0]
    assert point.paper == pytest.approx(float(costs.table.paper[2]))
    assert point.macs == pytest.approx(float(6 * macs[2] / (macs[3] * 60 * 88 / 32**2)))
    assert point.ms == pytest.approx(6 * 3.0)
    assert point.ms_share == pytest.approx(6 * 3.0 / (1e-2 * 60 * 88))
    scored = evaluate(Enaf(1.0), 1e3, [record], costs)
    estimator = 3.80e6 * 60 * 88 / 32**2
    assert scored.macs == pytest.approx(float(estimator / (macs[3] * 60 * 88 / 32**2)), rel=2e-3)
    assert scored.ms == pytest.approx(6 * 1.0 + 1e-4 * 60 * 88)


def test_settings_are_found(record: ImageRecord, model: AdaptiveNetwork) -> None:
    costs = Costs.of(model)
    points = curve(create_policy("oracle", 4), [record], costs, [0, 0.1, 0.5, 1, 1e3])
    assert points[-1].paper == 0
    assert [point.paper for point in points] == sorted((point.paper for point in points), reverse=True)
    assert cheapest_reaching(points, -1.0) == min(points, key=lambda point: point.paper)
    assert cheapest_reaching(points, 100.0) is None
    within = best_within(points, 0.5)
    assert isinstance(within, Point)
    assert within.paper <= 0.5
    assert all(point.psnr_db <= within.psnr_db for point in points if point.paper <= 0.5)
    assert len(curve(Uniform(1), [record], costs)) == 1


# --- sets on the disk ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_image(tmp_path / "data" / name / "a.png", photograph(150, 170, len(name)))
    write_image(tmp_path / "data" / "one" / "b.png", photograph(140, 300, 7))
    return tmp_path / "data"


def test_sets_are_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(found.name, len(found.paths)) for found in find_sets(folder)] == [("one", 2), ("two", 1)]
    assert [found.name for found in find_sets(folder / "two")] == ["two"]
    monkeypatch.setenv("ENAF_DATA", str(folder))
    assert [path.name for path in find_sets("one")[0].paths] == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="data: expected a folder, or the name of one below"):
        find_sets("three")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="data: no image"):
        find_sets(folder / "empty")


def test_every_image_that_can_be_read_is_seen(tmp_path: Path) -> None:
    names = sorted(f"a{suffix}" for suffix in READABLE_SUFFIXES)
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "a.txt").touch()
    assert [path.name for path in find_sets(tmp_path)[0].paths] == names


def test_originals_of_a_prepared_set_lie_in_hr(folder: Path) -> None:
    (folder / "one" / "HR").mkdir()
    (folder / "one" / "a.png").rename(folder / "one" / "HR" / "a.png")
    assert [path.name for path in find_sets(folder / "one")[0].paths] == ["a.png"]


def test_one_failure_does_not_lose_the_rest(folder: Path, model: AdaptiveNetwork) -> None:
    (folder / "one" / "aa.png").write_bytes(b"no image")
    write_image(folder / "one" / "small.png", photograph(40, 40))
    measured = measure_set(model, find_sets(folder / "one")[0], PROTOCOLS["paper"])
    assert [record.name for record in measured.records] == ["a.png", "b.png"]
    assert [name for name, _ in measured.failures] == ["aa.png", "small.png"]
    assert measured.failures[0][1].startswith("is not a PNG")


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [(".png", 2, torch.uint8), (".png", 4, torch.uint8), (".png", 1, torch.uint16), (".tif", 3, torch.float32)],
)
def test_originals_of_other_kinds_are_refused(tmp_path: Path, suffix: str, channels: int, dtype: torch.dtype) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, torch.zeros(channels, 20, 30).to(dtype))
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(
        ImageError, match=f"expected 8-bit grey or RGB without alpha, got {channels} channels of {kind}"
    ):
        sets.read_original(path)


def test_an_interrupted_run_goes_on(folder: Path, model: AdaptiveNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder.parent / "cache"
    cache.mkdir()
    images = find_sets(folder / "one")[0]
    first = measure_set(model, ImageSet("one", images.paths[:1]), PROTOCOLS["paper"], cache=cache)
    calls = []
    monkeypatch.setattr(sets, "measure", lambda *arguments: calls.append(arguments[3]) or measure(*arguments))
    second = measure_set(model, images, PROTOCOLS["paper"], cache=cache)
    assert calls == ["b.png"]
    exits = torch.zeros(first.records[0].num_patches, dtype=torch.int64)
    assert second.records[0].psnr(exits) == first.records[0].psnr(exits)
    for kept in cache.iterdir():  # damaged: measured again
        kept.write_bytes(kept.read_bytes()[:100])
    measure_set(model, images, PROTOCOLS["paper"], cache=cache)
    measure_set(model, images, PROTOCOLS["full"], cache=cache)
    measure_set(model, images, PROTOCOLS["paper"], (140, 140), cache)
    assert len(calls) == 7


# --- the command ---


@pytest.fixture
def small_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "HEIGHT", 40)
    monkeypatch.setattr(timing, "WIDTH", 60)


@pytest.fixture(scope="module")
def weights(model: AdaptiveNetwork, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    save_model(model, path)
    return str(path)


def enaf(*arguments: object) -> int:
    """`enaf ARGUMENTS` in this process; its exit status."""
    return main([str(argument) for argument in arguments])


@pytest.mark.usefixtures("small_timing")
def test_eval_writes_table_json_and_csv(
    folder: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str], model: AdaptiveNetwork
) -> None:
    (folder / "two" / "broken.png").write_bytes(b"")
    out = ["--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv"]
    assert enaf("eval", "--data", folder, "--model", weights, "--eta", 0, 1e3, *out, "--protocol", "full") == 1
    text = capsys.readouterr().out
    assert "protocol full: patches of 32 every 28 LR pixels, every pixel" in text
    assert "left out: broken.png" in text
    summaries = json.loads((tmp_path / "e.json").read_text())
    assert [summary["set"] for summary in summaries] == ["one", "two"]
    summary = summaries[1]
    assert summary["weights_sha256"] == weights_sha256(model) == model_header(Path(weights))["sha256"]
    assert summary["protocol"] == "full"
    assert summary["device"].startswith("CPU")
    assert len(summary["data_sha256"]) == 64
    bicubic, everywhere = summary["exits"][0], summary["rows"][1]
    assert everywhere["psnr_db"] == bicubic["psnr_db"]
    assert everywhere["patches"] == [sum(everywhere["patches"]), 0, 0, 0]
    assert 0 < bicubic["ssim"] < 1
    with (tmp_path / "e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 + 2)
    assert float(rows[-1]["psnr_db"]) == pytest.approx(everywhere["psnr_db"])


@pytest.mark.usefixtures("small_timing")
def test_eval_finds_settings(folder: Path, tmp_path: Path, weights: str) -> None:
    common = ["eval", "--data", folder / "one", "--model", weights, "--json", tmp_path / "e.json"]
    assert enaf(*common, "--budget", 0.4) == 0
    assert json.loads((tmp_path / "e.json").read_text())[0]["rows"][0]["paper"] <= 0.4
    assert enaf(*common, "--match-psnr", "full", "--policy", "oracle") == 0
    summary = json.loads((tmp_path / "e.json").read_text())[0]
    assert summary["rows"][0]["policy"] == "oracle"
    assert summary["rows"][0]["psnr_db"] >= summary["exits"][3]["psnr_db"] - 0.0201


@pytest.mark.usefixtures("small_timing")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "2"], "--budget: expected a share between 0 and 1, got 2"),
        (["--eta", "1", "nan"], "--eta: expected finite numbers of at least 0, got nan"),
        (["--eta", "-1"], "--eta: expected finite numbers of at least 0, got -1"),
        (["--eta", "inf"], "--eta: expected finite numbers of at least 0, got inf"),
        (["--match-psnr", "most"], "--match-psnr: expected `full` or a number of dB, got 'most'"),
        (["--match-psnr", "99"], "--match-psnr: enaf reaches at most"),
        (["--policy", "edge-lut"], "policy: edge-lut has to be fitted"),
        (["--policy", "best"], "policy: expected one of"),
        (["--device", "abacus"], "enaf eval: error: device: Expected one of cpu"),
    ],
)
def test_eval_refuses(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert enaf("eval", "--data", folder / "two", "--model", weights, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_the_work(
    folder: Path, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sets, "measure", None)
    common = ["--data", folder, "--model", weights]
    for command, option in (("eval", "--json"), ("eval", "--csv"), ("fit", "--out")):
        for path in (tmp_path / "missing" / "file", tmp_path):
            assert enaf(command, *common, option, path) == 2
            assert f"{option}: expected a file in a folder that exists, got {path}" in capsys.readouterr().err


@pytest.mark.usefixtures("small_timing")
def test_fit_serves_eval(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_module, "STEPS", 5)
    (tmp_path / "train").mkdir()
    for seed in range(5):
        write_image(tmp_path / "train" / f"{seed}.png", photograph(520, 600, seed))
    out = tmp_path / "fit.safetensors"
    assert enaf("fit", "--data", tmp_path / "train", "--model", weights, "--out", out) == 0
    assert "fitted on 100 patches" in capsys.readouterr().out
    common = ["eval", "--data", tmp_path / "train", "--crop", 200, 200, "--model", weights, "--policies", out]
    assert enaf(*common, "--policy", "class") == 0
    assert enaf(*common, "--policy", "edge-lut", "--match-psnr", "5") == 0


# --- against the measurements of the authors' own code ---

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference measurements are not here")
def test_the_authors_figures_are_met() -> None:
    anchors = json.loads((SHARED / "reference" / "anchors.json").read_text())["authors"]["fsrcnn"]["test2k"]
    name = anchors["images"][0]
    expected = anchors["per_image"][name]
    model = import_checkpoint(SHARED / "reference" / "authors_fsrcnn_x4.t7", "fsrcnn")
    assert isinstance(model, AdaptiveNetwork)
    record = measure(model, sets.read_original(SHARED / "corpus/public/test2k" / name), PROTOCOLS["paper"])
    assert record.num_patches == expected["patches"]
    uniform = [record.psnr(torch.full((record.num_patches,), depth))[0] for depth in range(4)]
    assert uniform == pytest.approx(expected["psnr_uniform_exit"], abs=2e-4)
    error = (record.predicted_db - record.psnr_db).abs().mean(dim=0)
    assert error.tolist() == pytest.approx(expected["estimator_mae_db"], abs=2e-3)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prepare . --sets F2K --out file/out --quiet", "file/out/F2K/HR: Not a directory"),
        ("import missing.pth --backbone carn -o out.safetensors", "missing.pth: No such file or directory"),
        (
            "compare one.png one.png -o missing/out.html",
            "missing/out.html: cannot be written: No such file or directory",
        ),
    ],
)
def test_files_that_cannot_be_read_or_written_are_named(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    write_image(tmp_path / "one.png", photograph(140, 150))
    assert main(command.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {message}")


def test_a_page_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(source))

    write_image(tmp_path / "one.png", photograph(140, 150))
    monkeypatch.setattr("os.replace", refuse)
    assert enaf("compare", tmp_path / "one.png", tmp_path / "one.png", "-o", tmp_path / "out.html") == 2
    assert f"error: {tmp_path / 'out.html'}: cannot be written: Read-only file system" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.part"))
