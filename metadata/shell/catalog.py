"""Datasets as callers see them, and the one way to change a namespace.

Owns putting a DatasetInfo together from record, listing and ledger, and committing mutations: precondition,
request id, decision, version, all in one transaction, then the announcement to ledger and watchers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from api.gen import metadata_pb2 as pb
from metadata.core import datasets, fences, held
from metadata.core.datasets import Dataset
from metadata.core.entries import Changes, Entry
from metadata.core.left import LeftObject
from metadata.core.mutations import View
from metadata.errors import InvalidRequest, NotFound
from metadata.shell import convert
from metadata.shell.database import Database
from metadata.shell.group_sizes import GroupSizes
from metadata.shell.residency_state import ResidencyState
from metadata.shell.sync import Listings
from metadata.shell.watchers import Watchers
from metadata.stores.base import Reader, Transaction

FORGET_EVERY: Final = 64
"""History is cut every so many versions, so that a mutation seldom pays for it."""

T = TypeVar("T")
Decide = Callable[[View, Dataset], Changes]


class Catalog:
    """The datasets of the service."""

    def __init__(
        self,
        database: Database,
        residency: ResidencyState,
        listings: Listings,
        watchers: Watchers,
        group_sizes: GroupSizes,
        *,
        kept_versions: int,
    ) -> None:
        self.database = database
        self.residency = residency
        self.listings = listings
        self.watchers = watchers
        self.group_sizes = group_sizes
        self._kept_versions = kept_versions

    def info(self, dataset: Dataset) -> pb.DatasetInfo:
        """The dataset's state at this moment."""
        message = convert.dataset_message(dataset)
        message.cached_bytes, message.cached_copy_bytes = map(convert.uint64, self.residency.ledger.totals(dataset.uid))
        if (reads := self.residency.workers.reads_of(dataset.uid)) is not None:
            message.reads.CopyFrom(convert.counters_message(reads))
        message.groups.update(self.group_sizes.of(dataset))
        progress = self.listings.progress(dataset.uid)
        if progress is not None:
            message.syncing = True
            message.listed_files, message.listed_bytes = progress.files, progress.bytes
            if dataset.version == 0:
                message.files, message.bytes = progress.files, progress.bytes
        return message

    async def list(self, namespace: str, since: str) -> pb.ListDatasetsResponse:
        """Return the datasets of a namespace (empty: of all), or what may have changed since an answer's revision."""
        revisions = self.watchers.revisions
        for uid in self.residency.take_changed():
            revisions.mark(uid)
        changed = revisions.since(since)
        # Before anything is read: what changes from now on is told again.
        answer = pb.ListDatasetsResponse(revision=revisions.token, partial=changed is not None)
        if changed is None:
            found = await self.read(lambda reader: reader.datasets())
        else:
            # A listing under way counts on without anybody being told.
            uids = list(dict.fromkeys((*changed, *self.listings.under_way())))
            if not uids:
                return answer
            records = await self.read(lambda reader: [(uid, reader.dataset(uid)) for uid in uids])
            found = [record for _, record in records if record is not None]
            answer.datasets.extend(pb.DatasetInfo(uid=uid, removed=True) for uid, record in records if record is None)
        answer.datasets.extend(self.info(one) for one in found if namespace in ("", one.specification.namespace))
        return answer

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Read records for `info`: again when a listing ended meanwhile, or one could look settled and be old."""
        while True:
            ended = self.listings.ended
            found = await self.database.read(work)
            if self.listings.ended == ended:
                return found

    async def mutate(
        self, uid: str, request_key: str, written_path: str, decide: Decide, *, node: str, turn: str = ""
    ) -> int:
        """Apply what `decide` says as one version, durable on return; a request seen before (`edge.request_key`) is
        not applied. `node` asks for it; `turn` is the caller's, if it took one. Returns the snapshot version that shows
        it."""
        standing = self.residency.standing()

        def work(transaction: Transaction) -> tuple[int, Changes]:
            dataset = require_dataset(transaction, uid)
            if request_key and (version := transaction.request_version(request_key)) is not None:
                return version, Changes()
            datasets.require_writable(dataset, written_path)
            fences.require_none(dataset.fences, node, written_path, time.time_ns())
            changes = decide(NamespaceView(transaction, dataset.id), dataset)
            version = dataset.version
            if changes:
                version += 1
                if turn or datasets.uses_turns(dataset):
                    dataset = _follow_held(transaction, dataset, changes, turn, standing)
                files, size = transaction.apply(dataset.id, changes, version)
                _follow_left(transaction, dataset, changes, node, version)
                transaction.put_dataset(
                    replace(dataset, version=version, files=dataset.files + files, bytes=dataset.bytes + size)
                )
                if version % FORGET_EVERY == 0:
                    transaction.forget_history(dataset.id, version - self._kept_versions)
            if request_key:
                transaction.remember_request(request_key, version)
            return version, changes

        version, changes = await self.database.write(work)
        if changes:
            self.residency.announce(uid, version, changes)
            self.watchers.changed(uid)
        return version


def _follow_held(
    transaction: Transaction, dataset: Dataset, changes: Changes, turn: str, standing: held.Standing
) -> Dataset:
    """Let held versions follow changes that are about to be applied; returns the record with their tally."""

    def entry_at(path: str) -> Entry | None:
        return transaction.entry(dataset.id, path)

    def turn_at(path: str) -> held.Turn | None:
        return transaction.turn(dataset.id, path)

    held.require_turns(changes, turn, entry_at, turn_at, standing)
    found = held.effects(
        changes,
        entry_at,
        lambda etag: transaction.held(dataset.id, etag),
        turn_at,
        time.time_ns(),
        is_left=lambda path: transaction.left_at(dataset.id, path) is not None,
    )
    for row in found.rows:
        transaction.put_held(dataset.id, row)
    tally = held.HeldTally(dataset.held.files + found.files, dataset.held.bytes + found.bytes)
    return replace(dataset, held=tally)


def _follow_left(transaction: Transaction, dataset: Dataset, changes: Changes, node: str, version: int) -> None:
    """Note objects that changes leave; those whose names have files now are others."""
    for entry in changes.upserts:
        if not entry.is_directory:
            transaction.drop_left(dataset.id, entry.path)
    for path, etag in changes.left:
        transaction.put_left(dataset.id, LeftObject(path, etag, node, version))


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """`View` of one dataset inside a reader's state."""

    reader: Reader
    dataset_id: int

    def entry(self, path: str) -> Entry | None:
        return self.reader.entry(self.dataset_id, path)

    def has_children(self, path: str) -> bool:
        return bool(self.reader.children(self.dataset_id, path, limit=1))

    def below(self, path: str) -> Iterator[Entry]:
        return self.reader.below(self.dataset_id, path)


def require_dataset(reader: Reader, uid: str) -> Dataset:
    """The dataset, or NotFound."""
    dataset = reader.dataset(uid) if uid else None
    if dataset is None:
        raise NotFound(f"there is no dataset with uid {uid[:64]!r}.")
    return dataset


def find_dataset(reader: Reader, request: pb.DatasetRequest) -> Dataset:
    """The dataset a request names by uid, or by namespace and name; NotFound, InvalidRequest."""
    if request.uid:
        return require_dataset(reader, request.uid)
    if not request.namespace or not request.name:
        raise InvalidRequest("uid is empty; give it, or both namespace and name.")
    dataset = reader.dataset_named(request.namespace, request.name)
    if dataset is None:
        raise NotFound(f"there is no dataset {request.namespace}/{request.name}.")
    return dataset
