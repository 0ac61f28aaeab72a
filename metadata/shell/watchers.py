"""Who wants to know of new snapshot versions.

Owns the fan-out: a change marks its dataset for every subscriber; a slow one finds each dataset once, in its
newest state, so what waits for it is bounded by the number of datasets. Who asks instead of subscribing finds the same
changes in `revisions`. One event loop.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from metadata.core.revisions import Revisions
from metadata.shell import metrics


class Subscription:
    """The datasets that changed since `next_changed` was last called."""

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}  # in order of first change
        self._wake = asyncio.Event()
        self.is_closed = False

    def close(self) -> None:
        """The service stops: the waiting side wakes up and finds `is_closed`."""
        self.is_closed = True
        self._wake.set()

    def mark(self, uid: str) -> None:
        """Dataset `uid` changed."""
        self._changed[uid] = None
        self._wake.set()

    async def next_changed(self) -> list[str]:
        """Wait until something changed; returns each changed uid once, none when closed."""
        await self._wake.wait()
        self._wake.clear()
        uids, self._changed = list(self._changed), {}
        return uids


class Watchers:
    """All subscriptions of the process."""

    def __init__(self) -> None:
        #: Also of changes that subscribers are not told of: what is cached, and what is read.
        self.revisions = Revisions(secrets.token_hex(8))
        self._subscriptions: set[Subscription] = set()
        self._is_closed = False

    def changed(self, uid: str) -> None:
        """Tell everyone that dataset `uid` has a new state."""
        self.revisions.mark(uid)
        for subscription in self._subscriptions:
            subscription.mark(uid)

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
        metrics.WATCHES.inc()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            metrics.WATCHES.dec()
