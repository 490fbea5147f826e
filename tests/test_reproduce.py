# SPDX-License-Identifier: Apache-2.0
"""The whole report on a few small images."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import save_model
from enaf.cli import main
from enaf.estimator import create_estimator
from enaf.evaluate import fit, report, sets, summary, timing
from enaf.evaluate.report import ReportRequest, reproduce
from enaf.image_io import write_image
from enaf.models import create_backbone


def photograph(height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noise = torch.randn(3, height, width, generator=generator) * torch.linspace(0, 0.3, width)
    return ((soft + noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module", autouse=True)
def small() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "HEIGHT", 40)
        patch.setattr(timing, "WIDTH", 60)
        patch.setattr(fit, "STEPS", 5)
        patch.setattr(report, "GRIDS", ((32, 4), (48, 4)))
        yield patch


@pytest.fixture(scope="module")
def model() -> AdaptiveNetwork:
    torch.manual_seed(0)
    return AdaptiveNetwork(create_backbone("fsrcnn"), create_estimator("paper")).eval()


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory, model: AdaptiveNetwork) -> ReportRequest:
    root = tmp_path_factory.mktemp("report")
    for name in ("holiday", "Test2K"):
        (root / "data" / name).mkdir(parents=True)
        for index in range(2):
            write_image(root / "data" / name / f"{name}{index}.png", photograph(270, 370, len(name) + index))
    (root / "data" / "holiday" / "broken.png").write_bytes(b"no image")
    (root / "data" / "Test2K" / "manifest.json").write_text('{"benchmark": "Test2K", "complete": true}')
    (root / "train").mkdir()
    for seed in range(5):
        write_image(root / "train" / f"{seed}.png", photograph(520, 600, seed))
    (root / "credits.tsv").write_text("file\tauthor\tlicense\nx/holiday0.png\tA. <b>Author</b>\tCC-BY-4.0\n")
    return ReportRequest(
        data=str(root / "data"),
        out=root / "out",
        models=[("untrained", model)],
        compared=[("another", model)],
        fit_data=str(root / "train"),
        credits=root / "credits.tsv",
        repeats=1,
    )


@pytest.fixture(scope="module")
def page(request_: ReportRequest) -> str:
    assert reproduce(request_) == [("holiday/broken.png", "is not a PNG, JPEG, WEBP, AVIF, TIFF, PPM or BMP image")]
    return (request_.out / "index.html").read_text()


def test_the_page_opens_offline(page: str, request_: ReportRequest) -> None:
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert len(links) > 20
    assert [link for link in links if "://" in link or not (request_.out / link).is_file()] == []
    assert "<script" not in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in page] == []


def test_the_page_tells_what_was_measured_and_how(page: str, request_: ReportRequest, model: AdaptiveNetwork) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert sets.weights_sha256(model)[:16] in text
    for found in sets.find_sets(request_.data):
        assert found.sha256[:16] in text
    assert "patches of 32 every 28 LR pixels, the area that whole patches cover" in text
    assert "Where it does not pay" in text
    assert "holiday/broken.png: is not a PNG" in text
    assert "A. &lt;b&gt;Author&lt;/b&gt;, CC-BY-4.0" in page  # what comes from files is text, never markup
    assert str(request_.out.parent) not in page  # names, not paths


def test_quoted_figures_stand_beside_the_papers_own_sets_only(page: str) -> None:
    assert page.count("Quoted from the paper, FSRCNN on Test2K") == 1
    assert "FSRCNN on holiday" not in page
    quoted = json.loads((Path(report.__file__).parent / "quoted.json").read_text())
    assert quoted["table1"]["FSRCNN"]["ENAF-M"][2:4] == ["25.61", "229M (49%)"]
    lengths = {len(cells) for table in (*quoted["table1"].values(), quoted["table2"]) for cells in table.values()}
    assert lengths == {2 * len(quoted["sets"])}


def test_csv_stands_behind_every_figure(page: str, request_: ReportRequest) -> None:
    with (request_.out / "data" / "curves-untrained.csv").open() as file:
        rows = list(csv.DictReader(file))
    policies = {row["policy"] for row in rows}
    assert policies == {"enaf", "enaf-nb", "edge-lut", "class", "random", "oracle", *(f"uniform-{j}" for j in range(4))}
    full = next(row for row in rows if row["policy"] == "uniform-3" and row["set"] == "holiday")
    assert float(full["paper"]) == 1
    assert float(full["macs"]) == pytest.approx(6 * 32**2 / (60 * 88), abs=1e-3)
    assert float(full["ms"]) > 0
    with (request_.out / "data" / "patches-untrained.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 6
    with (request_.out / "data" / "table1-untrained-holiday.csv").open() as file:
        table = {row[""]: row for row in csv.DictReader(file)}
    assert {"bicubic", "full network", "class", "edge-lut-M", "enaf-L", "enaf-M", "enaf-S", "oracle-M"} <= set(table)
    assert float(table["full network"]["to full, dB"]) == 0
    for name, distance in (("enaf-L", 0.0), ("enaf-M", 0.02), ("enaf-S", 0.1)):
        if table[name]["eta"]:
            assert float(table[name]["to full, dB"]) >= -distance


def test_a_second_run_measures_nothing_again(
    page: str, request_: ReportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sets, "measure", fail)
    monkeypatch.setattr(report, "fit_to_folder", fail)
    monkeypatch.setattr(summary, "render", fail)
    before = (request_.out / "data" / "table3-untrained.csv").read_text()
    assert len(reproduce(request_)) == 1
    assert (request_.out / "data" / "table3-untrained.csv").read_text() == before


def test_command(tmp_path: Path, model: AdaptiveNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(model, tmp_path / "untrained.safetensors")
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", photograph(140, 150, 0))
    common = ["--model", str(tmp_path / "untrained.safetensors"), "--repeats", "0", "--out", str(tmp_path / "out")]
    assert main(["reproduce", "--data", str(tmp_path / "photos"), *common]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert "untrained" in (tmp_path / "out" / "index.html").read_text()
    assert main(["reproduce", "--data", str(tmp_path / "nothing"), *common]) == 2
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    assert main(["reproduce", "--data", str(tmp_path / "photos"), *common]) == 2
    assert "none of the images" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["reproduce", "--data", str(tmp_path / "photos"), *common[:-1], str(tmp_path / "file" / "out")]) == 2
    assert f"enaf reproduce: error: {tmp_path / 'file' / 'out'}" in capsys.readouterr().err
