# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a file is written, there is the old one or the new one, and no litter that stays."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from enaf.image_io import WRITABLE, ImageError, Layout, atomic, create_image, read_image, sweep, write_image, writing

SUFFIXES = sorted(set(WRITABLE) - {".jpeg", ".tiff", ".pgm"})
OLD = torch.full((3, 20, 30), 50, dtype=torch.uint8)
NEW = torch.full((3, 40, 60), 200, dtype=torch.uint8)


class Steps:
    """Counts what a write asks of the system, and does something at the n-th time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, action: Callable[[], None]) -> None:
        self.count, self.at, self.action = 0, at, action
        for owner, name in (
            (atomic.PartialFile, "write"), (atomic.PartialFile, "patch_head"), (os, "fsync"), (os, "replace"),
            (fcntl, "flock"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self.count += 1
            if self.count == self.at + 1:
                self.action()
            return function(*arguments)

        return counted


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_old_or_new(path: Path) -> bool:
    pixels = read_image(path).pixels
    return any(pixels.shape == one.shape and (pixels.int() - one.int()).abs().max() <= 8 for one in (OLD, NEW))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_at_every_step(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, OLD)
    before = path.read_bytes()
    for at in range(1000):
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = Steps(monkeypatch, at, full_disk)
            try:
                write_image(path, NEW)
            except ImageError as error:
                assert "cannot be written: No space left on device" in str(error)  # noqa: PT017
        if steps.count <= at:
            break
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() == before or is_old_or_new(path)
    assert at > 4
    assert read_image(path).pixels.shape == NEW.shape


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kill_at_every_step(tmp_path: Path, suffix: str) -> None:
    """A killed process leaves the old file or the new one, and the next run removes what else it left."""
    path = tmp_path / f"image{suffix}"
    write_image(path, OLD)
    torso = False
    for at in range(1000):
        child = os.fork()
        if child == 0:
            try:
                with pytest.MonkeyPatch.context() as monkeypatch:
                    Steps(monkeypatch, at, die)
                    write_image(path, NEW)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert is_old_or_new(path)
        torso |= len(list(tmp_path.iterdir())) > 1
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
        if not os.WIFSIGNALED(status):
            break
    assert torso, "no kill left anything: they all came too early or too late"
    assert read_image(path).pixels.shape == NEW.shape


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_real_limit_on_the_size_of_a_file(tmp_path: Path, suffix: str) -> None:
    """RLIMIT_FSIZE: the kernel itself refuses, in the middle of a write."""
    path = tmp_path / f"image{suffix}"
    write_image(path, OLD)
    before = path.read_bytes()
    noise = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(ImageError, match="cannot be written: File too large"):
            write_image(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read back before it gets its name."""
    path = tmp_path / "image.png"
    write_image(path, OLD)
    before = path.read_bytes()
    honest = os.fsync

    def lossy(descriptor: int) -> None:
        honest(descriptor)
        os.pwrite(descriptor, b"\0", 60)

    monkeypatch.setattr(os, "fsync", lossy)
    with pytest.raises(ImageError, match="the disk gave back other bytes than were written"):
        write_image(path, NEW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_encoder_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """The header is read back, whoever wrote it."""
    encoder = writing._encoder

    class Shorter:
        def __init__(self, part: Any, target: Any, layout: Layout, *rest: Any) -> None:
            smaller = Layout(layout.height - 1, layout.width, layout.channels, layout.dtype)
            self.inner = encoder(part, target, smaller, *rest)
            self.finish = self.inner.finish

        def write(self, rows: Tensor) -> None:
            self.inner.write(rows[:-1])

    monkeypatch.setattr(writing, "_encoder", Shorter)
    with pytest.raises(ImageError, match="the file that was written says 60x39, expected 60x40"):
        write_image(tmp_path / f"image{suffix}", NEW)
    assert list(tmp_path.iterdir()) == []


def test_the_target_appears_by_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    replace = os.replace

    def watched(source: str, target: str) -> None:
        seen.append((os.path.dirname(source), os.path.exists(target)))
        Image.open(source).load()  # whole before it gets its name
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_image(tmp_path / "image.png", NEW)
    assert seen == [(str(tmp_path), False)]


def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.PartialFile, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "image.png", NEW)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_spares_the_living_and_the_strangers(tmp_path: Path) -> None:
    dead = tmp_path / ".photo.png.enaf-0123abcd.part"
    dead.write_bytes(b"torso")
    strangers = [
        tmp_path / name
        for name in (".photo.png.part", "photo.enaf-0123abcd.part", ".photo.png.enaf-0123abcd", ".x.enaf-012.part")
    ]
    for path in strangers:
        path.write_bytes(b"mine")
    (tmp_path / ".link.enaf-00000000.part").symlink_to(strangers[0])
    (tmp_path / ".folder.enaf-00000000.part").mkdir()
    code = (
        "import sys, pathlib; from enaf.image_io import atomic\n"
        "with atomic.replacing(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write(b'alive'); part.flush(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "other.png")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        assert sweep(tmp_path) == [dead]
        assert len(list(tmp_path.glob(".other.png.enaf-*.part"))) == 1
        writer.communicate()
    assert (tmp_path / "other.png").read_bytes() == b"alive"
    assert all(path.read_bytes() == b"mine" for path in strangers)


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u4e2d", "\udcff"])
def test_names_as_long_as_they_can_be(tmp_path: Path, letter: str) -> None:
    """The part's name is shortened by whole characters; sweeping still finds it."""
    path = tmp_path / (letter * (251 // len(os.fsencode(letter))) + ".png")
    with atomic.replacing(path) as part:
        assert len(os.fsencode(part.path.name)) <= 255
        part.write(b"whole")
        torso = part.path
    assert path.read_bytes() == b"whole"
    torso.write_bytes(b"torso")
    assert sweep(tmp_path) == [torso]
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask_and_links_stay_links(tmp_path: Path) -> None:
    target = tmp_path / "real.png"
    link = tmp_path / "link.png"
    link.symlink_to(target)
    mask = os.umask(0o027)
    try:
        write_image(link, NEW)
    finally:
        os.umask(mask)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written: No such file or directory"):
        write_image(tmp_path / "none" / "image.png", NEW)


def test_a_writer_abandoned_half_way_leaves_nothing(tmp_path: Path) -> None:
    def abandoned() -> None:
        layout = Layout(4, 4, 3, np.dtype(np.uint8))
        with create_image(tmp_path / "image.png", layout) as writer:
            writer.write(np.zeros((2, 4, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        abandoned()
    assert list(tmp_path.iterdir()) == []
