"""`python -m tests.kills.victim metadata|cacheruntime …`: such a process as it is, that can end itself by SIGKILL at a
point it is told.

A failpoint is found, not listed: every call by which a process changes what outlives it passes one, before it is made
and after it was, and a write one in its middle too. It bears the name of the function that makes the call, so a new
function with a new call is a new failpoint by itself. The calls:

- of the operating system, by Python code of ours: `cacheruntime.worker.tier_files.write_at: pwrite`;
- of the database, by SQLite: `metadata.db-wal: write`;
- of other processes, by gRPC: `call /headrace…/PutFile`, and as their server: `answer /headrace…/PutFile`.

FAILPOINT_RECORD is a file that gets a line for each point that is passed for the first time, and one before the end.
FAILPOINTS are the points to end at, a line each; the process ends at the first of them that is passed for the
FAILPOINT_PASSAGE-th (1) time. After SIGUSR1 it ends at whatever point it passes next.
"""

import os
import runpy
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from pathlib import PurePath
from types import FrameType
from typing import Any, Final

import apsw
import grpc

OURS: Final = ("cacheruntime.", "understores.", "metadata.")
CALLS: Final = (
    *("open", "pwrite", "write", "pwritev", "ftruncate", "truncate", "fsync", "fdatasync", "posix_fallocate"),
    *("rename", "replace", "link", "symlink", "unlink", "remove", "rmdir", "mkdir", "sendfile", "copy_file_range"),
)
TORN: Final = ("pwrite", "write")
MAKES: Final = os.O_CREAT | os.O_TRUNC


class Failpoints:
    """Counts passings, writes them down, ends the process at one that was asked for."""

    def __init__(self, record: int, wanted: Set[str], passage: int) -> None:
        self._record = record
        self._wanted = wanted
        self.is_any_wanted = False
        self._passage = passage
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._write, self._kill = os.write, os.kill

    def due(self, point: str) -> bool:
        """A point is being passed; return whether it is the one to end at."""
        with self._lock:
            self._passed[point] += 1
            if self._passed[point] == 1:
                self._tell(f"passed {point}")
            return self.is_any_wanted or (point in self._wanted and self._passed[point] == self._passage)

    def passing(self, point: str) -> None:
        """A point is being passed: perhaps the last."""
        if self.due(point):
            self.end(point)

    def end(self, point: str) -> None:
        """End here and now."""
        self._tell(f"killed {point}")
        self._kill(os.getpid(), signal.SIGKILL)

    def _tell(self, line: str) -> None:
        self._write(self._record, f"{line}\n".encode())


def place() -> str | None:
    """The function of ours that is being run, with its module; None when it is somebody else's call."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(OURS):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return None


def arm_system(points: Failpoints) -> None:
    """The operating system's calls."""

    def armed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            where = place() if name != "open" or args[1] & MAKES else None
            if where is None:
                return real(*args, **kwargs)
            point = f"{where}: {name}"
            points.passing(point)
            torn = f"{point}, torn"
            if name in TORN and points.due(torn):
                real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                points.end(torn)
            result = real(*args, **kwargs)
            points.passing(f"{point}, done")
            return result

        return call

    for name in CALLS:
        setattr(os, name, armed(name, getattr(os, name)))


def arm_sqlite(points: Failpoints) -> None:
    """SQLite's file calls, by a layer over its own."""

    class File(apsw.VFSFile):
        def __init__(self, name: Any, flags: list[int]) -> None:
            super().__init__("unix", name, flags)
            path = name.filename() if isinstance(name, apsw.URIFilename) else name
            self._name = PurePath(path or "temporary").name

        def xWrite(self, data: Any, offset: int) -> None:
            points.passing(f"{self._name}: write")
            torn = f"{self._name}: write, torn"
            if points.due(torn):
                super().xWrite(bytes(data)[: len(data) // 2], offset)
                points.end(torn)
            super().xWrite(data, offset)
            points.passing(f"{self._name}: write, done")

        def xSync(self, flags: int) -> None:
            points.passing(f"{self._name}: sync")
            super().xSync(flags)
            points.passing(f"{self._name}: sync, done")

        def xTruncate(self, size: int) -> None:
            points.passing(f"{self._name}: truncate")
            super().xTruncate(size)

    class Layer(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("failpoints", "unix", makedefault=True)

        def xOpen(self, name: Any, flags: list[int]) -> File:
            return File(name, flags)

        def xDelete(self, name: str, sync_directory: bool) -> None:
            points.passing(f"{PurePath(name).name}: delete")
            super().xDelete(name, sync_directory)
            points.passing(f"{PurePath(name).name}: delete, done")

    # SQLite knows it by its name only; it must live as long as we do.
    _LAYERS.append(Layer())


_LAYERS: Final[list[apsw.VFS]] = []


class _Calls(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, points: Failpoints) -> None:
        self._points = points

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        self._points.passing(f"call {method}")
        call = await continuation(details, request)
        await call.wait_for_connection()
        await call.code()
        self._points.passing(f"call {method}, done")
        return call


class _Answers(grpc.aio.ServerInterceptor):
    def __init__(self, points: Failpoints) -> None:
        self._points = points

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        points, method, real = self._points, details.method, handler.unary_unary

        async def answered(request: Any, context: Any) -> Any:
            points.passing(f"answer {method}")
            reply = await real(request, context)
            points.passing(f"answer {method}, done")
            return reply

        return grpc.unary_unary_rpc_method_handler(answered, handler.request_deserializer, handler.response_serializer)


def arm_grpc(points: Failpoints) -> None:
    """Calls of other processes, and answers to them, on channels without certificates."""
    channel, server = grpc.aio.insecure_channel, grpc.aio.server

    def armed_channel(*args: Any, **kwargs: Any) -> Any:
        return channel(*args, **{**kwargs, "interceptors": [_Calls(points)]})

    def armed_server(*args: Any, **kwargs: Any) -> Any:
        return server(*args, **{**kwargs, "interceptors": [_Answers(points)]})

    grpc.aio.insecure_channel, grpc.aio.server = armed_channel, armed_server


def main() -> None:
    """Arm, and run the module that is named first as if it had been started itself."""
    record = os.open(os.environ["FAILPOINT_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    wanted = frozenset(os.environ.get("FAILPOINTS", "").splitlines())
    points = Failpoints(record, wanted, int(os.environ.get("FAILPOINT_PASSAGE", "1")))

    def want_any(*_: object) -> None:
        points.is_any_wanted = True

    signal.signal(signal.SIGUSR1, want_any)
    arm_system(points)
    arm_sqlite(points)
    arm_grpc(points)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
