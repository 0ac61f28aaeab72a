"""Whether a file system's stamps tell every write from the one before."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cacheruntime.worker.writes import shows_every_write


def test_what_is_said_to_be_shown_is(tmp_path: Path) -> None:
    is_fine = shows_every_write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    descriptor = os.open(tmp_path / "staging", os.O_RDWR | os.O_CREAT)
    stamps: set[int] = set()
    for _ in range(200):
        os.pwrite(descriptor, b"x", 0)
        stamps.add(os.fstat(descriptor).st_mtime_ns)
    os.close(descriptor)
    assert not is_fine or len(stamps) == 200


def test_stamps_by_timer_ticks_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(1000))
    # A tick between two looks now and then, as on a kernel that was interrupted.
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda _: SimpleNamespace(st_mtime_ns=next(looks) // 5))
        is_fine = shows_every_write(tmp_path)
    assert not is_fine


def test_a_folder_that_takes_no_file_is_taken_for_an_older_kernels(tmp_path: Path) -> None:
    assert not shows_every_write(tmp_path / "missing")
