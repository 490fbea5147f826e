# SPDX-License-Identifier: Apache-2.0
"""Measured milliseconds: kept where they belong, read back, and what they decide."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import enaf_ext
from enaf import calibration
from enaf.calibration import LAST_CALLS, Calibration, Pace, Setting
from enaf.cli import main
from enaf.evaluate.speed import PLAIN, STATIC, Contender, fastest_equal, in_dtype, in_other_arithmetic, interleaved
from enaf.image_io import write_image
from enaf.inference import multiplies_bfloat16
from enaf.whole_or_routed import IN_MEMORY

MEASURED = Calibration((0.5, 1.5, 2.0, 2.5), 0.1, (0.0, 0.01, 0.01, 0.01))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, and milliseconds known beforehand."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda **_: MEASURED)
    return tmp_path


def picture() -> torch.Tensor:
    noise = torch.rand(3, 200, 228, generator=torch.Generator().manual_seed(0))
    return (255 * (0.25 + 0.5 * torch.linspace(0, 1, 228) * noise)).to(torch.uint8)


def test_is_kept_for_one_setting(cache: Path) -> None:
    one = Setting("1.0", "model", "cpu", "float32", 2, 32, 4)
    calibration.keep(one, MEASURED)
    assert calibration.load(one) == MEASURED
    assert one.path.is_relative_to(cache)
    for other in (
        Setting("1.1", "model", "cpu", "float32", 2, 32, 4),
        Setting("1.0", "other", "cpu", "float32", 2, 32, 4),
        Setting("1.0", "model", "gpu", "float32", 2, 32, 4),
        Setting("1.0", "model", "cpu", "bfloat16", 2, 32, 4),
        Setting("1.0", "model", "cpu", "float32", 1, 32, 4),
        Setting("1.0", "model", "cpu", "float32", 2, 48, 4),
    ):
        assert calibration.load(other) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"patch_ms": [1, 2, 3, 4], "static_ms": 1}',
        '{"patch_ms": ["x"], "score_ms": 1, "whole_ms": [0, 1, 1, 1]}',
    ],
)
def test_what_cannot_be_read_is_measured_again(cache: Path, content: str) -> None:
    upscaler = enaf_ext.Upscaler()
    assert upscaler.calibration() == MEASURED
    (path,) = cache.rglob("*.json")
    path.write_text(content)
    assert enaf_ext.Upscaler().calibration() == MEASURED
    assert path.read_text() != content


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    setting = Setting("1.0", "model", "cpu", "float32", 2, 32, 4)
    calibration.keep(setting, MEASURED)
    assert calibration.load(setting) is None


def test_fingerprint_knows_the_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    before = calibration.fingerprint(layer)
    assert calibration.fingerprint(layer) == before
    layer.weight.data[0, 0] += 1
    assert calibration.fingerprint(layer) != before


def test_relative() -> None:
    assert MEASURED.relative.tolist() == [0, 0.5, 0.75, 1]


def test_pace_is_that_of_the_last_calls() -> None:
    pace = Pace()
    assert pace.ratio == 1
    pace.add(expected=10, taken=50)
    assert pace.ratio == 1  # one call may be anything
    for _ in range(LAST_CALLS):
        pace.add(expected=10, taken=12)
    assert pace.ratio == pytest.approx(1.2)


def test_every_run_is_timed_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    clock = 0.0

    def run(index: int, seconds: float) -> None:
        nonlocal clock
        calls.append(index)
        clock += seconds

    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock)
    # ten patches: 10, 20 and 40 ms through one exit, 31 ms mixed where (4 * 0 + 3 * 10 + 3 * 30) / 10 + 10 = 22 ms are due
    exits, mixed, scores, whole = (
        [partial(run, index, seconds) for index, seconds in enumerate((0.010, 0.020, 0.040))],
        (partial(run, 3, 0.031), (4, 3, 3)),
        partial(run, 4, 0.002),
        [partial(run, 5, 0.030), partial(run, 6, 0.050)],
    )
    measured = calibration.measure(exits, mixed, scores, whole, 10, [100, 125])
    assert calls == [0, 1, 2, 3, 4, 5, 6] * (1 + calibration.REPEATS)
    dearer = (31 - 10) / (22 - 10)
    assert measured.patch_ms == pytest.approx((1, 1 + dearer, 1 + 3 * dearer))
    assert measured.score_ms == pytest.approx(0.2)
    assert measured.whole_ms == pytest.approx((0, 0.3, 0.4))


def routed_ms(exit_index: torch.Tensor) -> float:
    return sum(MEASURED.patch_ms[depth] for depth in exit_index.flatten().tolist())


def with_whole(cache: Path, monkeypatch: pytest.MonkeyPatch, patch_ms: float, whole_ms: float) -> None:
    """What patches and pixels take from now on, the full exit's; the others' in proportion."""
    known = Calibration(
        (0.2 * patch_ms, 0.6 * patch_ms, 0.8 * patch_ms, patch_ms), 0.04 * patch_ms, (0, *[whole_ms] * 3)
    )
    monkeypatch.setattr(calibration, "measure", lambda **_: known)
    for file in cache.rglob("*.json"):
        file.unlink()


def test_budget_in_milliseconds(cache: Path) -> None:
    lr, patches = picture(), 56
    spent = []
    for budget_ms in (1e-3, 30.0, 40.0, 60.0, 80.0, 1e6):
        _, info = enaf_ext.Upscaler()(lr, budget_ms=budget_ms, return_info=True)
        assert info.exit_index.numel() == patches
        spent.append(routed_ms(info.exit_index))
        assert info.whole == [0]
        assert spent[-1] <= max(budget_ms, 0.5 * patches) + 1e-6
    assert spent == sorted(spent)
    assert spent[0] == 0.5 * patches  # nothing is cheaper than bicubic
    assert spent[1] > spent[0]
    assert info.eta == 0
    upscaler = enaf_ext.Upscaler()
    with pytest.raises(ValueError, match="budget_ms: expected a finite number above 0, got 0"):
        upscaler(lr, budget_ms=0)
    with pytest.raises(ValueError, match="budget: expected None where budget_ms is given, got both"):
        upscaler(lr, budget_ms=1, budget=0.5)


def test_what_the_cheapest_way_saves_is_spent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget buys a smaller eta where an exit as a whole costs less than patches; and is kept with it."""
    lr, asked = torch.stack([picture(), picture().flip(1)]), 100.0
    with_whole(cache, monkeypatch, 2.5, 1.0)
    _, routed = enaf_ext.Upscaler()(lr, budget_ms=asked, return_info=True)
    assert routed.whole == [0, 0]
    assert routed_ms(routed.exit_index) <= asked
    whole_ms = 0.35 * asked / (200 * 228)
    with_whole(cache, monkeypatch, 2.5, whole_ms)
    _, whole = enaf_ext.Upscaler()(lr, budget_ms=asked, return_info=True)
    assert max(whole.whole) > 0
    assert whole.eta < routed.eta
    assert whole.exit_index.sum() > routed.exit_index.sum()


def test_calls_that_take_longer_or_shorter_than_expected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine is a hundred times faster than its calibration says, the same budget soon buys more."""
    with_whole(cache, monkeypatch, 1000.0, 1e6)
    upscaler, lr = enaf_ext.Upscaler(), picture()
    etas = [
        upscaler(lr, budget_ms=20_000, return_info=True, scores=False)[1].eta for _ in range(calibration.LAST_CALLS + 1)
    ]
    assert etas[0] == etas[1] > 0
    assert etas[-1] == 0
    upscaler.calibration(renew=True)
    assert upscaler(lr, budget_ms=20_000, return_info=True)[1].eta == etas[0]


def test_the_time_of_reading_and_writing_is_not_the_calls(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    for module in ("enaf.record", "enaf.streaming"):
        monkeypatch.setattr(f"{module}.time.perf_counter", lambda: clock)
    upscaler, lr, added = enaf_ext.Upscaler(), picture(), []
    monkeypatch.setattr(Pace, "add", lambda _, expected, taken: added.append((expected, taken)))

    def read(top: int, bottom: int) -> torch.Tensor:
        nonlocal clock
        clock += 3
        return lr[:, top:bottom]

    def write(top: int, rows: torch.Tensor) -> None:
        nonlocal clock
        clock += 5

    for limit in (1 << 21, 1000):  # at once, row by row
        monkeypatch.setitem(IN_MEMORY, "cpu", limit)
        info = upscaler.stream(read, (3, *lr.shape[1:]), write, device="cpu", budget_ms=60)
        assert info.cost["ms"] >= 5000
        assert added.pop() == (pytest.approx(routed_ms(info.exit_index)), pytest.approx(0, abs=1e-3))
        assert added == []


def test_cost_in_milliseconds_decides(cache: Path) -> None:
    lr = picture()
    lr[:, :120] = 100  # where there is nothing to gain, routing pays
    by_paper, by_time = (enaf_ext.Upscaler(cost=cost)(lr, 0.5, return_info=True)[1] for cost in ("paper", "ms"))
    assert by_paper.whole == by_time.whole == [0]
    assert not torch.equal(by_paper.exit_index, by_time.exit_index)
    with pytest.raises(ValueError, match="cost: expected 'paper', 'macs' or 'ms', got 'flops'"):
        enaf_ext.Upscaler(cost="flops")


def test_static_where_it_takes_less_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for whole_ms, pays in (((0, 1e-9, 2e-9, 3e-9), True), ((0, 1e9, 2e9, 3e9), False)):
        monkeypatch.setattr(calibration, "measure", lambda ms=whole_ms, **_: Calibration(MEASURED.patch_ms, 0.1, ms))
        for file in cache.rglob("*.json"):
            file.unlink()
        _, info = enaf_ext.Upscaler(cost="ms")(picture(), 0.5, return_info=True)
        assert info.whole == [int(info.exit_index.max()) if pays else 0]


def test_measures_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "REPEATS", 1)
    monkeypatch.setattr("enaf.upscaler.CALIBRATED_PATCHES", (1, 2))
    assert main(["calibrate", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "exit   ms a patch" in out
    assert "million pixels" in out
    (path,) = tmp_path.rglob("*.json")
    assert enaf_ext.Upscaler().calibration().patch_ms[3] > 0
    assert '"device"' in path.read_text()
    assert main(["calibrate", "--model", "nothing"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patch-size", "0"], "patch_size: expected patch_size >= 1, got 0"),
        (["--overlap", "17"], "overlap: expected 0 <= overlap <= patch_size // 2, got 17"),
    ],
)
def test_calibrate_refuses(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(enaf_ext.Upscaler, "calibration", None)
    assert main(["calibrate", "--device", "cpu", *flags]) == 2
    assert f"enaf calibrate: error: {message}" in capsys.readouterr().err


def test_bench_says_what_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "photograph.png"
    write_image(file, picture().repeat(1, 2, 2))
    assert main(["bench", str(file), "--device", "cpu", "--size", "64x48", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "best static" in out
    assert "eta 0.3" in out
    assert "Use eta" in out or "No eta keeps" in out or "Routing does not pay" in out
    assert ("eta 1, bfloat16" in out) == multiplies_bfloat16()
    for wrong in (["missing.png"], [str(file), "--size", "64"], [str(file), "--repeats", "0"]):
        assert main(["bench", *wrong, "--device", "cpu"]) == 2


@pytest.mark.parametrize(
    ("static", "milliseconds", "macs", "advice"),
    [
        (3, 2, 0.5, "Use eta 2: 67% of the full network's time here, -0.04 dB."),
        (
            3,
            2,
            sum([1 / 10] * 10),
            "Routing does not pay on these images: eta 2 gives them to the full network as a whole.",
        ),
        (1, 2, 0.5, "No eta keeps within 0.05 dB of the full network in less time here: use a small eta, or none."),
    ],
)
def test_bench_advises(
    static: float, milliseconds: float, macs: float, advice: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_image(tmp_path / "photograph.png", picture().repeat(1, 2, 2))
    contenders = [
        Contender(STATIC, static, 30),
        Contender(PLAIN, 9, 30),
        Contender("eta 2", milliseconds, 29.96, 1, macs),
    ]
    monkeypatch.setattr("enaf.evaluate.speed.compare", lambda *arguments, **options: contenders)
    assert main(["bench", str(tmp_path / "photograph.png"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == advice


@pytest.mark.parametrize("model", ["fsrcnn", "light"])
def test_bench_times_what_is_not_the_default(model: str) -> None:
    upscaler, cpu = enaf_ext.Upscaler(model), torch.device("cpu")
    known = {torch.float32, torch.bfloat16} if multiplies_bfloat16() else {torch.float32}
    expected = known - {upscaler.fastest_dtype(cpu)}
    names = {in_dtype(name, dtype) for name in (STATIC, "eta 1") for dtype in expected}
    assert set(in_other_arithmetic(upscaler, cpu)) == names


def test_equal_is_what_comes_near_the_plain_network() -> None:
    networks = [Contender(STATIC, 3, 29.9), Contender(PLAIN, 9, 30.0)]
    equal, worse = Contender("eta 0", 2, 29.96, 1, 1), Contender("eta 1", 1, 29.9, 0.5, 0.5)
    assert fastest_equal([*networks, equal, worse]) is equal
    assert fastest_equal([*networks, worse]) is None


def test_bench_keeps_the_time_of_every_call() -> None:
    seconds = iter([9.0, 8.0, 0.003, 0.001, 0.001, 0.002])  # two runs in turns, the first turn to warm up
    now = 0.0

    def run() -> None:
        nonlocal now
        now += next(seconds)

    times = interleaved({"one": run, "other": run}, torch.device("cpu"), 2, lambda: now)
    assert times == {"one": pytest.approx([1, 3]), "other": pytest.approx([1, 2])}
