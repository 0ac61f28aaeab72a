"""Who wants to know of new snapshot versions, and what they are told.

Owns the states of all datasets as mounts know them, while anybody watches, and the fan-out. Does not own the datasets:
a change only says which of them to read again. Invariants: what changes is read once, however many watch; a watcher
finds each dataset once, in its newest state, so what waits for a slow one is bounded by the number of datasets; who
begins to watch is told of everything that was committed before. Who asks instead of watching finds the same changes,
and more, in `revisions`. One event loop.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

import structlog

from api.gen import metadata_pb2 as pb
from metadata.core.datasets import Dataset
from metadata.core.revisions import Revisions
from metadata.errors import MetadataError
from metadata.shell import convert, metrics
from metadata.stores.base import Reader

MESSAGE_STATES: Final = 2_000
"""Of one message: with the longest names still a quarter of gRPC's 4 MiB."""
PAUSE_SECONDS: Final = 0.0004
"""Between two messages to one watcher, for each that watches: a message costs 0.1 ms, so a quarter of a core is spent
on them at most, however often something changes."""
PAUSE_MAX_SECONDS: Final = 1.0

log = structlog.get_logger()
T = TypeVar("T")


class _Read(Protocol):
    def __call__(self, work: Callable[[Reader], T]) -> Awaitable[T]: ...


class Subscription:
    """What one watcher has not been told yet."""

    def __init__(self) -> None:
        self._first: Sequence[pb.DatasetStates] | None = None
        self._waiting: dict[str, pb.DatasetState] = {}  # in order of first change
        self._wake = asyncio.Event()
        self._error: MetadataError | None = None
        self.has_begun = False
        self.is_closed = False

    def begin(self, all_states: Sequence[pb.DatasetStates]) -> None:
        """The states of all datasets; from now on `tell` has an effect."""
        self.has_begun = True
        self._first = all_states
        self._wake.set()

    def tell(self, state: pb.DatasetState) -> None:
        """A dataset has this state now."""
        if self.has_begun:
            self._waiting[state.uid] = state
            self._wake.set()

    def close(self, error: MetadataError | None = None) -> None:
        """The service stops, or what there is cannot be read: the waiting side wakes up."""
        self.is_closed = True
        self._error = error
        self._wake.set()

    async def next_messages(self) -> list[pb.DatasetStates]:
        """Wait until there is something to tell; no message when closed. MetadataError if it was closed with one."""
        await self._wake.wait()
        if self._error is not None:
            raise self._error
        if self.is_closed:
            return []
        self._wake.clear()
        messages, self._first = list(self._first or ()), None
        waiting, self._waiting = self._waiting, {}
        return messages + _messages(waiting)


class Watchers:
    """All subscriptions of the process; `run` must run in a task for them to be told anything."""

    def __init__(self) -> None:
        #: Also of changes that subscribers are not told of: what is cached, and what is read.
        self.revisions = Revisions(secrets.token_hex(8))
        self._subscriptions: set[Subscription] = set()
        self._states: dict[str, pb.DatasetState] | None = None  # None: nobody watches
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._is_closed = False

    @property
    def pause_seconds(self) -> float:
        """How long a watcher is told nothing more after a message."""
        return min(PAUSE_SECONDS * len(self._subscriptions), PAUSE_MAX_SECONDS)

    def changed(self, uid: str) -> None:
        """Dataset `uid` has a new state, committed."""
        self.revisions.mark(uid)
        self._changed[uid] = None
        self._wake.set()

    def close(self) -> None:
        """End all subscriptions, also those that come later; clients go to the next process."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.close()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Take part for as long as the context lasts."""
        subscription = Subscription()
        if self._is_closed:
            subscription.close()
        self._subscriptions.add(subscription)
        self._wake.set()
        metrics.WATCHES.inc()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            metrics.WATCHES.dec()

    async def run(self, read: _Read) -> None:
        """Tell what changes until cancelled. When it cannot be read, subscriptions end, and the next begins anew."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._catch_up(read)
            except MetadataError as error:
                log.warning("metadata.watches_ended", watches=len(self._subscriptions), message=error.message)
                self._states = None
                for subscription in self._subscriptions:
                    subscription.close(error)

    async def _catch_up(self, read: _Read) -> None:
        uids, self._changed = list(self._changed), {}
        if not self._subscriptions:
            self._states = None
            return
        if self._states is None:
            self._states = {
                dataset.uid: convert.state_message(dataset) for dataset in await read(lambda reader: reader.datasets())
            }
        elif uids:
            for uid, dataset in await read(partial(_datasets, uids)):
                self._take(self._states, uid, dataset)
        # Those that came while something was read have been told nothing, and are told of all of it.
        new = [subscription for subscription in self._subscriptions if not subscription.has_begun]
        if new:
            messages = _messages(self._states) or [pb.DatasetStates()]
            for message in messages[:-1]:
                message.more = True
            for subscription in new:
                subscription.begin(messages)

    def _take(self, states: dict[str, pb.DatasetState], uid: str, dataset: Dataset | None) -> None:
        if dataset is not None:
            state = convert.state_message(dataset)
            if states.get(uid) == state:
                return
            states[uid] = state
        elif states.pop(uid, None) is not None:
            state = pb.DatasetState(uid=uid, removed=True)
        else:
            return
        for subscription in self._subscriptions:
            subscription.tell(state)


def _datasets(uids: Sequence[str], reader: Reader) -> list[tuple[str, Dataset | None]]:
    return [(uid, reader.dataset(uid)) for uid in uids]


def _messages(states: dict[str, pb.DatasetState]) -> list[pb.DatasetStates]:
    left = iter(states.values())
    messages = []
    while some := list(islice(left, MESSAGE_STATES)):
        messages.append(pb.DatasetStates(datasets=some))
    return messages
