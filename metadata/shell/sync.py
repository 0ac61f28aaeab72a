"""Listings: from an under store's pages to a new snapshot version.

Owns the background tasks, one a dataset. Pages are staged as they come (counts show at once) and become one
version at the end. Invariants: a listing that fails or is interrupted leaves the snapshot as it was; two Syncs of
one dataset share a listing; nothing that was changed through us while the listing ran is undone by it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from metadata.core import datasets
from metadata.core.datasets import Dataset, LastListing, Mount
from metadata.core.entries import Entry
from metadata.core.listing import ListingBuilder, ListingCounts
from metadata.core.listing_diff import SyncPlan, plan_sync
from metadata.core.listing_progress import ListingOrigin, ListingProgress, UnfinishedListing, advanced, may_go_on
from metadata.core.listing_ranges import ListingRanges
from metadata.errors import MetadataError
from metadata.shell import metrics
from metadata.shell.database import Database
from metadata.shell.mount_listing import MountListing
from metadata.shell.residency_state import ResidencyState
from metadata.shell.watchers import Watchers
from metadata.stores.base import Reader, Transaction
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.errors import UnderStoreError
from understores.registry import has_directories

PLANS_BEFORE_BLOCKING: Final = 3
"""A plan is made beside the writer and used if nothing changed meanwhile; after so many tries, inside it."""

OpenStore = Callable[[str, Mapping[str, str], SecretOptions], UnderStore]
log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """A listing under way."""

    mounts: tuple[Mount, ...]
    counts: ListingCounts = field(default_factory=ListingCounts)
    began_at_ns: int = field(default_factory=time.time_ns)
    """Of a listing that goes on after a restart: when it began, before that."""
    task: "asyncio.Task[None] | None" = None
    is_wanted: bool = True
    """False once what is staged is of no use to anybody: it is thrown away when the listing ends."""

    @property
    def files(self) -> int:
        """Files listed so far."""
        return self.counts.files

    @property
    def bytes(self) -> int:
        """Bytes of the files listed so far."""
        return self.counts.bytes


class Listings:
    """Starts, joins and cancels listings."""

    def __init__(
        self,
        database: Database,
        residency: ResidencyState,
        watchers: Watchers,
        *,
        open_store: OpenStore,
        credentials_dir: Path | None,
        kept_versions: int,
        requests_max: int,
    ) -> None:
        """`requests_max`: list requests to one mount at a time."""
        self._database = database
        self._residency = residency
        self._watchers = watchers
        self._open_store = open_store
        self._credentials_dir = credentials_dir
        self._kept_versions = kept_versions
        self._requests_max = requests_max
        self._running: dict[str, Progress] = {}
        self.ended = 0
        """How many listings have ended: a record read before one ended may be older than its outcome."""

    def progress(self, uid: str) -> Progress | None:
        """The listing of that dataset, if one is under way."""
        return self._running.get(uid)

    async def start(self, dataset: Dataset) -> None:
        """List the dataset in the background, or join the listing of the same mounts that is under way."""
        running = self._running.get(dataset.uid)
        if running is not None:
            if running.mounts == dataset.specification.mounts:
                return
            await self.cancel(dataset.uid)
        self._launch(dataset, None)

    async def resume(self) -> None:
        """Go on with the listings that the end of an earlier process interrupted."""
        found = await self._database.read(
            lambda reader: [(one, reader.dataset(one.origin.uid)) for one in reader.unfinished_listings()]
        )
        for listing, dataset in found:
            is_first = listing.origin.uid not in self._running
            if is_first and dataset is not None and may_go_on(listing, dataset, time.time_ns(), self._kept_versions):
                log.info("metadata.listing_resumed", dataset=dataset.label, files=listing.progress.counts.files)
                metrics.LISTINGS_RESUMED.inc()
                self._launch(dataset, listing)
            else:
                await self._database.write(partial(_drop, listing.id))

    def under_way(self) -> list[str]:
        """Return the uids of the datasets that are being listed."""
        return list(self._running)

    async def cancel(self, uid: str) -> None:
        """Stop the dataset's listing, if any, throw away what it staged, and wait for its end."""
        progress = self._running.get(uid)
        if progress is not None:
            progress.is_wanted = False
            await self._interrupt(progress)

    async def close(self) -> None:
        """Stop all listings; the next start goes on with them."""
        for progress in list(self._running.values()):
            await self._interrupt(progress)

    def _launch(self, dataset: Dataset, unfinished: UnfinishedListing | None) -> None:
        progress = Progress(dataset.specification.mounts)
        self._running[dataset.uid] = progress
        task = asyncio.create_task(self._run(dataset, progress, unfinished), name=f"listing-{dataset.uid}")
        progress.task = task

    @staticmethod
    async def _interrupt(progress: Progress) -> None:
        if progress.task is not None:
            progress.task.cancel()
            with suppress(asyncio.CancelledError):
                await progress.task

    async def _run(self, dataset: Dataset, progress: Progress, unfinished: UnfinishedListing | None) -> None:
        started = time.monotonic()
        outcome = "cancelled"
        try:
            version, plan = await self._list(dataset, progress, unfinished)
            outcome = "done"
            metrics.LISTING_SECONDS.observe(time.monotonic() - started)
            for kind in ("added", "changed", "removed"):
                metrics.LISTING_CHANGES.labels(kind).inc(getattr(plan, kind))
            log.info(
                "metadata.listed",
                dataset=dataset.label,
                version=version,
                files=progress.files,
                bytes=progress.bytes,
                added=plan.added,
                changed=plan.changed,
                removed=plan.removed,
                left_out=progress.counts.unusable_keys + progress.counts.shadowed,
                seconds=round(time.monotonic() - started, 3),
            )
        except UnderStoreError as error:
            outcome = error.reason
            await self._fail(dataset, progress, error.reason, error.message)
        except MetadataError as error:
            outcome = "Unavailable"
            await self._fail(dataset, progress, outcome, error.message)
        except Exception as error:  # the edge of a background task: logged once, counted
            outcome = "Internal"
            metrics.INTERNAL_ERRORS.labels("listing").inc()
            log.error("metadata.listing_failed", dataset=dataset.label, exc_info=error)
            await self._fail(
                dataset, progress, outcome, "the listing ended by an internal error; see the service's log."
            )
        finally:
            metrics.LISTINGS.labels(outcome).inc()
            if self._running.get(dataset.uid) is progress:
                del self._running[dataset.uid]
            self.ended += 1
            self._watchers.changed(dataset.uid)

    async def _list(
        self, dataset: Dataset, progress: Progress, unfinished: UnfinishedListing | None
    ) -> tuple[int, SyncPlan]:
        if unfinished is None:
            began_at_ns = progress.began_at_ns
            origin = ListingOrigin(dataset.uid, dataset.id, dataset.version, progress.mounts, began_at_ns)
            listing_id = await self._database.write(lambda transaction: transaction.begin_listing(origin))
            unfinished = UnfinishedListing(listing_id, origin, ListingProgress())
        progress.counts, progress.began_at_ns = replace(unfinished.progress.counts), unfinished.origin.began_at_ns
        try:
            for index in range(unfinished.progress.mount, len(progress.mounts)):
                await self._stage_mount(unfinished, index, progress)
            version, plan = await self._publish(dataset, unfinished)
        except asyncio.CancelledError:
            if not progress.is_wanted:
                await self._database.write(partial(_drop, unfinished.id))
            raise
        except BaseException:
            await self._database.write(partial(_drop, unfinished.id))
            raise
        await self._database.write(partial(_drop, unfinished.id))
        _count_left_out(progress.counts, plan.listed)
        await self._residency.refresh(dataset.uid, version)
        return version, plan

    async def _stage_mount(self, unfinished: UnfinishedListing, index: int, progress: Progress) -> None:
        mount, begun = progress.mounts[index], unfinished.progress
        left = begun.left if begun.mount == index else None
        others = [other.path for other in progress.mounts]
        counts = progress.counts

        async def stage(entries: list[Entry], left: Sequence[tuple[str, str]]) -> None:
            reached = advanced(begun, index, left, counts)
            await self._database.write(lambda transaction: transaction.stage(unfinished.id, entries, reached))

        secrets = SecretOptions(self._credentials_dir, mount.secret_options)
        store = self._open_store(mount.mount_point, mount.options, secrets)
        try:
            listing = MountListing(
                store,
                ListingRanges() if left is None else ListingRanges(left),
                new_builder=lambda: ListingBuilder(mount.path, others, counts),
                stage=stage,
                requests_max=self._requests_max,
            )
            await listing.run(ListingBuilder(mount.path, others, counts).start(time.time_ns()))
        finally:
            await store.close()

    async def _publish(self, dataset: Dataset, listing: UnfinishedListing) -> tuple[int, SyncPlan]:
        """Make the staged listing the dataset's content; returns the version and what changed."""
        plan_from = _Planner(dataset, listing.id, listing.origin)
        for _ in range(PLANS_BEFORE_BLOCKING):
            planned = await self._database.read(plan_from.plan)
            published = await self._database.write(partial(self._commit, plan_from, planned))
            if published is not None:
                return published
        published = await self._database.write(
            lambda transaction: self._commit(plan_from, plan_from.plan(transaction), transaction)
        )
        assert published is not None
        return published

    def _commit(
        self, planner: "_Planner", planned: "_Planned", transaction: Transaction
    ) -> tuple[int, SyncPlan] | None:
        """One version of the plan, or None when it is outdated. Runs in the writing thread."""
        current = transaction.dataset(planner.dataset.uid)
        if current is None or current.id != planner.dataset.id:
            raise MetadataError(f"dataset {planner.dataset.label} was removed while it was listed.")
        if current.version != planned.version:
            return None
        version, files, size, plan = current.version, 0, 0, planned.plan
        if current.version == 0:
            version = 1
            files, size = transaction.adopt_listing(current.id, planner.listing_id, version)
            plan = SyncPlan(added=files, listed=files)
        elif plan.changes:
            version += 1
            files, size = transaction.apply(current.id, plan.changes, version)
            transaction.forget_history(current.id, version - self._kept_versions)
        snapshot = replace(
            current,
            version=version,
            files=current.files + files,
            bytes=current.bytes + size,
            listed_mounts=planner.dataset.specification.mounts,
        )
        began_at_ns = planner.origin.began_at_ns
        listing = LastListing(
            began_at_ns,
            time.time_ns(),
            good_began_at_ns=began_at_ns,
            added=plan.added,
            changed=plan.changed,
            removed=plan.removed,
        )
        transaction.put_dataset(datasets.listed(snapshot, listing))
        for one in transaction.left(current.id):
            if one.is_gone:  # for this listing, which may have seen it, and no other
                transaction.drop_left(current.id, one.path)
        return version, plan

    async def _fail(self, dataset: Dataset, progress: Progress, reason: str, message: str) -> None:
        def record(transaction: Transaction) -> None:
            current = transaction.dataset(dataset.uid)
            if current is not None and current.id == dataset.id:
                transaction.put_dataset(datasets.failed(current, progress.began_at_ns, time.time_ns(), reason, message))

        log.warning("metadata.listing_refused", dataset=dataset.label, reason=reason, message=message)
        try:
            await self._database.write(record)
        except MetadataError as error:  # a full disk: the next Sync lists again all the same
            log.error("metadata.error_not_recorded", dataset=dataset.label, message=error.message)


@dataclass(frozen=True, slots=True)
class _Planned:
    version: int
    plan: SyncPlan


@dataclass(frozen=True, slots=True)
class _Planner:
    """Compares the staged listing with the namespace."""

    dataset: Dataset
    listing_id: int
    origin: ListingOrigin

    def plan(self, reader: Reader) -> _Planned:
        """The plan on the reader's state. Blocks for as long as both sides take to read."""
        current = reader.dataset(self.dataset.uid)
        if current is None or current.version == 0:
            return _Planned(0, SyncPlan())
        mounts = self.dataset.specification.mounts
        plan = plan_sync(
            reader.below(current.id, ""),
            reader.listed(self.listing_id),
            base_version=self.origin.base_version,
            removed_since=reader.replaced_since(current.id, self.origin.base_version),
            keeps_made_directories=not all(has_directories(mount.mount_point) for mount in mounts),
            left={one.path: one.etag for one in reader.left(current.id)},
        )
        return _Planned(current.version, plan)


def _drop(listing_id: int, transaction: Transaction) -> None:
    transaction.drop_listing(listing_id)


def _count_left_out(counts: ListingCounts, listed_files: int) -> None:
    """Correct and report the counts; `listed_files` are those that became entries.

    A file and the directory of its name may come from two parts of the listing: only the staging knows of it.
    """
    counts.shadowed += counts.files - listed_files
    counts.files = listed_files
    metrics.LEFT_OUT_OBJECTS.labels("unusable_key").inc(counts.unusable_keys)
    metrics.LEFT_OUT_OBJECTS.labels("shadowed").inc(counts.shadowed)
    metrics.LEFT_OUT_OBJECTS.labels("hidden").inc(counts.hidden)
