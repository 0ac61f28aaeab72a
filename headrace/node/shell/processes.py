"""Containers as processes: starting a monitor, finding it again, signalling, waiting.

Owns the agent's side of launcher.py. Does not decide when (core/pod_state.py) nor what the
container sees (shell/container_spec.py). Invariants: a monitor is only signalled through a
pidfd whose process was checked by start time and boot, so a recycled pid is never hit; of
two monitors for one start only one runs its container, and the other agent adopts it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from headrace.node import launcher
from headrace.node.errors import StartError
from headrace.node.shell.records import ContainerFolder, ExitRecord, RunRecord

LAUNCHER = Path(launcher.__file__)
#: Building a root takes milliseconds; a mount over a dead network file system may hang.
START_SECONDS = 30.0
#: Descriptors are moved above this before they are put on 3 and 4, so none is overwritten.
FIRST_HIGH_FD = 64
UNKNOWN_EXIT_CODE = 137


class ContainerProcess:
    """A monitor that is (or was) alive, and through it its container."""

    def __init__(self, folder: ContainerFolder, attempt: int, monitor_pid: int, pidfd: int, run: RunRecord) -> None:
        self.folder = folder
        self.attempt = attempt
        self.run = run
        self._pid = monitor_pid
        self._pidfd = pidfd
        self._is_gone = False

    def terminate(self) -> None:
        """Send SIGTERM to the container's main process."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL every process of the container."""
        self._send(signal.SIGUSR1)

    def _send(self, number: signal.Signals) -> None:
        if not self._is_gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> ExitRecord:
        """Return how the container ended, once it has. To be awaited once."""
        try:
            await _readable(self._pidfd)
        finally:
            self._is_gone = True
            os.close(self._pidfd)
        _reap(self._pid)
        return self.folder.exit_record(self.attempt) or unknown_end(self.run.started_at)


def unknown_end(started_at: float) -> ExitRecord:
    """Return the end of a container whose monitor left no record."""
    return ExitRecord(exit_code=UNKNOWN_EXIT_CODE, started_at=started_at, finished_at=started_at)


async def start(folder: ContainerFolder, attempt: int, spec: dict[str, Any]) -> ContainerProcess:
    """Start a monitor and return once the container runs. Raises StartError; nothing is left then."""
    spec = {
        **spec,
        "mode": "run",
        "root": str(folder.root),
        "log": str(folder.file(attempt, "log")),
        "run_record": str(folder.file(attempt, "run.json")),
        "exit_record": str(folder.file(attempt, "exit.json")),
    }
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _spawn(spec, write_end, folder.file(attempt, "monitor.log"))
    except OSError as error:
        os.close(read_end)
        raise StartError(f"the container's monitor cannot be started: {error.strerror}") from error
    finally:
        os.close(write_end)
    process = ContainerProcess(folder, attempt, pid, os.pidfd_open(pid), RunRecord(monitor_pid=pid))
    try:
        async with asyncio.timeout(START_SECONDS):
            answer = await _read_answer(read_end)
    except TimeoutError:
        process.kill()
        await _wait_shortly(process)
        raise StartError(f"the container did not start within {START_SECONDS:.0f} s: a mount hangs") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    finally:
        os.close(read_end)
    if answer is None:
        await _wait_shortly(process)
        # A monitor that an earlier agent started at the moment of its death has this start's number.
        earlier = adopt(folder, attempt)
        if earlier is None:
            raise StartError("the container's monitor ended before the container ran")
        return earlier
    if "error" in answer:
        await _wait_shortly(process)
        raise StartError(answer["error"])
    process.run = msgspec.convert(answer, RunRecord)
    return process


def adopt(folder: ContainerFolder, attempt: int) -> ContainerProcess | None:
    """Return the living monitor of a start that an earlier agent made, None when there is none."""
    run = folder.run_record(attempt)
    if run is None or run.boot_id != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(run.monitor_pid)
    except OSError:
        return None
    try:
        is_ours = launcher.start_ticks(run.monitor_pid) == run.monitor_start_ticks
    except OSError:
        is_ours = False
    if not is_ours:
        os.close(pidfd)
        return None
    return ContainerProcess(folder, attempt, run.monitor_pid, pidfd, run)


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


async def execute(process: ContainerProcess, spec: dict[str, Any], seconds: float) -> tuple[int, str]:
    """Run a command inside a running container; returns (exit code, the start of its output).

    A command that takes longer is killed and counts as exit code 124."""
    # An adopted monitor may have been found before its container ran.
    run = process.folder.run_record(process.attempt) or process.run
    spec = {**spec, "mode": "exec", "pid": run.main_pid}
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _spawn(spec, write_end, None)
    finally:
        os.close(write_end)
    pidfd = os.pidfd_open(pid)
    try:
        async with asyncio.timeout(seconds):
            output = await _read_all(read_end, 4096)
            await _readable(pidfd)
            code = 0
    except TimeoutError:
        output, code = b"timed out", 124
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        await _readable(pidfd)
        os.close(pidfd)
        status = _reap(pid)
    return code or abs(os.waitstatus_to_exitcode(status)), output.decode(errors="replace")


def _spawn(spec: dict[str, Any], status_fd: int, log: Path | None) -> int:
    """Start launcher.py in a session of its own; its output goes to `log`, or to `status_fd` without one."""
    memory = os.memfd_create("container-spec", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "w", encoding="utf-8", closefd=False) as file:
            json.dump(spec, file)
        os.lseek(memory, 0, os.SEEK_SET)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH_FD) for fd in (memory, status_fd)]
    finally:
        os.close(memory)
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    if log is None:
        actions += [(os.POSIX_SPAWN_DUP2, high[1], 1), (os.POSIX_SPAWN_DUP2, high[1], 2)]
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions += [(os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, high[1], launcher.STATUS_FD))
    actions.append((os.POSIX_SPAWN_DUP2, high[0], launcher.SPEC_FD))
    argv = [sys.executable, "-I", "-S", "-E", "-X", "utf8", str(LAUNCHER)]
    try:
        return os.posix_spawn(sys.executable, argv, {}, file_actions=actions, setsid=True)
    finally:
        for descriptor in high:
            os.close(descriptor)


def _reap(pid: int) -> int:
    """Collect a child that has ended; returns its wait status, 0 when it was not ours."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


async def _read_answer(descriptor: int) -> dict[str, Any] | None:
    data = await _read_all(descriptor, 1 << 16)
    if not data:
        return None
    answer: dict[str, Any] = json.loads(data)
    return answer


async def _read_all(descriptor: int, limit_bytes: int) -> bytes:
    """Read until the end; what is over the limit is thrown away."""
    data = b""
    while True:
        await _readable(descriptor)
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return data
        data = (data + chunk)[:limit_bytes]


async def _wait_shortly(process: ContainerProcess) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            await process.wait()
