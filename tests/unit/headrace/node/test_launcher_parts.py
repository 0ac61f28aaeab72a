"""Parts of the launcher that need no privileges: the log, records, and the plan of a root.

Real containers are in tests/integration/headrace/test_process_node.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.node import launcher
from headrace.node.container_root import canonical, rebuilt_directories
from headrace.node.launcher import LogFile, write_record

AT = 1_767_225_600_123_456_789


def test_lines_are_stamped_and_unfinished_ones_kept_for_the_end(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"))
    log.feed("stdout", b"one\ntw", AT)
    log.feed("stderr", b"oops\n", AT)
    log.feed("stdout", b"o", AT)
    log.close(AT)
    assert (tmp_path / "log").read_text().splitlines() == [
        "2026-01-01T00:00:00.123456789Z stdout F one",
        "2026-01-01T00:00:00.123456789Z stderr F oops",
        "2026-01-01T00:00:00.123456789Z stdout F two",
    ]


def test_long_lines_are_cut_into_parts(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"))
    log.feed("stdout", b"x" * (launcher.MAX_LINE_BYTES + 5) + b"\n", AT)
    log.close(AT)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 3)[2] for line in lines] == ["P", "F"]
    assert len("".join(line.split(" ", 3)[3] for line in lines)) == launcher.MAX_LINE_BYTES + 5


def test_a_full_log_is_set_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MAX_LOG_BYTES", 100)
    log = LogFile(str(tmp_path / "log"))
    for number in range(5):
        log.feed("stdout", f"line {number}\n".encode(), AT)
    log.close(AT)
    assert (tmp_path / "log").read_text().endswith("line 4\n")
    assert (tmp_path / "log.1").read_text().endswith("line 3\n")


def test_an_exclusive_record_is_written_by_one_only(tmp_path: Path) -> None:
    path = tmp_path / "0.run.json"
    write_record(str(path), {"first": True}, exclusive=True)
    with pytest.raises(FileExistsError):
        write_record(str(path), {"first": False}, exclusive=True)
    assert json.loads(path.read_text()) == {"first": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["0.run.json"]


def test_only_what_leads_to_a_missing_path_is_rebuilt() -> None:
    existing = {"/", "/mnt", "/home", "/home/me"}
    found = rebuilt_directories(["/data/x", "/home/me/new"], existing.__contains__)
    assert found == {"/", "/dev", "/home", "/home/me"}


def test_a_mount_path_is_taken_where_the_machine_s_links_lead() -> None:
    assert canonical("/var/run/x/../y", lambda path: path.replace("/var/run", "/run")) == "/run/y"
