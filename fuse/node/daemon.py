"""The daemon of one mount: peers, core and backend put together, from the mount to the unmount.

Owns the order of starting and stopping and the watch of snapshots. Decides nothing about files.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from api.trust.files import TrustError, TrustFiles
from api.trust.identity import Identity, Role
from api.trust.source import TokenSource
from fuse import metrics as metrics_module
from fuse.backends.base import Backend, MountError
from fuse.backends.pyfuse3_backend import Pyfuse3Backend
from fuse.backends.raw_backend import RawBackend
from fuse.client.metadata_client import MetadataClient
from fuse.client.worker_client import WorkerClient
from fuse.core.contracts import Dataset, Namespace, Worker
from fuse.core.operations import Invalidation, Operations
from fuse.metrics import Metrics
from fuse.node import mounts
from fuse.node.session import Session
from fuse.settings import Settings

log = structlog.get_logger()

DRAIN_SECONDS: Final = 10.0
"""For requests in work at the end, such as the commit of a file that is just being closed."""
SETTLED_SECONDS: Final = 0.5
"""Whoever began to serve a moment ago needs the processor for what had been waiting."""
LEAVE_SECONDS: Final = 0.2
"""For requests in work when the next daemon shall serve. What is not done then is done again by it, and others wait
meanwhile."""


class Daemon:
    """One mount over any two peers; `run` is its whole life."""

    def __init__(
        self,
        namespace: Namespace,
        worker: Worker,
        metrics: Metrics,
        mount_point: Path,
        *,
        allow_other: bool,
        backend: str = "auto",
        has_opens: bool = True,
        group_rights: bool = False,
        request_timeout_seconds: int = 0,
        session: Session | None = None,
    ) -> None:
        """With a `session` the mount is there already, and the next daemon goes on where this one ends."""
        self.operations = Operations(
            namespace,
            worker,
            monotonic=time.monotonic,
            wall_ns=time.time_ns,
            owner=(os.geteuid(), os.getegid()),
            has_opens=has_opens,
            group_rights=group_rights,
        )
        self._mount_point = mount_point
        self._metrics = metrics
        self._wanted = backend
        self._allow_other = allow_other
        self._request_timeout_seconds = request_timeout_seconds
        self._session = session
        self._backend: Backend | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Mount or take over, serve until `stopping` or an unmount from outside, unmount. Ends the process when the
        keeper wants another daemon. MountError, OSError."""
        if self._session is None:
            mounts.prepare(self._mount_point)
            self._backend = backend = self._mounted()
        else:
            self._backend = backend = self._taken_over(self._session)
        serving = asyncio.ensure_future(backend.serve())
        stop = asyncio.ensure_future(stopping.wait())
        leaving = asyncio.Event()
        leave = asyncio.ensure_future(leaving.wait())
        try:
            if self._session is not None:
                self._session.attach(leaving)
            if self._session is None:
                await asyncio.to_thread(mounts.wait_until_served, self._mount_point)
                await asyncio.to_thread(mounts.tune, self._mount_point)
            log.info("ready", mount=str(self._mount_point), pid=os.getpid(), backend=backend.name)
            await asyncio.wait({serving, stop, leave}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if leaving.is_set() and not stopping.is_set() and not serving.done():
                await self._leave(self._session, backend, serving)
            else:
                leave.cancel()
                await self._end(backend, serving)

    def _taken_over(self, session: Session) -> Backend:
        """Go on with the connection the keeper holds."""
        raw = RawBackend(self.operations, self._metrics, self._mount_point, allow_other=self._allow_other)
        inherited = session.restore(self.operations, self._metrics)
        raw.take_over(inherited, session.record, session.tried_again)
        if not inherited.is_first:
            inodes = len(self.operations.state.inodes)
            log.info("took_over", reason=session.reason.value, inodes=inodes, followed_bytes=session.followed_bytes)
        return raw

    @staticmethod
    async def _leave(session: Session | None, backend: Backend, serving: asyncio.Future[None]) -> None:
        """Take no more requests, answer what is in work while it is quick, and end."""
        log.info("leaves")
        backend.stop()
        await asyncio.wait({serving}, timeout=LEAVE_SECONDS)
        log.info("left", requests_left=not serving.done())
        if session is not None:
            session.leave()

    def _mounted(self) -> Backend:
        """Mount by the backend that was asked for, or by the best one that works here. MountError."""
        raw = RawBackend(
            self.operations,
            self._metrics,
            self._mount_point,
            allow_other=self._allow_other,
            request_timeout_seconds=self._request_timeout_seconds,
        )
        if self._wanted == "raw" or (self._wanted == "auto" and os.geteuid() == 0):
            try:
                raw.mount()
            except MountError as error:
                if self._wanted == "raw":
                    raise
                log.warning("raw_backend_not_possible", error=str(error), instead="pyfuse3")
            else:
                return raw
        fallback = Pyfuse3Backend(self.operations, self._metrics, self._mount_point, allow_other=self._allow_other)
        fallback.mount()
        return fallback

    async def _end(self, backend: Backend, serving: asyncio.Future[None]) -> None:
        # The name first: from here on nobody finds the mount, and nobody new waits for us.
        if mounts.is_mounted(self._mount_point):
            mounts.detach(self._mount_point)
        backend.stop()
        for task in list(self._background):
            task.cancel()
        done, _ = await asyncio.wait({serving}, timeout=DRAIN_SECONDS)
        if done:
            backend.close()
        else:
            # Requests still in work would answer into a session that is gone; the exit ends them instead.
            log.warning("requests_abandoned", waited_seconds=DRAIN_SECONDS)
        log.info("unmounted", mount=str(self._mount_point))

    def watch_begins(self) -> None:
        """The watch is about to be opened."""
        self.operations.watch_begins()

    async def all_datasets(self, datasets: list[Dataset]) -> None:
        """The watch told of all there are: those that were removed while nobody told us first, whose names may have
        been given away since."""
        for uid in self.operations.gone(datasets):
            await self.dataset_removed(uid)
        for each in datasets:
            await self.dataset_changed(each)

    async def dataset_changed(self, dataset: Dataset) -> None:
        """The watch told of a snapshot: drop what it makes stale, here at once and in the kernel soon."""
        entries = self.operations.dataset_changed(dataset)
        self._invalidate(entries, lambda: self.operations.kernel_was_told(dataset))

    async def dataset_removed(self, uid: str) -> None:
        """The watch told that a dataset is gone: so are its names, here at once and in the kernel soon."""
        self._invalidate(self.operations.dataset_removed(uid), lambda: None)

    def _invalidate(self, entries: list[Invalidation], done: Callable[[], None]) -> None:
        backend = self._backend
        if not entries or backend is None:
            done()
            return

        async def invalidate() -> None:
            await asyncio.to_thread(backend.invalidate, entries)
            done()

        task = asyncio.ensure_future(invalidate())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def watching(self, is_watching: bool) -> None:
        """The watch came up or went down."""
        self.operations.watching(is_watching=is_watching)


def _trust(settings: Settings) -> TrustFiles | None:
    """Return who we are and whom we believe; MountError."""
    if settings.trust is None:
        log.warning("trust_is_off", notice="nothing is encrypted, and whoever answers is believed")
    try:
        return TrustFiles.of(settings.trust, Identity(Role.NODE, settings.node))
    except TrustError as error:
        raise MountError(f"--trust: {error}") from error


async def _stand_by(session: Session, namespace: MetadataClient) -> None:
    """Wait until the keeper wants us to serve, with everything made that takes a moment; OSError."""

    async def connect() -> None:
        await asyncio.sleep(SETTLED_SECONDS)
        await namespace.stay_connected()

    preparing = [asyncio.ensure_future(connect()), asyncio.ensure_future(session.follower.run())]
    try:
        await session.wait()
    finally:
        for each in preparing:
            each.cancel()


async def run(settings: Settings, session: Session | None = None) -> None:
    """Run the daemon of one mount until SIGTERM, SIGINT or an unmount from outside; with a `session` it is one of
    several, one after the other."""
    trust = _trust(settings)
    namespace = MetadataClient(settings.metadata, patience_seconds=settings.metadata_patience_seconds, trust=trust)
    if session is not None:
        await _stand_by(session, namespace)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = Metrics()
    if settings.metrics is not None:
        metrics_module.serve(metrics, *settings.metrics_address)
    tokens = None
    if trust is not None:
        kept, keep = (session.tokens, session.keep_tokens) if session is not None else (b"", None)
        tokens = TokenSource(namespace.channel, kept=kept, keep=keep)
    worker = WorkerClient(
        str(settings.worker_socket),
        node=settings.node,
        metrics=metrics,
        patience_seconds=settings.worker_patience_seconds,
        vault=session,
        tokens=tokens,
    )
    daemon = Daemon(
        namespace,
        worker,
        metrics,
        settings.mount,
        allow_other=settings.allow_other,
        backend=settings.backend if settings.open else "raw",
        has_opens=settings.open,
        group_rights=settings.group_rights,
        request_timeout_seconds=settings.request_timeout_seconds,
        session=session,
    )
    watching = asyncio.ensure_future(namespace.watch(daemon))
    try:
        await daemon.run(stopping)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await worker.close()
        if tokens is not None:
            await tokens.close()
        await namespace.close()
