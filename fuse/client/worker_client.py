"""The node's cache worker, as the core sees it: a connection that comes back by itself.

Owns the connection, its retries and the deadlines. Files are in pinned_file.py and staging_file.py, frames in
connection.py.

A worker that dies takes its handles with it. Every call here goes on with the next worker, as long as one
answers within `patience_seconds`; after that the call raises Unavailable. `generation` counts connections: a
handle is good only on the one it came from, so files compare it before they trust what they know.
"""

import asyncio
import errno
import os
import random
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import grpc
import structlog

from api.byteplane import (
    TOKEN_ERRNOS,
    Authorize,
    Create,
    Hello,
    HelloReply,
    MakeDirectory,
    Mutated,
    Op,
    Open,
    Remove,
    Rename,
    SetMode,
    Struct,
    decode_meta,
)
from api.trust.source import Shown, TokenSource
from fuse.client.connection import Connection, ConnectionLost, Refused, Reply, connect
from fuse.client.inline_blocks import InlineBlocks
from fuse.client.pinned_file import PinnedWorkerFile
from fuse.client.staging_file import StagedWorkerFile
from fuse.client.vault import NoVault, Vault
from fuse.core.contracts import Restaged
from fuse.core.errnos import error_of
from fuse.errors import AccessDenied, NotFound, Unavailable, Unsupported
from fuse.metrics import Metrics

log = structlog.get_logger()

CONNECT_SECONDS: Final = 5.0
BACKOFF_FIRST_SECONDS: Final = 0.02
BACKOFF_MAX_SECONDS: Final = 1.0
TOKEN_PAUSE_SECONDS: Final = 0.2
_NO_TOKEN: Final = {grpc.StatusCode.PERMISSION_DENIED: AccessDenied, grpc.StatusCode.NOT_FOUND: NotFound}
"""What the metadata service means for good; for the rest it is asked again."""

_DONE_BEFORE: Final = {Op.MAKE_DIRECTORY: errno.EEXIST, Op.REMOVE: errno.ENOENT, Op.RENAME: errno.ENOENT}
"""Refusals of a second try that the first one's success explains."""

M = TypeVar("M", bound=Struct)


class WorkerClient:
    """Implements the core's Worker."""

    def __init__(
        self,
        socket_path: str,
        *,
        node: str,
        metrics: Metrics,
        patience_seconds: float = 30.0,
        request_seconds: float = 60.0,
        commit_seconds: float = 1800.0,
        vault: Vault | None = None,
        tokens: TokenSource | None = None,
    ) -> None:
        """`tokens` are shown to a worker that wants them."""
        self._tokens = tokens
        self._socket_path = socket_path
        self._node = node
        self.metrics = metrics
        self.patience_seconds = patience_seconds
        self._request_seconds = request_seconds
        self.commit_seconds = commit_seconds
        self._vault: Vault = vault or NoVault()
        self.inline = InlineBlocks()
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def generation(self) -> int:
        """Number of the living connection; 0 while there is none, so that nothing equals it."""
        connection = self._connection
        return self._generation if connection is not None and connection.is_open else 0

    async def call_on(self, op: Op, meta: Open | Create, kind: type[M]) -> tuple[M, Reply, Connection, int]:
        """Send to the living worker, going on with the next one when it dies. Returns the answer with the
        connection it came on and its generation. Only for requests that may be sent twice."""
        deadline = time.monotonic() + self.patience_seconds
        while True:
            connection, generation = await self.connected(deadline)
            try:
                reply = await self.request(connection, op, meta, uid=meta.uid, write=op is not Op.OPEN)
            except ConnectionLost as lost:
                if time.monotonic() >= deadline:
                    raise Unavailable(f"the worker was lost during {op.name}: {lost}") from lost
                self.metrics.retried(op.name)
                continue
            return decode_meta(reply.meta, kind), reply, connection, generation

    async def request(
        self,
        connection: Connection,
        op: Op,
        meta: Struct,
        *,
        uid: str,
        write: bool = False,
        timeout_seconds: float | None = None,
        into: memoryview | None = None,
    ) -> Reply:
        """Send on this very connection: for requests that name a handle of it. `uid` is the dataset it is about,
        data of the answer goes `into` memory. ConnectionLost, domain errors."""
        try:
            seconds = timeout_seconds or self._request_seconds
            return await self._asked(connection, op, meta, uid=uid, write=write, timeout_seconds=seconds, into=into)
        except Refused as refused:
            raise error_of(refused.number, str(refused)) from refused

    async def _asked(
        self,
        connection: Connection,
        op: Op,
        meta: Struct,
        *,
        uid: str,
        write: bool,
        timeout_seconds: float,
        into: memoryview | None = None,
    ) -> Reply:
        """Send, with a token for the dataset shown before; a token that is refused is replaced once."""
        shown = connection.shown
        if shown is None:
            return await connection.request(op, meta, timeout_seconds, into)
        try:
            if not shown.is_good(uid, write=write):
                await self._show(shown, uid, write=write)
            return await connection.request(op, meta, timeout_seconds, into)
        except Refused as refused:
            if refused.number not in TOKEN_ERRNOS:
                raise
            # A key was taken away, or the clocks are apart by more than is allowed.
            log.warning("token_refused", op=op.name, dataset=uid, error=str(refused))
        shown.forget(uid)
        try:
            await self._show(shown, uid, write=write)
            return await connection.request(op, meta, timeout_seconds, into)
        except Refused as refused:
            if refused.number not in TOKEN_ERRNOS:
                raise
            raise AccessDenied(str(refused)) from refused

    async def _show(self, shown: Shown, uid: str, *, write: bool) -> None:
        """Have a good token shown, waiting for a restarting metadata service; domain errors, Refused."""
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                await shown.ensure(uid, write=write)
                return
            except grpc.aio.AioRpcError as error:
                kind = _NO_TOKEN.get(error.code())
                if kind is not None or time.monotonic() >= deadline:
                    what = f"no token for dataset {uid}: {error.details() or error.code().name}"
                    raise (kind or Unavailable)(what) from error
            await asyncio.sleep(TOKEN_PAUSE_SECONDS)

    async def connected(self, deadline: float | None = None) -> tuple[Connection, int]:
        """Return the living connection and its generation, waiting for a worker until `deadline` (monotonic
        seconds; None = the usual patience); Unavailable."""
        connection = self._connection
        if connection is not None and connection.is_open:
            return connection, self._generation
        if deadline is None:
            deadline = time.monotonic() + self.patience_seconds
        async with self._connecting:
            pause = BACKOFF_FIRST_SECONDS
            while self._connection is None or not self._connection.is_open:
                if self._is_closed:
                    raise Unavailable("the mount is being closed")
                try:
                    self._connection = await self._connect()
                    self._generation += 1
                except (OSError, TimeoutError, ConnectionLost) as error:
                    if time.monotonic() + pause >= deadline:
                        raise Unavailable(f"no worker at {self._socket_path}: {error}") from error
                    await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                    pause = min(pause * 2, BACKOFF_MAX_SECONDS)
            return self._connection, self._generation

    async def _connect(self) -> Connection:
        connection = await connect(self._socket_path, CONNECT_SECONDS)
        try:
            reply = await connection.request(Op.HELLO, Hello(client="fuse", node=self._node), CONNECT_SECONDS)
            hello = decode_meta(reply.meta, HelloReply)
        except Refused as refused:
            connection.close("hello refused")
            raise ConnectionLost(f"the worker refused us: {refused}") from refused
        except BaseException:
            connection.close("hello failed")
            raise
        connection.sets_modes = hello.sets_modes
        connection.block_size_bytes = hello.block_size_bytes
        if hello.needs_tokens:
            if self._tokens is None:
                connection.close("no tokens")
                raise ConnectionLost("the worker wants tokens, and trust is off here; give both a --trust folder")
            connection.shown = Shown(self._tokens, lambda token: self._authorize(connection, token))
        log.info("worker_connected", node=hello.node, epoch=hello.epoch, generation=self._generation + 1)
        return connection

    async def _authorize(self, connection: Connection, token: str) -> None:
        await connection.request(Op.AUTHORIZE, Authorize(token=token), CONNECT_SECONDS)

    def run_soon(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background until done; a failure is the coroutine's own to note."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def pin(self, uid: str, path: str, etag: str, size_bytes: int) -> PinnedWorkerFile:
        """Return the version for reading; the worker is asked with the first `ensure`."""
        return PinnedWorkerFile(self, uid, path, etag, size_bytes)

    def stage(self, uid: str, path: str, base_etag: str, base_size_bytes: int) -> StagedWorkerFile:
        """Return a file to write; the worker is asked with the first use."""
        return StagedWorkerFile(
            self,
            number=self._vault.next_number(),
            uid=uid,
            path=path,
            base_etag=base_etag,
            base_size_bytes=base_size_bytes,
        )

    def restage(self, number: int, uid: str, path: str, base_etag: str, base_size_bytes: int) -> Restaged:
        """Return the staging file of an earlier daemon, with what the vault kept of it."""
        descriptor = self._vault.take(number)
        staging = StagedWorkerFile(
            self,
            number=number,
            uid=uid,
            path=path,
            base_etag=base_etag,
            base_size_bytes=base_size_bytes,
            descriptor=descriptor,
        )
        if descriptor is None:
            return Restaged(staging=staging, is_kept=False)
        status = os.fstat(descriptor)
        return Restaged(staging=staging, is_kept=True, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)

    def keep(self, number: int, descriptor: int) -> None:
        """Let the descriptor of a staging file outlive this daemon; Unavailable when that cannot be promised."""
        try:
            self._vault.keep(number, descriptor)
        except OSError as error:
            raise Unavailable(f"the keeper of the mount takes no descriptor: {error.strerror}") from error

    def let_go(self, number: int) -> None:
        """The staging file is closed."""
        self._vault.let_go(number)

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        """Remove a file or an empty directory; return the snapshot version after it."""
        return (await self._mutate(Op.REMOVE, Remove(uid=uid, path=path, directory=directory))).snapshot_version

    async def rename(self, uid: str, source: str, target: str) -> tuple[int, str]:
        """Rename; return the snapshot version after it and, for a file, its etag under the new name."""
        mutated = await self._mutate(Op.RENAME, Rename(uid=uid, source=source, target=target))
        return mutated.snapshot_version, mutated.etag

    async def make_directory(self, uid: str, path: str, mode: int) -> int:
        """Make a directory; return the snapshot version after it."""
        mutated = await self._mutate(Op.MAKE_DIRECTORY, MakeDirectory(uid=uid, path=path, mode=mode))
        return mutated.snapshot_version

    async def set_mode(self, uid: str, path: str, mode: int) -> int:
        """Give a file or directory another mode; return the snapshot version after it. Unsupported by a worker of an
        earlier release."""
        return (await self._mutate(Op.SET_MODE, SetMode(uid=uid, path=path, mode=mode))).snapshot_version

    async def _mutate(self, op: Op, meta: Remove | Rename | MakeDirectory | SetMode) -> Mutated:
        """Like `call`, but a refusal of the second try that the first try's success would explain is success."""
        deadline = time.monotonic() + self.patience_seconds
        may_have_happened = False
        while True:
            connection, _ = await self.connected(deadline)
            if op is Op.SET_MODE and not connection.sets_modes:
                raise Unsupported("the worker of this node is of a release that cannot change modes")
            try:
                reply = await self._asked(
                    connection, op, meta, uid=meta.uid, write=True, timeout_seconds=self._request_seconds
                )
            except ConnectionLost as lost:
                if time.monotonic() >= deadline:
                    raise Unavailable(f"the worker was lost during {op.name}: {lost}") from lost
                may_have_happened = True
                self.metrics.retried(op.name)
                continue
            except Refused as refused:
                done = _DONE_BEFORE.get(op)
                if may_have_happened and refused.number == done:
                    return Mutated(snapshot_version=0)
                raise error_of(refused.number, str(refused)) from refused
            return decode_meta(reply.meta, Mutated)

    async def close(self) -> None:
        """Hang up and end background requests."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
