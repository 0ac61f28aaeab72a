"""Listings: from an under store's pages to a new snapshot version.

Owns the background tasks, one a dataset. Pages are staged as they come (counts show at once) and become one
version at the end. Invariants: a listing that fails or is interrupted leaves the snapshot as it was; two Syncs of
one dataset share a listing; nothing that was changed through us while the listing ran is undone by it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from metadata.core.datasets import Dataset, Mount
from metadata.core.entries import Entry
from metadata.core.listing import ListingBuilder, ListingCounts
from metadata.core.listing_diff import SyncPlan, plan_sync
from metadata.errors import MetadataError
from metadata.shell import metrics
from metadata.shell.database import Database
from metadata.shell.residency_state import ResidencyState
from metadata.shell.watchers import Watchers
from metadata.stores.base import Reader, Transaction
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.errors import UnderStoreError

STAGE_ENTRIES: Final = 5_000
"""Entries a write; larger groups gain nothing, smaller ones cost commits."""
PLANS_BEFORE_BLOCKING: Final = 3
"""A plan is made beside the writer and used if nothing changed meanwhile; after so many tries, inside it."""

OpenStore = Callable[[str, Mapping[str, str], SecretOptions], UnderStore]
log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """A listing under way; counts of mounts already done are in `done`."""

    mounts: tuple[Mount, ...]
    done: ListingCounts = field(default_factory=ListingCounts)
    current: ListingCounts = field(default_factory=ListingCounts)
    task: "asyncio.Task[None] | None" = None

    @property
    def files(self) -> int:
        """Files listed so far."""
        return self.done.files + self.current.files

    @property
    def bytes(self) -> int:
        """Bytes of the files listed so far."""
        return self.done.bytes + self.current.bytes


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
    ) -> None:
        self._database = database
        self._residency = residency
        self._watchers = watchers
        self._open_store = open_store
        self._credentials_dir = credentials_dir
        self._kept_versions = kept_versions
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
        progress = Progress(dataset.specification.mounts)
        self._running[dataset.uid] = progress
        progress.task = asyncio.create_task(self._run(dataset, progress), name=f"listing-{dataset.uid}")

    async def cancel(self, uid: str) -> None:
        """Stop the dataset's listing, if any, and wait for its end."""
        progress = self._running.get(uid)
        if progress is not None and progress.task is not None:
            progress.task.cancel()
            with suppress(asyncio.CancelledError):
                await progress.task

    async def close(self) -> None:
        """Stop all listings; each is done again by the next Sync."""
        for uid in list(self._running):
            await self.cancel(uid)

    async def _run(self, dataset: Dataset, progress: Progress) -> None:
        started = time.monotonic()
        outcome = "cancelled"
        try:
            version, plan = await self._list(dataset, progress)
            outcome = "done"
            metrics.LISTING_SECONDS.observe(time.monotonic() - started)
            log.info(
                "metadata.listed",
                dataset=dataset.label,
                version=version,
                files=progress.files,
                bytes=progress.bytes,
                added=plan.added,
                changed=plan.changed,
                removed=plan.removed,
                left_out=progress.done.unusable_keys + progress.done.shadowed,
                seconds=round(time.monotonic() - started, 3),
            )
        except UnderStoreError as error:
            outcome = error.reason
            await self._fail(dataset, error.reason, error.message)
        except MetadataError as error:
            outcome = "Unavailable"
            await self._fail(dataset, outcome, error.message)
        except Exception as error:  # the edge of a background task: logged once, counted
            outcome = "Internal"
            metrics.INTERNAL_ERRORS.labels("listing").inc()
            log.error("metadata.listing_failed", dataset=dataset.label, exc_info=error)
            await self._fail(dataset, outcome, "the listing ended by an internal error; see the service's log.")
        finally:
            metrics.LISTINGS.labels(outcome).inc()
            if self._running.get(dataset.uid) is progress:
                del self._running[dataset.uid]
            self.ended += 1
            self._watchers.changed(dataset.uid)

    async def _list(self, dataset: Dataset, progress: Progress) -> tuple[int, SyncPlan]:
        listing_id = await self._database.write(lambda transaction: transaction.begin_listing())
        try:
            for mount in progress.mounts:
                await self._stage_mount(listing_id, mount, progress)
            version, plan = await self._publish(dataset, listing_id)
        finally:
            await self._database.write(lambda transaction: transaction.drop_listing(listing_id))
        await self._residency.refresh(dataset.uid, version)
        return version, plan

    async def _stage_mount(self, listing_id: int, mount: Mount, progress: Progress) -> None:
        secrets = SecretOptions(self._credentials_dir, mount.secret_options)
        builder = ListingBuilder(mount.path, [other.path for other in progress.mounts])
        progress.current = builder.counts
        store = self._open_store(mount.mount_point, mount.options, secrets)
        try:
            waiting = builder.start(time.time_ns())
            async for page in store.list():
                metrics.LISTED_OBJECTS.inc(len(page))
                waiting += builder.add(page)
                if len(waiting) >= STAGE_ENTRIES:
                    await self._stage(listing_id, waiting)
                    waiting = []
            await self._stage(listing_id, waiting + builder.finish())
        finally:
            await store.close()
        _add_up(progress)

    async def _stage(self, listing_id: int, entries: list[Entry]) -> None:
        await self._database.write(lambda transaction: transaction.stage(listing_id, entries))

    async def _publish(self, dataset: Dataset, listing_id: int) -> tuple[int, SyncPlan]:
        """Make the staged listing the dataset's content; returns the version and what changed."""
        plan_from = _Planner(dataset, listing_id)
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
            plan = SyncPlan(added=files)
        elif plan.changes:
            version += 1
            files, size = transaction.apply(current.id, plan.changes, version)
            transaction.forget_history(current.id, version - self._kept_versions)
        transaction.put_dataset(
            replace(
                current,
                version=version,
                files=current.files + files,
                bytes=current.bytes + size,
                synced_at_ns=time.time_ns(),
                error="",
                error_reason="",
                listed_mounts=planner.dataset.specification.mounts,
            )
        )
        return version, plan

    async def _fail(self, dataset: Dataset, reason: str, message: str) -> None:
        def record(transaction: Transaction) -> None:
            current = transaction.dataset(dataset.uid)
            if current is not None and current.id == dataset.id:
                transaction.put_dataset(replace(current, error=message, error_reason=reason))

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
    """Compares the staged listing with the namespace; `dataset` is the record from before the listing."""

    dataset: Dataset
    listing_id: int

    def plan(self, reader: Reader) -> _Planned:
        """The plan on the reader's state. Blocks for as long as both sides take to read."""
        current = reader.dataset(self.dataset.uid)
        if current is None or current.version == 0:
            return _Planned(0, SyncPlan())
        mounts = self.dataset.specification.mounts
        plan = plan_sync(
            reader.below(current.id, ""),
            reader.listed(self.listing_id),
            base_version=self.dataset.version,
            removed_since=reader.replaced_since(current.id, self.dataset.version),
            keeps_made_directories=not all(mount.mount_point.startswith("file:") for mount in mounts),
        )
        return _Planned(current.version, plan)


def _add_up(progress: Progress) -> None:
    done, current = progress.done, progress.current
    progress.done = ListingCounts(
        done.files + current.files,
        done.bytes + current.bytes,
        done.directories + current.directories,
        done.unusable_keys + current.unusable_keys,
        done.shadowed + current.shadowed,
        done.hidden + current.hidden,
    )
    progress.current = ListingCounts()
    metrics.LEFT_OUT_OBJECTS.labels("unusable_key").inc(current.unusable_keys)
    metrics.LEFT_OUT_OBJECTS.labels("shadowed").inc(current.shadowed)
    metrics.LEFT_OUT_OBJECTS.labels("hidden").inc(current.hidden)
