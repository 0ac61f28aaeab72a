"""Reconciles Datasets: reads, asks the pure modules for a plan, carries it out.

Owns the order of calls for a Dataset: credentials, metadata, volumes, status, and what is given back when it goes. What
to say is decided in `dataset.py`, `listings.py`, `sharing.py` and `runtime.py`. Invariants: every reconcile starts from
what is known now (level-triggered); a step that fails is retried by the queue, none is skipped; what a Dataset takes is
given back before its finalizer goes.
"""

import time
from random import Random

import grpc
import structlog
from prometheus_client import Counter
from pydantic import ValidationError

from api import names
from api.data_v1alpha1 import (
    REASON_CLEANUP_FAILED,
    REASON_IN_USE,
    REASON_USERS_UNKNOWN,
    Dataset,
    DatasetStatus,
)
from api.gen import metadata_pb2
from cacheruntime.controller import dataset, listings, references, runtime, sharing
from cacheruntime.controller.cache_nodes import CacheNodes
from cacheruntime.controller.credentials import Credentials, SecretKey, SecretProblem
from cacheruntime.controller.objects import Key, Objects, event_object
from cacheruntime.controller.queues import Queues
from cacheruntime.controller.reclaimer import Reclaimer
from cacheruntime.controller.services import Metadata, Workers, alive_workers, said
from cacheruntime.controller.users import Users
from kube.errors import Conflict, KubeError
from kube.events import EventRecorder

log = structlog.get_logger()

SYNC_POLL_SECONDS = 0.5
FAILED_RETRY_SECONDS = 10.0
USERS_SECONDS = 10.0
"""How often a deleted Dataset looks for its users again, besides when one of them is seen to end."""
SYNC_FAILED = "SyncFailed"
"""Reason of the event for a listing that failed; its note is what the listing said."""
LISTINGS_ASKED = Counter(
    "headrace_controller_listings",
    "Listings of datasets that metadata was asked for, beyond the first; why.",
    ["why"],  # retry, asked, Interval, Always
)


class DatasetReconciler:
    """Brings metadata, volumes and statuses in line with the Datasets."""

    def __init__(
        self,
        objects: Objects,
        credentials: Credentials,
        metadata: Metadata,
        workers: Workers,
        *,
        nodes: CacheNodes,
        users: Users,
        queues: Queues,
        recorder: EventRecorder,
    ) -> None:
        self._objects = objects
        self._credentials = credentials
        self._metadata = metadata
        self._workers = workers
        self._nodes = nodes
        self._users = users
        self._queues = queues
        self._recorder = recorder
        self._reclaimer = Reclaimer(objects, users, metadata, workers, recorder)
        self._secret_keys: dict[Key, set[SecretKey]] = {}
        """What each Dataset that names credentials named last."""

    async def reconcile(self, key: Key) -> float | None:
        """Look at one; return the seconds until it is looked at again, None when something has to change first."""
        try:
            item = self._objects.get(Dataset, key)
        except ValidationError as error:
            log.error("dataset is malformed", dataset="/".join(key), error=str(error)[:500])
            leaving = self._objects.leaving(key)
            return None if leaving is None else await self._delete(leaving)
        if item is None:
            return None
        if item.metadata.deletion_timestamp is not None:
            return await self._delete(item)
        if names.DATASET_FINALIZER not in item.metadata.finalizers:
            await self._objects.set_finalizers(item, [*item.metadata.finalizers, names.DATASET_FINALIZER])
            item = self._objects.get(Dataset, key) or item
        return await self._sync(item)

    async def _sync(self, item: Dataset) -> float | None:
        if sharing.shows_another(item):
            return await self._show_another(item)
        allowed = dataset.eligible_nodes(item, self._objects.nodes)
        if allowed is None:
            message = "spec.nodeAffinity.required matches no node; blocks have nowhere to be kept"
            return await self._refuse(item, "NoEligibleNode", message)
        pool = self._nodes.pool_of(item)
        of_pool = None if pool is None else self._nodes.nodes_of(pool)
        if pool is not None and of_pool is None:
            return SYNC_POLL_SECONDS  # whose workers are in it is about to be decided
        eligible = runtime.eligible(allowed, of_pool)
        if eligible is None:
            message = f"CacheRuntime {item.spec.runtime} has no worker that this dataset may use; see its status"
            return await self._refuse(item, "NoEligibleNode", message)
        try:
            await self._bring_credentials(item)
        except SecretProblem as error:
            return await self._refuse(item, "SecretNotFound", str(error))
        try:
            info = await self._metadata.sync(dataset.sync_request(item, eligible))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return await self._refuse(item, "InvalidMount", error.details() or "the mount is refused")
            raise
        listing = self._next_listing(item, info)
        if listing.is_due(time.time()):
            info = await self._metadata.sync(dataset.sync_request(item, eligible, force=True))
            LISTINGS_ASKED.labels(listing.why).inc()
            listing = self._next_listing(item, info)
        await self._evict_paths(item)
        item = self._objects.get(Dataset, (item.metadata.namespace, item.metadata.name)) or item
        known = self._nodes.known
        capacity = runtime.capacity_bytes([one for one in known if of_pool is None or one.node in of_pool])
        key = (item.metadata.namespace, item.metadata.name)
        users = self._users.seen(key)
        status = dataset.status(item, info, listing, capacity, time.time(), users=users)
        rest_seconds = await self._reclaimer.look(item, info, status, users)
        if listings.is_new_failure(item.status, status.metadata_sync):
            self._recorder.record(event_object(item), SYNC_FAILED, info.error, kind="Warning")
        if item.status != status:
            self._queues.tell_who_shows(key)
        await self._objects.write_status(item, status)
        before = item.status.snapshot if item.status is not None else None
        if info.snapshot_version != (before.version if before is not None else 0):
            self._queues.tell_loads(key)
        is_taken = False
        if info.snapshot_version and item.metadata.deletion_timestamp is None:
            is_taken = not await self._ensure_volumes(item.model_copy(update={"status": status}))
        if info.syncing:
            return SYNC_POLL_SECONDS
        rests = [listing.rest_seconds(time.time()), rest_seconds]
        if is_taken or (users is None and status.references):
            rests.append(FAILED_RETRY_SECONDS)
        return min((rest for rest in rests if rest is not None), default=None)

    def _next_listing(self, item: Dataset, info: metadata_pb2.DatasetInfo) -> listings.Listing:
        # Of one listing the same chance each time, by whichever process: a new one with each look would favour the
        # shortest pause.
        chance = Random(f"{item.metadata.uid} {info.listing.ended_at_ns}").random()
        try:
            asked = listings.asked_at(item)
        except ValueError as error:
            what = {"dataset": item.metadata.name, "namespace": item.metadata.namespace}
            log.warning("nothing is listed for a request", **what, error=str(error))
            asked = None
        return listings.next_listing(item.spec.metadata_sync, info, asked, chance)

    async def _ensure_volumes(self, item: Dataset, shown: sharing.Shown | None = None) -> bool:
        """Make its PV and PVC; False: their names are taken, which its status says."""
        taken = await self._objects.ensure_volumes(item.metadata.uid, *dataset.volumes(item, shown))
        status = dataset.mountable_status(item, taken, time.time())
        if status is not None:
            await self._objects.write_status(item, status)
        return taken is None

    async def _evict_paths(self, item: Dataset) -> None:
        try:
            paths = dataset.paths_to_evict(item)
        except ValueError as error:
            log.warning("cannot evict", dataset=item.metadata.name, namespace=item.metadata.namespace, error=str(error))
            return
        if paths is None:
            return
        await self._workers.evict(await alive_workers(self._metadata), item.metadata.uid, paths)
        log.info("evicted", dataset=item.metadata.name, namespace=item.metadata.namespace, paths=paths[:10])
        await self._objects.drop_annotation(item, names.DATASET_EVICT_ANNOTATION)

    async def _refuse(self, item: Dataset, reason: str, message: str) -> float:
        await self._objects.write_status(item, dataset.failed_status(item, reason, message, time.time()))
        return FAILED_RETRY_SECONDS

    # Of another Dataset

    async def _show_another(self, item: Dataset) -> float | None:
        """Bring a Dataset that shows another one in line with it; nothing of its own is cached."""
        try:
            shown = sharing.shown(item)
        except ValueError as error:
            return await self._show_nothing(item, "InvalidMount", f"spec.mounts: {error}")
        of = self._objects.find(Dataset, shown.key)
        if not self._objects.is_granted(shown.key, item.metadata.namespace):
            return await self._show_nothing(
                item, sharing.NOT_GRANTED, sharing.refusal(shown.key, item.metadata.namespace)
            )
        if of is None or of.metadata.deletion_timestamp is not None:
            where = "/".join(shown.key)
            return await self._show_nothing(item, "DatasetNotFound", f"Dataset {where} does not exist; create it")
        if sharing.shows_another(of):
            why = f"spec.mounts: Dataset {'/'.join(shown.key)} shows another one itself; name that one"
            return await self._show_nothing(item, "InvalidMount", why)
        status = sharing.status(item, of, shown.path, time.time())
        users = self._users.seen((item.metadata.namespace, item.metadata.name))
        if users is not None:
            status.references = references.kept(users)
        await self._objects.write_status(item, status)
        is_taken = False
        if status.snapshot is not None and item.metadata.deletion_timestamp is None:
            is_taken = not await self._ensure_volumes(item.model_copy(update={"status": status}), shown)
        return FAILED_RETRY_SECONDS if is_taken or users is None else None

    async def _show_nothing(self, item: Dataset, reason: str, message: str) -> float:
        """Take the volumes away again: pods that run keep what they have mounted, new ones cannot mount it."""
        if item.status is not None and item.status.snapshot is not None:
            await self._objects.delete_volumes(item.metadata.uid, *dataset.volumes(item))
        await self._objects.write_status(item, sharing.refused_status(item, reason, message, time.time()))
        return FAILED_RETRY_SECONDS

    # Deletion

    async def _delete(self, item: Dataset) -> float | None:
        """Let a deleted Dataset go once nobody uses it; until then it is served as before."""
        if names.DATASET_FINALIZER not in item.metadata.finalizers:
            return None
        kept = None if dataset.is_forced(item) else await self._why_kept(item)
        if kept is None:
            await self._forget_or_say(item)
            return None
        await self._objects.write_status(item, kept)
        if not item.spec.mounts:
            return USERS_SECONDS  # malformed: there is nothing to say to metadata
        item = self._objects.get(Dataset, (item.metadata.namespace, item.metadata.name)) or item
        return min(USERS_SECONDS, await self._sync(item) or USERS_SECONDS)

    async def _why_kept(self, item: Dataset) -> DatasetStatus | None:
        """Return what the status of a deleted Dataset is to say of its users; None when it has none."""
        key, now = (item.metadata.namespace, item.metadata.name), time.time()
        try:
            users = await self._users.holding(key)
        except KubeError as error:
            message = f"who uses it cannot be read, and is asked again: {error}"
            return dataset.deleting_status(item, REASON_USERS_UNKNOWN, message, now)
        return dataset.deleting_status(item, REASON_IN_USE, dataset.in_use(users), now, users) if users else None

    async def _forget_or_say(self, item: Dataset) -> None:
        try:
            await self._forget(item)
        except (grpc.aio.AioRpcError, KubeError) as error:
            if not isinstance(error, Conflict):
                message = f"its cached bytes and names cannot be given back, and it is tried again: {said(error)}"
                status = dataset.deleting_status(item, REASON_CLEANUP_FAILED, message, time.time())
                await self._objects.write_status(item, status)
            raise

    async def _forget(self, item: Dataset) -> None:
        await self._objects.delete_volumes(item.metadata.uid, *dataset.volumes(item))
        alive = await alive_workers(self._metadata)
        try:
            await self._workers.evict(alive, item.metadata.uid)
        except grpc.aio.AioRpcError as error:
            # Workers drop by themselves what metadata does not know any more: one that hangs is not waited for.
            log.warning("a worker does not drop a dataset", uid=item.metadata.uid, details=error.details())
        await self._metadata.remove(item.metadata.uid, force=dataset.is_forced(item))
        await self._drop_credentials(item, set())
        rest = [one for one in item.metadata.finalizers if one != names.DATASET_FINALIZER]
        await self._objects.set_finalizers(item, rest)

    # Credentials

    async def _bring_credentials(self, item: Dataset) -> None:
        key, wanted = (item.metadata.namespace, item.metadata.name), dataset.secret_keys(item)
        before = self._secret_keys.get(key, set())
        if wanted:
            self._secret_keys[key] = wanted
        await self._credentials.write(item.metadata.namespace, wanted)
        if before - wanted:
            await self._drop_credentials(item, wanted)

    async def _drop_credentials(self, item: Dataset, still_wanted: set[SecretKey]) -> None:
        """Remove copies that this dataset named and nobody else does."""
        mine = (item.metadata.namespace, item.metadata.name)
        named = self._secret_keys.pop(mine, set()) | dataset.secret_keys(item)
        if still_wanted:
            self._secret_keys[mine] = still_wanted
        if named:
            others = [keys for (namespace, _), keys in self._secret_keys.items() if namespace == mine[0]]
            await self._credentials.keep_only(mine[0], still_wanted.union(*others))
