"""Who else caches: the live workers as metadata lists them, minus those we just saw fail.

Owns the last known list and the suspects. Invariant: this worker itself is always in the list, so a block has a home
even while metadata is away, unless it hands its blocks over to others; a suspect comes back after a few seconds by
itself, or when it has a lease again.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from cacheruntime.errors import CacheError
from cacheruntime.worker.metadata_client import MetadataClient

log = structlog.get_logger()

SUSPECT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One incarnation of one worker."""

    node: str
    epoch: int
    endpoint: str


class Workers:
    """The list, refreshed by `run`."""

    def __init__(
        self,
        me: Peer,
        metadata: MetadataClient,
        *,
        interval_seconds: float,
        clock: Callable[[], float],
        changed: Callable[[frozenset[Peer]], None],
    ) -> None:
        self._me = me
        self._metadata = metadata
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._changed = changed
        self._peers: dict[str, Peer] = {me.node: me}
        self._leaving: tuple[Peer, ...] = ()
        self._leased: dict[str, Peer] = {me.node: me}
        self._everyone: frozenset[Peer] = frozenset((me,))
        self._is_leaving = False
        self._suspects: dict[Peer, float] = {}
        self.origin_bytes_per_second = 0.0
        """The best that any worker measured of an under store; 0 = none did."""
        self.heard_at_seconds = clock()
        """When metadata answered last."""

    @property
    def me(self) -> Peer:
        """This worker."""
        return self._me

    def live(self) -> Mapping[str, Peer]:
        """Workers by node, without suspects; the same object as long as nothing changes."""
        if self._suspects:
            now = self._clock()
            self._suspects = {peer: until for peer, until in self._suspects.items() if until > now}
        if not self._suspects:
            return self._peers
        return {node: peer for node, peer in self._peers.items() if peer not in self._suspects}

    def listed(self) -> Mapping[str, Peer]:
        """Workers by node as metadata sees them; the same object as long as nothing changes."""
        return self._peers

    def leased(self) -> Mapping[str, Peer]:
        """Workers by node as metadata sees them, with those who are leaving: what they hold for others they hold."""
        return self._leased

    def leaving(self) -> tuple[Peer, ...]:
        """Others who hand their blocks over: home of nothing, but they have it still."""
        return self._leaving

    @property
    def is_leaving(self) -> bool:
        """Whether this worker hands its blocks over."""
        return self._is_leaving

    def leave(self, is_leaving: bool = True) -> None:
        """This worker hands its blocks over from now on; the next list is without it, unless it is the only one."""
        self._is_leaving = is_leaving

    def suspect(self, peer: Peer, why: str) -> None:
        """A peer did not answer: leave it out for a while."""
        if peer != self._me and peer not in self._suspects:
            log.warning("peer_suspected", peer=peer.node, epoch=peer.epoch, why=why)
            self._suspects[peer] = self._clock() + SUSPECT_SECONDS

    async def refresh(self) -> frozenset[Peer]:
        """Read the list now; return who is alive in it. Keeps the old list when metadata does not answer."""
        try:
            listed = await self._metadata.workers()
        except CacheError as error:
            log.warning("workers_unknown", error=error.message)
            return frozenset(self._peers.values())
        self.heard_at_seconds = self._clock()
        others = [(w, Peer(w.node, w.epoch, w.data_endpoint)) for w in listed if w.alive and w.node != self._me.node]
        peers = {peer.node: peer for w, peer in others if not w.leaving}
        self._leaving = tuple(peer for w, peer in others if w.leaving)
        self._leased = {peer.node: peer for _, peer in others} | {self._me.node: self._me}
        if not self._is_leaving or not peers:
            peers[self._me.node] = self._me
        everyone = frozenset((*peers.values(), *self._leaving, self._me))
        self.origin_bytes_per_second = max((w.origin_read_bytes_per_second for w in listed), default=0)
        if everyone != self._everyone:
            self._everyone = everyone
            self._changed(everyone)
        if peers != self._peers:
            log.info("workers_changed", workers=sorted(peers))
            for peer in peers.values():
                if self._peers.get(peer.node) != peer:
                    self._suspects.pop(peer, None)  # metadata has heard from it since
            self._peers = peers
        return frozenset(peers.values())

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_seconds)
