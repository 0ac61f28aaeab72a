"""Keys waiting to be reconciled: each key by one task at a time, failures retried with growing pauses.

Owns when a key runs; does not know what a key means. Invariants: a key added while it runs, runs once more; a key
added many times before it runs, runs once; an earlier time wins over a later one for the same key.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog
from prometheus_client import Counter

K = TypeVar("K", bound=Hashable)
log = structlog.get_logger()

RECONCILE_ERRORS = Counter(
    "headrace_reconcile_errors", "Reconciles that ended in an error and will be retried.", ["queue", "error"]
)
BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 30.0


class WorkQueue(Generic[K]):
    """A set of due keys and a heap of later ones; single event loop, no locks."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._counter = 0
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: K, delay_seconds: float = 0.0) -> None:
        """Run `key` once `delay_seconds` have passed, or earlier if it was to run earlier already."""
        due = self._clock() + delay_seconds
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._counter += 1
        heapq.heappush(self._heap, (due, self._counter, key))
        self._wake.set()

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    async def run(self, reconcile: Callable[[K], Awaitable[float | None]], *, concurrency: int = 16) -> None:
        """Reconcile keys until cancelled. `reconcile` returns seconds until the key wants to run again, or None."""
        slots = asyncio.Semaphore(concurrency)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await slots.acquire()
                key = await self._next()
                self._running.add(key)
                tasks.create_task(self._run_one(key, reconcile, slots))

    async def _next(self) -> K:
        while True:
            self._wake.clear()
            later: list[tuple[float, int, K]] = []
            found: K | None = None
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                entry = heapq.heappop(self._heap)
                if self._due.get(entry[2]) != entry[0]:
                    continue
                if entry[2] in self._running:
                    later.append(entry)
                    continue
                found = entry[2]
                del self._due[found]
                break
            for entry in later:
                heapq.heappush(self._heap, entry)
            if found is not None:
                return found
            # Keys that are due but running come back through _run_one's wake.
            upcoming = [due for due, _, key in self._heap[:1] if key not in self._running]
            try:
                await asyncio.wait_for(self._wake.wait(), max(upcoming[0] - now, 0.001) if upcoming else 1.0)
            except TimeoutError:
                continue

    async def _run_one(
        self, key: K, reconcile: Callable[[K], Awaitable[float | None]], slots: asyncio.Semaphore
    ) -> None:
        try:
            again = await reconcile(key)
            self._failures.pop(key, None)
            if again is not None:
                self.add(key, again)
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, it is said, counted and retried
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(BACKOFF_FIRST_SECONDS * 2 ** (failures - 1), BACKOFF_MAX_SECONDS)
            RECONCILE_ERRORS.labels(self._name, type(error).__name__).inc()
            log.warning(
                "reconcile failed",
                queue=self._name,
                key=str(key),
                error=f"{type(error).__name__}: {error}"[:500],
                retry_seconds=delay,
            )
            self.add(key, delay)
        finally:
            self._running.discard(key)
            slots.release()
            self._wake.set()
