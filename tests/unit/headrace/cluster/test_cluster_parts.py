"""The local cluster's pieces without a process: state file, pid guard, ports, binaries, options."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.cluster import binaries, ports, processes
from headrace.cluster.options import ClusterOptions
from headrace.cluster.state import ClusterFolder, ClusterState, ComponentState
from headrace.errors import ClusterError, UsageError


def test_state_survives_the_file_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    record = processes.ProcessRecord(pid=1, start_ticks=2, boot_id="b")
    state = ClusterState("n", {"etcd": 1}, {"etcd": ComponentState(record, ["etcd"], "log")}, {"nodes": 2})
    folder.save(state)
    assert folder.load() == state
    assert folder.state_file.stat().st_mode & 0o777 == 0o600
    folder.state_file.write_text('{"format": 99}')
    with pytest.raises(ClusterError, match="format 99"):
        folder.load()


def test_only_one_command_changes_a_cluster_at_a_time(tmp_path: Path) -> None:
    first, second = ClusterFolder(tmp_path), ClusterFolder(tmp_path)
    with first.locked(), pytest.raises(ClusterError, match="another headrace command"), second.locked():
        pass


def test_a_recycled_pid_is_not_ours(tmp_path: Path) -> None:
    record = processes.spawn(["sleep", "60"], log=tmp_path / "log", cwd=tmp_path, env=os.environ)
    stranger = replace(record, start_ticks=record.start_ticks + 1)
    assert processes.is_running(record)
    assert not processes.is_running(stranger)
    assert not processes.is_running(replace(record, boot_id="another boot"))
    processes.stop(stranger, grace_seconds=0.1)
    assert processes.is_running(record)
    processes.stop(record, grace_seconds=5)
    assert not processes.is_running(record)


def test_a_port_in_use_is_not_picked() -> None:
    with socket.socket() as taken:
        first = ports.pick_free(rng=random.Random(7))
        taken.bind((ports.LOOPBACK, first))
        taken.listen()
        assert not ports.is_free(first)
        assert ports.pick_free(rng=random.Random(7)) != first


def a_program(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {name} Version: {version}\n")
    path.chmod(0o755)
    return path


def test_a_named_binary_wins_over_path_and_one_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "old").mkdir()
    on_path = a_program(tmp_path / "bin", "etcd", "3.6.1")
    named = a_program(tmp_path, "etcd", "3.5.9")
    old = a_program(tmp_path / "old", "etcd", "3.4.23")
    base = {"PATH": f"{tmp_path / 'bin'}:{os.defpath}", "HOME": str(tmp_path)}
    assert binaries.locate({**base, "KWOK_ETCD_BINARY": str(named)}, ["etcd"]).found["etcd"] == named
    lookup = binaries.locate({**base, "KWOK_ETCD_BINARY": str(old)}, ["etcd"])
    assert lookup.found["etcd"] == on_path
    assert "is version 3.4, 3.5 or newer is needed" in lookup.notes[0]


def test_what_is_missing_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="make setup"):
        binaries.require(["etcd"], {"PATH": str(tmp_path), "HOME": str(tmp_path)})


def test_an_up_without_options_keeps_those_of_the_last_one() -> None:
    first = ClusterOptions.merged({}, {"nodes": 5, "gpus": None})
    assert ClusterOptions.merged(first.to_dict(), {"gpus": 8}) == replace(first, gpus=8)
    with pytest.raises(UsageError, match="--memory 'lots'"):
        ClusterOptions.merged({}, {"memory": "lots"})


def test_make_alone_lists_the_targets() -> None:
    done = subprocess.run(["make", "-C", str(binaries.PROJECT_ROOT)], capture_output=True, text=True, check=True)
    assert "make demo" in done.stdout
    assert "make test" in done.stdout
