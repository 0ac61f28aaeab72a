"""The node's cache worker over its unix socket: one request at a time a connection, descriptors included.

Owns the frame format's client side (api/byteplane.py of the platform defines it), reconnecting, and showing tokens to a
worker that wants them: every file of one folder, read again whenever what was shown does not do. Blocking: a
training process has threads or processes of its own. Safe to fork: a connection belongs to the process and thread
that opened it; a child opens its own with its first call.
"""

import array
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from headrace_sdk.msgpack import Malformed, pack, unpack

SOCKET_VARIABLE = "HEADRACE_SOCKET"
SOCKET_DEFAULT = "/run/headrace/worker.sock"
TOKENS_VARIABLE = "HEADRACE_TOKENS"
TOKENS_DEFAULT = "/run/headrace/tokens"
REQUEST_SECONDS = 120.0
COMMIT_SECONDS = 1800.0
PATIENCE_SECONDS = 30.0
"""A worker that restarts is waited for this long."""
BACKOFF_SECONDS = 0.05
DECLARED_AT_ONCE = 200
"""Paths of 4,096 bytes still fit a frame's meta."""

HELLO, OPEN, ENSURE, CLOSE, READ, CREATE, COMMIT, ABORT, REMOVE, RENAME, MAKE_DIRECTORY = range(1, 12)
FIND_DATASET, LOOKUP, LIST, AUTHORIZE, DECLARE = range(12, 17)
_TOKEN_ERRNOS = {
    126,
    127,
    129,
}  # ENOKEY, EKEYEXPIRED, EKEYREJECTED: a worker is on Linux, and we may be imported elsewhere
"""The worker's word for: another token may help."""

_HEADER = struct.Struct("<HBBHHQII")
_MAGIC, _VERSION = 0x5248, 1
_REPLY, _DESCRIPTOR = 1, 2
_META_BYTES_MAX, _DATA_BYTES_MAX = 1 << 20, 64 << 20


class ConnectionLost(ConnectionError):
    """The worker hung up or did not answer in time; the request may or may not have been carried out."""


class _Answer(NamedTuple):
    """What an answer's header says."""

    request_id: int
    status: int
    meta_bytes: int
    data_bytes: int


class Reply(NamedTuple):
    """An answer; `descriptor` is the receiver's to close."""

    meta: dict[str, Any]
    data: bytes
    descriptor: int | None


class Connection:
    """One connected socket. Calls from several threads wait for each other."""

    def __init__(self, path: str, tokens: str) -> None:
        """Connect and greet; OSError. `tokens` is the folder of tokens."""
        self._tokens = tokens
        self.process = os.getpid()
        self.is_open = True
        self._lock = threading.Lock()
        self._next_id = 1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(REQUEST_SECONDS)
            self._socket.connect(path)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            hello = self.call(HELLO, {"client": "sdk"})
        except BaseException:
            self.close()
            raise
        self.block_size_bytes = int(hello.meta["block_size_bytes"])

    def call(self, op: int, meta: dict[str, Any], timeout_seconds: float = REQUEST_SECONDS) -> Reply:
        """Return the worker's answer. OSError with the worker's errno when it refuses; ConnectionLost."""
        try:
            return self._call(op, meta, timeout_seconds)
        except OSError as error:
            if error.errno not in _TOKEN_ERRNOS or op == AUTHORIZE:
                raise
        problem = self._show_tokens()
        try:
            return self._call(op, meta, timeout_seconds)
        except OSError as error:
            if error.errno not in _TOKEN_ERRNOS:
                raise
            raise PermissionError(errno.EACCES, f"{error.strerror or error} ({problem})") from None

    def _show_tokens(self) -> str:
        """Show every token there is; return what to say when that was not enough."""
        folder = Path(self._tokens)
        shown, problem = 0, ""
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
            for path in files:
                try:
                    self.call(AUTHORIZE, {"token": path.read_text().strip()})
                    shown += 1
                except ConnectionLost:
                    raise
                except OSError as error:
                    problem = f"; {path.name}: {error.strerror or error}"
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            problem = f"; {error.strerror}"
        return f"{shown} good tokens in {folder}, which {TOKENS_VARIABLE} names{problem}"

    def _call(self, op: int, meta: dict[str, Any], timeout_seconds: float) -> Reply:
        with self._lock:
            request_id = self.ask(op, meta, timeout_seconds)
            with self._ends_when_lost(timeout_seconds):
                status, reply = self._receive(op, request_id)
        if status:
            raise OSError(status, str(reply.meta.get("message", "the worker refused")))
        return reply

    def ask(self, op: int, meta: dict[str, Any], timeout_seconds: float = REQUEST_SECONDS) -> int:
        """Send a request and return its number; `answer` returns its answer. Only for a connection that nobody else
        calls on. ConnectionLost."""
        if not self.is_open or self.process != os.getpid():
            raise ConnectionLost(errno.ECONNRESET, "the connection to the worker is closed")
        request_id, self._next_id = self._next_id, self._next_id + 1
        body = pack(meta)
        with self._ends_when_lost(timeout_seconds):
            self._socket.settimeout(timeout_seconds)
            self._socket.sendall(_HEADER.pack(_MAGIC, _VERSION, op, 0, 0, request_id, len(body), 0) + body)
        return request_id

    def answer(self, op: int, place: Callable[[int, int], memoryview]) -> int:
        """Receive the next answer to one of several questions of one kind; return the number of its question. Its data
        is put where `place` says, given that number and its length. OSError when the worker refuses; ConnectionLost."""
        if not self.is_open or self.process != os.getpid():
            raise ConnectionLost(errno.ECONNRESET, "the connection to the worker is closed")
        with self._ends_when_lost(REQUEST_SECONDS):
            header, descriptor = self._header(op)
            if descriptor is not None:
                os.close(descriptor)
                raise Malformed("it sent a descriptor nobody asked for")
            meta = unpack(self._exactly(header.meta_bytes))
            if not header.status:
                self._fill(place(header.request_id, header.data_bytes))
        if header.status:
            raise OSError(header.status, str(meta.get("message", "the worker refused")))
        return header.request_id

    @contextmanager
    def _ends_when_lost(self, timeout_seconds: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise ConnectionLost(errno.ETIMEDOUT, f"the worker did not answer in {timeout_seconds} s") from error
        except (OSError, Malformed) as error:
            self.close()
            if isinstance(error, ConnectionLost):
                raise
            raise ConnectionLost(errno.ECONNRESET, f"the worker was lost: {error}") from error
        except BaseException:
            # Interrupted between question and answer: the next answer would be the wrong one.
            self.close()
            raise

    def _header(self, op: int) -> tuple[_Answer, int | None]:
        raw, descriptor = self._first()
        try:
            magic, version, got_op, status, flags, got_id, meta_bytes, data_bytes = _HEADER.unpack(raw)
            if (magic, version) != (_MAGIC, _VERSION):
                raise Malformed("it speaks another protocol; install the headrace-sdk of its version")
            if got_op != op or not flags & _REPLY:
                raise Malformed("it answered another request")
            if meta_bytes > _META_BYTES_MAX or data_bytes > _DATA_BYTES_MAX:
                raise Malformed(f"its frame of {meta_bytes}+{data_bytes} bytes is too large")
            if bool(flags & _DESCRIPTOR) != (descriptor is not None):
                raise Malformed("its descriptor is missing")
            return _Answer(got_id, status, meta_bytes, data_bytes), descriptor
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _receive(self, op: int, request_id: int) -> tuple[int, Reply]:
        header, descriptor = self._header(op)
        try:
            if header.request_id != request_id:
                raise Malformed("it answered another request")
            meta = unpack(self._exactly(header.meta_bytes))
            return header.status, Reply(meta, self._exactly(header.data_bytes), descriptor)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _first(self) -> tuple[bytes, int | None]:
        size = array.array("i").itemsize
        data, ancillary, _, _ = self._socket.recvmsg(
            _HEADER.size, socket.CMSG_SPACE(size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        numbers = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(payload[: len(payload) - len(payload) % size])
        descriptor = numbers[0] if numbers else None
        if not data:
            raise ConnectionLost(errno.ECONNRESET, "the worker hung up")
        try:
            return data + self._exactly(_HEADER.size - len(data)), descriptor
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _exactly(self, size_bytes: int) -> bytes:
        whole = bytearray(size_bytes)
        self._fill(memoryview(whole))
        return bytes(whole)

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionLost(errno.ECONNRESET, "the worker hung up")
            view = view[count:]

    @property
    def is_alive(self) -> bool:
        """Whether the worker is still there, so that what it holds for us is held. Costs one system call."""
        if not self.is_open or self.process != os.getpid():
            return False
        if not self._lock.acquire(blocking=False):
            return True  # A call is under way and will find out.
        try:
            # Nobody has asked anything, so that all there can be to read is the end.
            return not self._poll.poll(0)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Hang up; handles of the connection end with it."""
        self.is_open = False
        self._socket.close()

    def __del__(self) -> None:
        # A thread that ended, a child that went its own way: nobody else closes theirs.
        self._socket.close()


class Worker:
    """The worker at a socket path; what to use from any thread and after a fork."""

    def __init__(self, path: str | None = None, tokens: str | None = None) -> None:
        """`path` None: $HEADRACE_SOCKET, else /run/headrace/worker.sock; `tokens` None: $HEADRACE_TOKENS, else
        /run/headrace/tokens. Connects with the first call."""
        self.tokens = tokens or os.environ.get(TOKENS_VARIABLE) or TOKENS_DEFAULT
        self.path = path or os.environ.get(SOCKET_VARIABLE) or SOCKET_DEFAULT
        self._local = threading.local()

    def connection(self, deadline: float | None = None) -> Connection:
        """Return this thread's living connection, waiting for a worker until `deadline` (monotonic seconds)."""
        known: Connection | None = getattr(self._local, "connection", None)
        if known is not None and known.is_open and known.process == os.getpid():
            return known
        if deadline is None:
            deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                made = self._local.connection = Connection(self.path, self.tokens)
            except OSError as error:
                is_hopeless = isinstance(error, PermissionError) or not Path(self.path).parent.is_dir()
                if is_hopeless or time.monotonic() >= deadline:
                    raise OSError(
                        errno.ENOTCONN,  # Not ENOENT: a socket that is not there is no file that is not there.
                        f"no cache worker at {self.path}: {error.strerror or error}; is {SOCKET_VARIABLE} right and "
                        "the socket mounted into this container?",
                    ) from error
                time.sleep(BACKOFF_SECONDS)
            else:
                return made

    def another(self) -> Connection:
        """Return a connection of one's own; OSError."""
        return Connection(self.path, self.tokens)

    def ask(self, op: int, meta: dict[str, Any]) -> Reply:
        """Call, going on with the next worker when this one dies: for requests that may be sent twice."""
        return self.ask_on(op, meta)[0]

    def ask_on(self, op: int, meta: dict[str, Any]) -> tuple[Reply, Connection]:
        """Like `ask`; also return the connection, on which a handle of the answer is good."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            connection = self.connection(deadline)
            try:
                return connection.call(op, meta), connection
            except ConnectionLost:
                if time.monotonic() >= deadline:
                    raise

    def declare(self, uid: str, paths: Sequence[str]) -> None:
        """Tell the worker which files this thread, or who works for it, will open, in that order."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            connection = self.connection(deadline)
            try:
                # On one connection: with it the worker forgets the order.
                for first in range(0, max(len(paths), 1), DECLARED_AT_ONCE):
                    part = list(paths[first : first + DECLARED_AT_ONCE])
                    connection.call(DECLARE, {"uid": uid, "first": first, "paths": part})
            except ConnectionLost:
                if time.monotonic() >= deadline:
                    raise
            else:
                return

    def change(self, op: int, meta: dict[str, Any], done_errno: int) -> dict[str, Any]:
        """Call for a change. When the worker dies before its answer the call is made again, and then the refusal
        `done_errno`, which the first call's success would explain, is success."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        may_have_happened = False
        while True:
            connection = self.connection(deadline)
            try:
                return connection.call(op, meta).meta
            except ConnectionLost:
                may_have_happened = True
                if time.monotonic() >= deadline:
                    raise
            except OSError as error:
                if may_have_happened and error.errno == done_errno:
                    return {}
                raise

    def __reduce__(self) -> tuple[Any, ...]:
        return Worker, (self.path, self.tokens)
