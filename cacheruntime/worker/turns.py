"""Turns to change paths in the under store, of datasets in which files wait for their upload.

Owns taking and ending them; who has one is metadata's. Where nothing waits, nobody is asked. Invariant: a turn that was
asked for is ended, however its work or the asking went, or else it ends with this worker's lease.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import CacheError, Missing
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.workers import Peer

log = structlog.get_logger()

ASK_SECONDS: Final = 0.2
END_SECONDS: Final = 1.0


def uses_turns(info: pb.DatasetInfo) -> bool:
    """Whether files of the dataset are, or may be, held before the under store has them."""
    return info.write_back or info.held_files > 0


class Turns:
    """Turns of this worker."""

    def __init__(self, me: Peer, datasets: Datasets, metadata: MetadataClient, *, wait_seconds: float) -> None:
        """`wait_seconds`: so long an upload of a path is waited for."""
        self._me = me
        self._datasets = datasets
        self._metadata = metadata
        self._wait_seconds = wait_seconds
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def turn(self, uid: str, *paths: str) -> AsyncIterator[str]:
        """Hold the turn of the paths; "" where none is needed. CacheError."""
        if not uses_turns(await self._datasets.get(uid)):
            yield ""
            return
        turn = uuid.uuid4().hex
        try:
            await self._take(uid, sorted(set(paths)), turn)
            yield turn
        finally:
            self.end(uid, turn)

    async def _take(self, uid: str, paths: list[str], turn: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        while True:
            try:
                await self._metadata.take_turn(uid, paths, self._me.node, self._me.epoch, turn)
            except CacheError as error:
                if not error.is_retryable or loop.time() >= deadline:
                    raise
            else:
                return
            await asyncio.sleep(ASK_SECONDS)

    def end(self, uid: str, turn: str) -> None:
        """End a turn, now or as soon as metadata answers."""
        task = asyncio.get_running_loop().create_task(self._end(uid, turn))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, uid: str, turn: str) -> None:
        while True:
            try:
                await self._metadata.end_turn(uid, turn)
            except Missing:
                return
            except CacheError as error:
                log.warning("turn_not_ended", dataset=uid, error=error.message)
                await asyncio.sleep(END_SECONDS)
            else:
                return

    async def close(self) -> None:
        """End no more turns: they end with our lease."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
