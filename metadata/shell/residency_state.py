"""The ledger and the worker table behind the event loop, kept in step with the namespace.

Owns when counted versions are looked up and told to the ledger. The etag read for a report may be outdated by a
mutation that commits meanwhile; so every dataset's newest announced version is remembered, and a read that is
older is made again before it is used. Long reports are taken in portions, so that the loop stays responsive.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from metadata.core import residency
from metadata.core.entries import Changes
from metadata.core.held import Standing
from metadata.core.residency import Ledger, Residence
from metadata.core.workers import Registration, Use, WorkerReadings, Workers
from metadata.shell import metrics
from metadata.shell.database import Database
from metadata.stores.base import Reader

PORTION: Final = 1_000
"""Files taken at once: about 10 ms of the loop."""

Etags = dict[tuple[str, str], str]


class ResidencyState:
    """Who holds what, now. One event loop."""

    def __init__(self, database: Database, lease_seconds: float, clock: Callable[[], float]) -> None:
        self.ledger = Ledger()
        self.workers = Workers(lease_seconds)
        self.lease_seconds = lease_seconds
        self._database = database
        self._clock = clock
        self._announced: dict[str, int] = {}  # uid → newest version the ledger was told of
        self._node_locks: dict[str, asyncio.Lock] = {}
        self._began_seconds = clock()

    async def restore(self) -> None:
        """Know the workers of before a restart; they count once they have reported in full."""
        for registration in await self._database.read(lambda reader: reader.registrations()):
            self.workers.restore(registration)

    def standing(self) -> Standing:
        """Which incarnations live now. After a start of ours they have two leases to say so."""
        workers = {one.registration.node: (one.registration.epoch, one.is_alive) for one in self.workers.all()}
        return Standing(workers, self._clock() - self._began_seconds > 2 * self.lease_seconds)

    async def register(self, registration: Registration) -> None:
        """A worker started; durable on return."""
        self.workers.check_registration(registration)
        async with self._lock(registration.node):
            await self._database.write(lambda transaction: transaction.put_registration(registration))
            if self.workers.register(registration, self._clock()):
                self.ledger.forget_node(registration.node)
        self._count_alive()

    async def report(
        self,
        node: str,
        epoch: int,
        sequence: int,
        *,
        full: bool,
        readings: WorkerReadings,
        files: Sequence[Residence],
    ) -> bool:
        """Take a report; True when a full one is needed instead."""
        residency.check(files)
        async with self._lock(node):
            now = self._clock()
            use = self.workers.report(node, epoch, sequence, full=full, readings=readings, now=now)
            self._count_alive()
            if use is Use.REPLACE:
                self.ledger.forget_node(node)
            if use in (Use.REPLACE, Use.APPLY):
                try:
                    await self._take(node, files)
                except BaseException:  # also the end of the caller's patience
                    self.workers.missed(node)
                    raise
        return use is Use.NEED_FULL

    def announce(self, uid: str, version: int, changes: Changes) -> None:
        """A mutation was committed: what it changed counts from now on."""
        self._announced[uid] = max(version, self._announced.get(uid, 0))
        etags: list[tuple[str, str | None]] = [(path, None) for path in changes.removals]
        etags += [(entry.path, None if entry.is_directory else entry.etag) for entry in changes.upserts]
        self.ledger.set_current(uid, etags)

    async def refresh(self, uid: str, version: int) -> None:
        """A listing made `version`: look every held path of the dataset up again."""
        self._announced[uid] = max(version, self._announced.get(uid, 0))
        held = iter(self.ledger.paths_held(uid))
        while portion := list(islice(held, PORTION)):
            etags = await self._current([(uid, path) for path in portion])
            self.ledger.set_current(uid, [(path, etags.get((uid, path))) for path in portion])
            await asyncio.sleep(0)

    def take_changed(self) -> set[str]:
        """Return the datasets of which something else may be cached, or read, than at the last call."""
        return self.ledger.take_changed() | self.workers.take_changed()

    def forget_dataset(self, uid: str) -> None:
        """The dataset was removed."""
        self.ledger.forget_dataset(uid)
        self._announced.pop(uid, None)

    def expire(self, late_seconds: float) -> list[str]:
        """Forget what dead workers held; returns the nodes that died since the last call, which this process makes so
        much too late, because it stood still."""
        now = self._clock()
        self.workers.stood_still(late_seconds, now)
        dead = self.workers.expire(now)
        for node in dead:
            self.ledger.forget_node(node)
        self._count_alive()
        return dead

    async def _take(self, node: str, files: Sequence[Residence]) -> None:
        for start in range(0, len(files), PORTION):
            portion = files[start : start + PORTION]
            etags = await self._current([(one.uid, one.path) for one in portion])
            if not self.workers.is_alive(node):
                return  # its lease ended meanwhile: a full report has to come anyway
            for one in portion:
                self.ledger.put(node, one, etags.get((one.uid, one.path)))

    async def _current(self, wanted: Sequence[tuple[str, str]]) -> Etags:
        """Etags of the newest announced versions or later ones."""
        by_uid: dict[str, list[str]] = {}
        for uid, path in wanted:
            by_uid.setdefault(uid, []).append(path)
        while True:
            etags, versions = await self._database.read(lambda reader: _read_etags(reader, by_uid))
            if all(versions[uid] >= self._announced.get(uid, 0) for uid in by_uid if uid in versions):
                return etags

    def _lock(self, node: str) -> asyncio.Lock:
        return self._node_locks.setdefault(node, asyncio.Lock())

    def _count_alive(self) -> None:
        metrics.WORKERS_ALIVE.set(sum(worker.is_alive for worker in self.workers.all()))


def _read_etags(reader: Reader, by_uid: dict[str, list[str]]) -> tuple[Etags, dict[str, int]]:
    etags: Etags = {}
    versions: dict[str, int] = {}
    for uid, wanted in by_uid.items():
        dataset = reader.dataset(uid)
        if dataset is None:
            continue
        versions[uid] = dataset.version
        etags.update(((uid, path), etag) for path, etag in reader.etags(dataset.id, wanted).items())
    return etags, versions
