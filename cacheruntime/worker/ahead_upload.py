"""An upload that runs while its file is being written, so that closing the file waits for little.

Owns one object on its way. What has been sent is hashed, and compared with the file before the object becomes visible:
bytes that were written again after they were sent end the upload, and the caller sends the file anew. So an object that
becomes visible has the bytes the file had when it was closed, in whatever order they were written.

    waiting --two pieces written--> sending --finish, rest sent, as compared-> visible
       |                               |----finish, bytes changed-----------> given up, nothing left in the store
       |                               '----the store fails, or `give_up`---> given up
       '-----------finish or give_up-----------------------------------------> given up
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import structlog
import xxhash

from cacheruntime.core.ahead import PIECE_BYTES, Written, whole_pieces
from cacheruntime.worker.buffers import Buffers, page_aligned
from cacheruntime.worker.metrics import Metrics
from understores.base import ObjectInfo, StreamingStore
from understores.errors import UnderStoreError
from understores.retrying import RetryPolicy

log = structlog.get_logger()

LOOK_SECONDS: Final = 0.005
"""How soon what a writer adds is seen; a checkpoint of 64 MiB is written in a tenth of a second."""
LOOK_SECONDS_MAX: Final = 0.5
"""While nothing is added, such as to a log that stays open for days."""
COMPARED_BYTES: Final = 1 << 20
"""Read at once to compare: little enough to stay in the processor's cache."""
PIECES_AT_ONCE: Final = 2
"""Read again side by side at the end."""
GIVE_UP_SECONDS: Final = 20.0

Run = Callable[..., Awaitable[Any]]


class _GivenUpError(Exception):
    """Ends the upload from inside: a store removes what it has of the object."""


class AheadUpload:
    """See the module's docstring. Used by one task at a time, beside its own."""

    def __init__(
        self,
        store: StreamingStore,
        key: str,
        descriptor: int,
        *,
        run: Run,
        metrics: Metrics,
        buffers: Buffers,
        piece_bytes: int = PIECE_BYTES,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Begin to look at the file. `run` calls a blocking function in a thread; `descriptor` stays open until
        `finish` or `give_up` has returned."""
        self._store, self._key = store, key
        self._descriptor = descriptor
        self._run = run
        self._metrics = metrics
        self._buffers = buffers
        self._piece_bytes, self._look_seconds = piece_bytes, look_seconds
        self._pause_seconds = look_seconds
        self._seen_bytes = 0
        self._digests: list[bytes] = []
        self._size_bytes: int | None = None  # known once the file is closed
        self._is_given_up = False
        self._is_ending = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._may_be_seen = asyncio.Event()
        self._reading = asyncio.Lock()
        self._task = asyncio.create_task(self._upload())

    def is_for(self, store: object, key: str) -> bool:
        """Whether this is where the file is to go."""
        return self._store is store and self._key == key

    async def finish(self, size_bytes: int) -> ObjectInfo | None:
        """Send the rest and make the object visible; None: nothing is visible, the file has to be sent as a whole."""
        self._is_ending.set()
        async with self._reading:
            sent = len(self._digests)
        if self._task.done() or not sent:
            await self.give_up("failed")
            return None
        if sent * self._piece_bytes > size_bytes:
            await self.give_up("changed")
            return None
        # The rest is on its way while what was sent is compared.
        self._size_bytes = size_bytes
        self._may_go_on.set()
        if not await self._is_unchanged():
            await self.give_up("changed")
            return None
        self._may_be_seen.set()
        left_bytes = size_bytes - sent * self._piece_bytes
        try:
            async with asyncio.timeout(RetryPolicy().transfer_seconds(left_bytes)):
                info = await asyncio.shield(self._task)
        except (UnderStoreError, TimeoutError, _GivenUpError) as error:
            log.warning("ahead_upload_failed", key_bytes=size_bytes, error=str(error) or type(error).__name__)
            await self.give_up("failed")
            return None
        self._metrics.ahead_uploads.labels("used").inc()
        self._metrics.ahead_bytes.inc(sent * self._piece_bytes)
        return info

    async def give_up(self, outcome: str = "unused") -> None:
        """Stop, and leave nothing in the store. May be called twice."""
        if self._is_given_up:
            return
        self._is_given_up = True
        self._is_ending.set()
        self._may_go_on.set()
        self._may_be_seen.set()
        if self._digests:
            self._metrics.ahead_uploads.labels(outcome).inc()
        # Told from inside rather than cancelled: a cancelled upload would leave its parts in the bucket.
        done, _ = await asyncio.wait({self._task}, timeout=GIVE_UP_SECONDS)
        if not done:
            self._task.cancel()
            log.warning("ahead_upload_stuck", seconds=GIVE_UP_SECONDS)
            await asyncio.wait({self._task}, timeout=GIVE_UP_SECONDS)
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # whoever finishes the file sends it anew, and says what is wrong then

    async def _upload(self) -> ObjectInfo:
        while not await self._ready():
            await self._look_again()
        return await self._store.put_pieces(self._key, self._pieces())

    async def _pieces(self) -> AsyncIterator[memoryview]:
        while not self._is_ending.is_set():
            while len(self._digests) < await self._ready():
                yield await self._next_piece()
            await self._look_again()
        await self._may_go_on.wait()
        offset = len(self._digests) * self._piece_bytes
        while not self._is_given_up and self._size_bytes is not None and offset < self._size_bytes:
            piece = await self._read(offset, min(self._piece_bytes, self._size_bytes - offset))
            offset += len(piece)
            yield piece
        # The store shows the object when this ends.
        await self._may_be_seen.wait()
        if self._is_given_up:
            raise _GivenUpError

    async def _ready(self) -> int:
        """How many pieces may have been sent by now; none more once the file is being closed."""
        if self._is_ending.is_set():
            if self._is_given_up or not self._digests:
                raise _GivenUpError
            return 0
        status = os.fstat(self._descriptor)
        if status.st_size != self._seen_bytes:
            self._seen_bytes, self._pause_seconds = status.st_size, self._look_seconds
        written = Written(status.st_size, status.st_blocks * 512)
        ready = whole_pieces(written, len(self._digests), piece_bytes=self._piece_bytes)
        if ready is None:
            raise _GivenUpError
        return ready

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(self._pause_seconds):
                await self._is_ending.wait()
        except TimeoutError:
            self._pause_seconds = min(2 * self._pause_seconds, LOOK_SECONDS_MAX)

    async def _next_piece(self) -> memoryview:
        async with self._reading:
            piece = await self._read(len(self._digests) * self._piece_bytes, self._piece_bytes)
            self._digests.append(await self._run(xxhash.xxh3_128_digest, piece))
            return piece

    async def _read(self, offset_bytes: int, size_bytes: int) -> memoryview:
        piece = self._buffers.take(size_bytes)
        if await self._run(os.preadv, self._descriptor, [piece], offset_bytes) < size_bytes:
            raise _GivenUpError  # truncated meanwhile
        return piece

    async def _is_unchanged(self) -> bool:
        """Whether what was sent is what the file has now."""
        limit = asyncio.Semaphore(PIECES_AT_ONCE)

        async def is_same(number: int) -> bool:
            async with limit:
                return bool(await self._run(self._digest, number) == self._digests[number])

        return all(await asyncio.gather(*(is_same(number) for number in range(len(self._digests)))))

    def _digest(self, number: int) -> bytes:
        digest, buffer = xxhash.xxh3_128(), page_aligned(min(COMPARED_BYTES, self._piece_bytes))
        start, done = number * self._piece_bytes, 0
        while done < self._piece_bytes:
            count = os.preadv(self._descriptor, [buffer[: self._piece_bytes - done]], start + done)
            if not count:
                break  # truncated meanwhile
            digest.update(buffer[:count])
            done += count
        return digest.digest()
