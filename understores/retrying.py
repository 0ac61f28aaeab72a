"""Retries around any under store: capped, jittered, within a deadline, and never a storm.

Owns when a failed request is sent again. Does not decide what is retryable: the error says so. Invariants:
retries are at most a tenth of the requests plus a small reserve, so that a store in trouble sees no more than
1.2 × the load; every operation ends within its deadline; a put begins again from the source's first byte; a
refusal counts as final only when the credential files did not change meanwhile, so that keys rotate without a
failed request.
"""

import asyncio
import builtins
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar, cast

from understores.base import (
    ObjectInfo,
    Piece,
    SettlingStore,
    Sink,
    Source,
    StagingStore,
    StreamingStore,
    ThreadedStore,
    UnderStore,
)
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, Throttled, UnderStoreError, Unreachable

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of retrying; the defaults ride out a restart of a store's front end (seconds), not an outage."""

    tries: int = 5
    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 5.0
    deadline_seconds: float = 60.0
    slowest_bytes_per_second: int = 1 << 20
    """A transfer's deadline grows by its size at this rate."""
    budget_ratio: float = 0.1
    budget_reserve: float = 20.0
    retry_after_max_seconds: float = 30.0
    """A longer Retry-After is cut to this: the deadline would end the operation before."""
    rotation_seconds: float = 10.0
    """After a credential file changed, refusals are retried for so long: files may be written one after the other."""

    def transfer_seconds(self, size_bytes: int) -> float:
        """How long moving so many bytes may take, all tries together."""
        return self.deadline_seconds + size_bytes / self.slowest_bytes_per_second

    def delay_seconds(self, failures: int, error: UnderStoreError, jitter: Random) -> float:
        """Wait after the `failures`-th failure in a row (1, 2, …); a throttled one waits four times longer.

        At least what the store asked for, and up to a quarter more: not everybody comes back in the same moment.
        """
        if asked := min(error.retry_after_seconds, self.retry_after_max_seconds):
            return asked * (1 + 0.25 * jitter.random())
        ceiling = min(self.first_delay_seconds * 2.0 ** min(failures - 1, 30), self.max_delay_seconds)
        if isinstance(error, Throttled):
            ceiling = min(ceiling * 4, self.max_delay_seconds)
        return ceiling * (0.5 + 0.5 * jitter.random())


class RetryBudget:
    """How many retries are left: each request earns a part of one, up to the reserve."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._reserve = policy.budget_reserve
        self._left = policy.budget_reserve

    def earn(self) -> None:
        """A request was sent for the first time."""
        self._left = min(self._left + self._ratio, self._reserve)

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RetryingStore:
    """An `UnderStore` that repeats what failed for a while."""

    def __init__(
        self,
        store: UnderStore,
        policy: RetryPolicy | None = None,
        *,
        secrets: SecretOptions | None = None,
        jitter: Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`secrets` are those that the store signs with."""
        self._store = store
        self._secrets = secrets or SecretOptions()
        self._policy = policy or RetryPolicy()
        self._budget = RetryBudget(self._policy)
        self._jitter = jitter or Random()
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"RetryingStore({self._store!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        """Pages as the store has them; after a failure the listing goes on behind the last key that came."""
        failures = 0
        while True:
            self._budget.earn()
            secrets_seen = self._secrets.changes
            try:
                async for page in self._pages(prefix, start_after):
                    yield page
                    start_after = page[-1].key
                    failures = 0
                return
            except UnderStoreError as error:
                failures += 1
                await self._pause(error, failures, secrets_seen)

    async def split_points(self, after: str, until: str) -> Sequence[str]:
        return await self._repeat(lambda: self._store.split_points(after, until))

    async def head(self, key: str) -> ObjectInfo:
        return await self._repeat(lambda: self._store.head(key))

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        await self._repeat(lambda: self._store.get_range(key, offset_bytes, buffer, etag=etag), size_bytes=len(buffer))

    @property
    def can_sink(self) -> bool:
        """Whether the store reads in threads of its own (`ThreadedStore`)."""
        return getattr(self._store, "can_sink", False)

    async def sink_range(self, key: str, offset_bytes: int, buffer: memoryview, sink: Sink, *, etag: str) -> None:
        """See `ThreadedStore`."""
        store = cast(ThreadedStore, self._store)
        await self._repeat(lambda: store.sink_range(key, offset_bytes, buffer, sink, etag=etag), size_bytes=len(buffer))

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        start = 0 if isinstance(source, int) else source.tell()

        async def put() -> ObjectInfo:
            if not isinstance(source, int):
                source.seek(start)
            return await self._store.put(key, source, size_bytes)

        return await self._repeat(put, size_bytes=size_bytes)

    @property
    def can_stream(self) -> bool:
        """Whether the store takes objects while they are being made (`StreamingStore`)."""
        return getattr(self._store, "can_stream", False)

    @property
    def piece_bytes(self) -> int | None:
        """How large the pieces of such an object had best be."""
        return getattr(self._store, "piece_bytes", None)

    async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
        """As the store does: what came once cannot be sent again."""
        return await cast(StreamingStore, self._store).put_pieces(key, pieces)

    @property
    def can_stage(self) -> bool:
        """Whether objects can be written where they will stay (`StagingStore`)."""
        return getattr(self._store, "can_stage", False)

    async def stage(self, key: str) -> int | None:
        """As the store does: there is another way, so it is not tried again."""
        return await cast(StagingStore, self._store).stage(key)

    async def publish(self, descriptor: int, key: str) -> ObjectInfo | None:
        """See `StagingStore`. The file has as long as if it were sent."""
        store = cast(StagingStore, self._store)
        size_bytes = os.fstat(descriptor).st_size
        return await self._repeat(lambda: store.publish(descriptor, key), size_bytes=size_bytes)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        # A copy's size is not known here, and a store copies terabytes without a byte passing through us.
        return await self._repeat(lambda: self._store.copy(source, target), deadline_seconds=3600.0)

    async def delete(self, key: str) -> None:
        await self._repeat(lambda: self._store.delete(key))

    @property
    def can_settle(self) -> bool:
        """See `SettlingStore`."""
        return getattr(self._store, "can_settle", False)

    async def unlink(self, key: str) -> None:
        """See `SettlingStore`."""
        await self._repeat(lambda: cast(SettlingStore, self._store).unlink(key))

    async def settle(self, keys: Sequence[str]) -> None:
        """See `SettlingStore`."""
        await self._repeat(lambda: cast(SettlingStore, self._store).settle(keys))

    async def make_directory(self, path: str) -> None:
        await self._repeat(lambda: self._store.make_directory(path))

    async def remove_directory(self, path: str) -> None:
        await self._repeat(lambda: self._store.remove_directory(path))

    async def close(self) -> None:
        await self._store.close()

    async def _pages(self, prefix: str, start_after: str) -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        pages = aiter(self._store.list(prefix, start_after=start_after))
        while True:
            try:
                async with asyncio.timeout(self._policy.deadline_seconds):
                    page = await anext(pages, None)
            except TimeoutError:
                raise Unreachable(
                    f"no page of the listing came within {self._policy.deadline_seconds:.0f} s."
                ) from None
            if page is None:
                return
            yield page

    async def _repeat(
        self,
        operation: Callable[[], Awaitable[T]],
        *,
        size_bytes: int = 0,
        deadline_seconds: float | None = None,
    ) -> T:
        seconds = deadline_seconds or self._policy.transfer_seconds(size_bytes)
        last: UnderStoreError | None = None
        self._budget.earn()
        failures = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    secrets_seen = self._secrets.changes
                    try:
                        return await operation()
                    except UnderStoreError as error:
                        last = error
                        failures += 1
                        await self._pause(error, failures, secrets_seen)
        except TimeoutError:
            raise last or Unreachable(f"the store did not answer within {seconds:.0f} s.") from None

    async def _pause(self, error: UnderStoreError, failures: int, secrets_seen: int) -> None:
        """Wait before the next try, or raise `error` when there is none."""
        is_settling = False
        if isinstance(error, AccessDenied):
            self._secrets.refresh()
            if self._secrets.changes != secrets_seen:
                # Signed with what was replaced meanwhile. Free of the budget: every request under way at a rotation
                # may need this one, and there are no more of them than changes.
                return
            is_settling = self._secrets.is_settling(self._policy.rotation_seconds)
        if not (error.retryable or is_settling) or failures >= self._policy.tries or not self._budget.spend():
            raise error
        await self._sleep(self._policy.delay_seconds(failures, error, self._jitter))
