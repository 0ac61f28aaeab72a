"""A container's monitor: starts one process in its own root, keeps its log, records its end.

Run by the agent as `python -I -S -E launcher.py` with the spec as JSON on file descriptor 3
(never argv: it holds secrets) and the outcome of the start written to descriptor 4.
Standard library only, so that it starts in milliseconds.

The monitor outlives the agent: a new agent finds the records it writes beside the log and
goes on watching it. `run` is created exclusively before anything is started, so of two
monitors for the same start (two agents, one dying) only one runs the container.

Owns: the container's process and all its descendants (it is their subreaper), the log, the
`run` and `exit` records. Does not decide anything: SIGTERM is passed to the main process,
SIGUSR1 kills every descendant. Invariant: when the monitor ends of itself, no descendant
is left and the exit record is on disk. See container_root.py for the mounts."""

# System calls by path strings: every import costs milliseconds of a start, and records are plain system calls.
# ruff: noqa: PTH105, PTH108, PTH208
from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

if __package__:
    from headrace.node import container_root
else:
    # -I keeps even the script's own folder off the path.
    sys.path.insert(0, str(Path(__file__).parent))
    import container_root  # type: ignore[import-not-found,no-redef]

SPEC_FD, STATUS_FD = 3, 4
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
START_ERROR_EXIT_CODE = 128
#: As containerd: longer lines are cut into parts marked P.
MAX_LINE_BYTES = 16 * 1024
MAX_LOG_BYTES = 32 * 1024 * 1024
READ_BYTES = 64 * 1024
#: After the main process ended and all descendants were killed, pipes end at once.
DRAIN_SECONDS = 5.0


def start_ticks(pid: int) -> int:
    """Return the kernel's start time of a process (clock ticks since boot); OSError when there is none."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(text[text.rindex(")") + 2 :].split()[19])


def write_record(path: str, record: dict[str, Any], *, exclusive: bool = False) -> None:
    """Write a JSON record in one step; with `exclusive` FileExistsError when it is there already."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        json.dump(record, file)
    if exclusive:
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    else:
        os.replace(temporary, path)


class LogFile:
    """Lines of one container as `<time> <stream> <F or P> <text>`; one older file is kept as `.1`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pending: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        self._size_bytes = os.fstat(self._descriptor).st_size

    def feed(self, stream: str, data: bytes, now_ns: int) -> None:
        """Add what was read from a stream; whole lines are written, the rest is kept."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9))
        prefix = f"{stamp}.{now_ns % 10**9:09d}Z {stream} ".encode()
        data = self._pending[stream] + data
        lines = data.split(b"\n")
        rest = lines.pop()
        out = []
        for line in lines:
            whole = line
            while len(whole) > MAX_LINE_BYTES:
                out.append(prefix + b"P " + whole[:MAX_LINE_BYTES] + b"\n")
                whole = whole[MAX_LINE_BYTES:]
            out.append(prefix + b"F " + whole + b"\n")
        while len(rest) > MAX_LINE_BYTES:
            out.append(prefix + b"P " + rest[:MAX_LINE_BYTES] + b"\n")
            rest = rest[MAX_LINE_BYTES:]
        self._pending[stream] = rest
        if out:
            self._write(b"".join(out))

    def close(self, now_ns: int) -> None:
        """Write unfinished lines and close."""
        for stream, rest in list(self._pending.items()):
            if rest:
                self.feed(stream, b"\n", now_ns)
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        if self._size_bytes and self._size_bytes + len(data) > MAX_LOG_BYTES:
            os.close(self._descriptor)
            os.replace(self._path, self._path + ".1")
            self._open()
        try:
            os.write(self._descriptor, data)
            self._size_bytes += len(data)
        except OSError as error:
            # A full disk must not stop the training; the lines are lost.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


def run_as(spec: dict[str, Any]) -> None:
    """Become the user and group of the spec (only root can)."""
    if os.geteuid() != 0:
        return
    if spec.get("groups") is not None:
        os.setgroups(spec["groups"])
    if spec.get("gid") is not None:
        os.setgid(spec["gid"])
    if spec.get("uid") is not None:
        os.setuid(spec["uid"])


def execute(spec: dict[str, Any]) -> NoReturn:
    """Replace this process by the container's command; raises OSError with a message as containerd's."""
    os.umask(0o022)
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        raise OSError(error.errno, f"workingDir {spec['cwd']}: {error.strerror}") from error
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    command = spec["argv"][0]
    try:
        os.execvpe(command, spec["argv"], spec["env"])
    except FileNotFoundError as error:
        tail = "no such file or directory" if "/" in command else "executable file not found in $PATH"
        raise OSError(error.errno, f'exec: "{command}": {tail}') from error
    except OSError as error:
        raise OSError(error.errno, f'exec: "{command}": {(error.strerror or "").lower()}') from error


def become_container(spec: dict[str, Any], report_fd: int, outputs: tuple[int, int]) -> NoReturn:
    """The child's part: session, mounts, user, exec. Reports a failure on `report_fd` and exits."""
    try:
        os.setsid()
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        binds = [container_root.Bind(**bind) for bind in spec["binds"]]
        container_root.enter(
            binds,
            root=spec["root"],
            hostname=spec["hostname"],
            as_root=os.geteuid() == 0,
            uid=os.geteuid(),
            gid=os.getegid(),
        )
        run_as(spec)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        execute(spec)
    except (OSError, container_root.RootError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        os.write(report_fd, text.encode()[:4000])
    finally:
        os._exit(START_ERROR_EXIT_CODE)


def descendants(pid: int) -> list[int]:
    """Return the pids below `pid`, children first."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii").split()
                found.extend(int(child) for child in children)
                todo.extend(int(child) for child in children)
        except OSError:
            continue
    return found


class Monitor:
    """The loop of one container: pipes, signals and the end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._log = LogFile(spec["log"])
        self._wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._main_pid = 0
        self._wait_status: int | None = None
        self._error = b""
        self._started_at = 0.0

    def run(self) -> None:
        """Start the container, stay until it ended, write its exit record."""
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        self._started_at = time.time()
        self._main_pid = os.fork()
        if self._main_pid == 0:
            become_container(self._spec, report_write, (out_write, err_write))
        for descriptor in (report_write, out_write, err_write):
            os.close(descriptor)
        self._streams = {out_read: "stdout", err_read: "stderr"}
        self._report = report_read
        self._poll = select.poll()
        for descriptor in (self._wake_read, out_read, err_read, report_read):
            self._poll.register(descriptor, select.POLLIN)
        while self._wait_status is None or self._report >= 0:
            self._turn(None)
        self._kill_everything()
        self._drain()
        self._log.close(time.time_ns())
        write_record(self._spec["exit_record"], self._exit_record())

    def _turn(self, timeout_ms: int | None) -> bool:
        events = self._poll.poll(timeout_ms)
        for descriptor, _ in events:
            if descriptor == self._wake_read:
                self._on_signals(os.read(descriptor, 512))
            elif descriptor == self._report:
                self._on_report(os.read(descriptor, 4096))
            else:
                self._on_output(descriptor)
        return bool(events)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGTERM and self._wait_status is None:
                os.kill(self._main_pid, signal.SIGTERM)
            elif number == signal.SIGUSR1:
                self._kill_all()
            elif number == signal.SIGCHLD:
                self._reap()

    def _on_report(self, data: bytes) -> None:
        if data:
            self._error += data
            return
        self._poll.unregister(self._report)
        os.close(self._report)
        self._report = -1
        if self._error:
            status: dict[str, Any] = {"error": self._error.decode(errors="replace")}
        else:
            status = run_record(self._main_pid, self._started_at)
            write_record(self._spec["run_record"], status)
        # When the agent is gone its successor reads the record.
        with contextlib.suppress(OSError):
            os.write(STATUS_FD, json.dumps(status).encode() + b"\n")
        os.close(STATUS_FD)

    def _on_output(self, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        if data:
            self._log.feed(self._streams[descriptor], data, time.time_ns())
            return
        self._poll.unregister(descriptor)
        os.close(descriptor)
        del self._streams[descriptor]

    def _reap(self) -> bool:
        """Collect ended children; False when there are none left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main_pid:
                self._wait_status = status

    def _kill_all(self) -> None:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _kill_everything(self) -> None:
        # New children can appear while killing: go round until none is left.
        while self._reap():
            self._kill_all()
            self._turn(10)

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._streams and time.monotonic() < deadline:
            self._turn(100)

    def _exit_record(self) -> dict[str, Any]:
        status = self._wait_status or 0
        code = os.waitstatus_to_exitcode(status)
        record: dict[str, Any] = {
            "exit_code": 128 - code if code < 0 else code,
            "signal": -code if code < 0 else 0,
            "started_at": self._started_at,
            "finished_at": time.time(),
        }
        if self._error:
            record |= {"exit_code": START_ERROR_EXIT_CODE, "start_error": self._error.decode(errors="replace")}
        return record


def run_record(main_pid: int, started_at: float) -> dict[str, Any]:
    """Return what a later agent needs to know this monitor again; `main_pid` is 0 before the start."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {
        "monitor_pid": os.getpid(),
        "monitor_start_ticks": start_ticks(os.getpid()),
        "main_pid": main_pid,
        "boot_id": boot_id,
        "started_at": started_at,
    }


def main() -> int:
    """Read the spec and do what it says: `run` a container, or `exec` a command in a running one."""
    with os.fdopen(SPEC_FD, "r", encoding="utf-8") as file:
        spec = json.load(file)
    if spec["mode"] == "exec":
        try:
            container_root.join(spec["pid"])
            run_as(spec)
            execute(spec)
        except OSError as error:
            print(error.strerror or error, file=sys.stderr)
            return 126
    os.set_inheritable(STATUS_FD, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        write_record(spec["run_record"], run_record(0, time.time()), exclusive=True)
    except FileExistsError:
        print("another monitor has this start", file=sys.stderr)
        return 1
    Monitor(spec).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
