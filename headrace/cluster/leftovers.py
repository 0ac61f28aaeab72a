"""Containers that outlived their node agent.

Owns ending the container monitors of one cluster when its agents are gone. A
monitor (headrace/node/launcher.py) keeps its container alive over an agent's
restart, on purpose; when the cluster goes down nobody would ever end it. It is
recognised by what it runs and by the log it holds open below the cluster's
folder, so no monitor of another cluster is touched."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

MONITOR = "launcher.py"
#: SIGTERM is passed to the container, SIGUSR1 makes the monitor kill all that it holds.
GRACE_SECONDS = 5.0
KILL_SECONDS = 10.0


def monitors(nodes_folder: Path) -> list[int]:
    """The pids of the container monitors whose log is below this folder."""
    root = str(nodes_folder.resolve()) + "/"
    return [pid for pid in _pids() if _is_monitor(pid) and _holds_file_below(pid, root)]


def end(nodes_folder: Path) -> int:
    """End the monitors and their containers; how many there were. Blocks for at most 15 s."""
    found = monitors(nodes_folder)
    for number, wait_seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGUSR1, KILL_SECONDS)):
        for pid in monitors(nodes_folder):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + wait_seconds
        while monitors(nodes_folder) and time.monotonic() < deadline:
            time.sleep(0.1)
    return len(found)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  names, not files


def _is_monitor(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # The container itself has another command line, and so is left to its monitor.
    return any(argument.endswith(b"/headrace/node/" + MONITOR.encode()) for argument in arguments)


def _holds_file_below(pid: int, root: str) -> bool:
    folder = Path(f"/proc/{pid}/fd")
    try:
        return any(str(entry.readlink()).startswith(root) for entry in folder.iterdir())
    except OSError:
        return False
