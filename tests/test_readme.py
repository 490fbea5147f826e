# SPDX-License-Identifier: Apache-2.0
"""What the README shows is run, parsed or looked up, so that it stays true."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from enaf.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """The shell lines that start with `program`, without their comments."""
    lines = "".join(blocks("sh")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith(program + " ")]


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_python_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_python_is_shown() -> None:
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("command", commands("enaf"))
def test_enaf_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
        parse(self, arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ParsedError):
        main(shlex.split(command)[1:])


def test_tables_of_time_are_those_of_the_committed_results() -> None:
    for results, lines in ((r"upscale\.json", 20), (r"upscale-4k\S*\.json", 4)):
        paths = re.findall(rf"\]\((bench/results/\S+/{results})\)", README)
        command = [sys.executable, "bench/tables.py", *paths]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert len(printed.splitlines()) > lines
        for table in printed.strip().split("\n\n"):
            assert table in README, "make them anew with bench/tables.py"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "examples/README.md"):
        mentioned = set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE))
        assert mentioned <= targets, document


def test_every_line_of_the_comparison_names_a_test_that_exists() -> None:
    table = README[README.index("| our test |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) > 10
    for line in table:
        file, name = re.findall(r"`(test_\w+\.py)::(test_\w+)` \|$", line)[0]
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), line


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "examples/README.md", "docs/files.md"])
def test_linked_files_exist(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []
