"""Detached processes, remembered by more than their pid.

Owns spawning, recognising and stopping. A record holds the pid, the start time
the kernel gave it and the boot it belongs to: a recycled pid, or the same pid
after a reboot, is never taken for ours, and so never killed. Does not keep the
records: state.py does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: A log bigger than this is set aside (one old copy is kept) before its process starts again.
LOG_ROTATE_BYTES = 16 * 1024 * 1024
POLL_SECONDS = 0.05

#: Children of this interpreter, so that they can be reaped; a zombie counts as not running.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process we started. `start_ticks` is field 22 of /proc/PID/stat (clock ticks since boot)."""

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start ticks) of a pid, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def spawn(argv: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> ProcessRecord:
    """Start a process in a session of its own, its output appended to `log` (mode 0600).

    It outlives us and does not get the terminal's signals. Raises OSError when the
    program cannot be executed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_ROTATE_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    _children[child.pid] = child
    stat = _stat(child.pid)
    # A child we have not reaped keeps its /proc entry, even as a zombie.
    start_ticks = stat[1] if stat is not None else 0
    return ProcessRecord(pid=child.pid, start_ticks=start_ticks, boot_id=boot_id())


def is_running(record: ProcessRecord) -> bool:
    """True when this very process is alive (not a zombie, not another one with its pid)."""
    child = _children.get(record.pid)
    if child is not None and child.poll() is not None:
        del _children[record.pid]
        return False
    if record.boot_id != boot_id():
        return False
    stat = _stat(record.pid)
    return stat is not None and stat[1] == record.start_ticks and stat[0] not in "ZX"


def _signal(record: ProcessRecord, signum: signal.Signals) -> None:
    """Signal the process, through a pidfd so that the check and the signal hit the same process."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if is_running(record):
            signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def stop(record: ProcessRecord, *, grace_seconds: float = 10.0) -> None:
    """SIGTERM, wait, SIGKILL, wait. Returns when it is gone; a process that is not ours is left alone."""
    for signum, wait_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        _signal(record, signum)
        deadline = time.monotonic() + wait_seconds
        while is_running(record):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        else:
            return


def rss_bytes(record: ProcessRecord) -> int | None:
    """Resident memory of the process, or None when it is not running."""
    if not is_running(record):
        return None
    try:
        pages = Path(f"/proc/{record.pid}/statm").read_text(encoding="ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def log_tail(log: Path, lines: int = 12, *, max_bytes: int = 16 * 1024) -> list[str]:
    """The last lines of a log, oldest first; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
