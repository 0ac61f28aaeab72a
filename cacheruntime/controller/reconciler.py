"""The controller's shell: reads, asks the pure modules for a plan, carries it out.

Owns the order of calls for each kind and the polling of residency. What to say in a status is decided in
`dataset.py`, `listings.py`, `dataload.py`, `nodecache.py` and `runtime.py`. Invariants: every reconcile starts from
what is known now (level-triggered); a step that fails is retried by the queue, none is skipped.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

import grpc
import structlog
from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from api import names
from api.conditions import timestamp
from api.data_v1alpha1 import (
    REASON_CLEANUP_FAILED,
    REASON_IN_USE,
    REASON_USERS_UNKNOWN,
    CacheRuntime,
    DataLoad,
    Dataset,
    DatasetStatus,
    NodeCacheStatus,
    Reference,
)
from api.gen import metadata_pb2, worker_pb2
from api.quantities import format_bytes
from cacheruntime.controller import (
    dataload,
    dataset,
    listings,
    load_turns,
    nodecache,
    reclaim,
    references,
    runtime,
    sharing,
)
from cacheruntime.controller.credentials import Credentials, SecretKey, SecretProblem
from cacheruntime.controller.objects import Key, Objects, load_dataset
from cacheruntime.controller.services import Metadata, Workers
from cacheruntime.controller.users import Users
from kube.client import KubeClient
from kube.errors import Conflict, KubeError
from kube.events import EventRecorder
from kube.objects import ObjectRef
from kube.resources import DATASETS
from kube.workqueue import WorkQueue

log = structlog.get_logger()

SYNC_POLL_SECONDS = 0.5
LOAD_POLL_SECONDS = 0.5
FAILED_RETRY_SECONDS = 10.0
USERS_CHANGED_SECONDS = 1.0
"""The pods of a job come and go by hundreds; their Dataset's status follows once a second."""
USERS_SECONDS = 10.0
"""How often a deleted Dataset looks for its users again, besides when one of them is seen to end."""
POLL_SHARE = 9.0
"""A poll rests nine times as long as it took: it is never more than a tenth of what metadata and we do."""
SYNC_FAILED = "SyncFailed"
"""Reason of the event for a listing that failed; its note is what the listing said."""
LISTINGS_ASKED = Counter(
    "headrace_controller_listings",
    "Listings of datasets that metadata was asked for, beyond the first; why.",
    ["why"],  # retry, asked, Interval, Always
)
RECLAIMED = "Reclaimed"
"""Reason of the event for cached bytes that were given back as nobody used them."""
RECLAIMED_BYTES = Counter(
    "headrace_controller_reclaimed_bytes", "Cached bytes of datasets that were given back as spec.reclaim says."
)
CAPACITY_USED = Gauge(
    "headrace_runtime_capacity_used_ratio",
    "Used part of the room of a CacheRuntime's live workers, 0 to 1: what an autoscaler of its /scale goes by.",
    ["namespace", "runtime"],
)
POOL_WORKERS = Gauge("headrace_runtime_workers", "Live workers of a CacheRuntime.", ["namespace", "runtime"])
POLL_ERRORS = Counter("headrace_controller_poll_errors", "Polls of residency that failed; by whom.", ["of"])


class Reconciler:
    """Brings metadata, workers and statuses in line with the objects."""

    def __init__(
        self,
        client: KubeClient,
        objects: Objects,
        credentials: Credentials,
        metadata: Metadata,
        workers: Workers,
        *,
        recorder: EventRecorder,
        poll_seconds: float,
    ) -> None:
        self._objects = objects
        self._credentials = credentials
        self._metadata = metadata
        self._workers = workers
        self._recorder = recorder
        self._poll_seconds = poll_seconds
        self.datasets: WorkQueue[Key] = WorkQueue("datasets")
        self.loads: WorkQueue[Key] = WorkQueue("dataloads")
        self._users = Users(client, lambda key: self.datasets.add(key, USERS_CHANGED_SECONDS))
        self._told: dict[str, tuple[Key, bytes]] = {}
        """What metadata told last, by uid: whose it is, and a digest of all else."""
        self._written: dict[str, tuple[NodeCacheStatus, float]] = {}
        self._secret_keys: dict[Key, set[SecretKey]] = {}
        """What each Dataset that names credentials named last."""
        self._known_workers: Sequence[metadata_pb2.Worker] = ()
        self._pools: dict[Key, list[str] | None] = {}
        """The nodes of each CacheRuntime, as its datasets were told; None: it limits nothing."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._users.run())
            tasks.create_task(self.datasets.run(self._reconcile_dataset))
            tasks.create_task(self.loads.run(self._reconcile_load))
            tasks.create_task(self._for_ever(self._poll_workers))
            tasks.create_task(self._for_ever(self._poll_datasets))

    # Datasets

    async def _reconcile_dataset(self, key: Key) -> float | None:
        try:
            item = self._objects.get(Dataset, key)
        except ValidationError as error:
            log.error("dataset is malformed", dataset="/".join(key), error=str(error)[:500])
            leaving = self._objects.leaving(key)
            return None if leaving is None else await self._delete_dataset(leaving)
        if item is None:
            return None
        if item.metadata.deletion_timestamp is not None:
            return await self._delete_dataset(item)
        if names.DATASET_FINALIZER not in item.metadata.finalizers:
            await self._objects.set_finalizers(item, [*item.metadata.finalizers, names.DATASET_FINALIZER])
            item = self._objects.get(Dataset, key) or item
        return await self._sync_dataset(item)

    def tell_who_shows(self, of: Key) -> None:
        """A Dataset changed, came or went: look at those that show it."""
        for key in self._objects.that_show(of):
            self.datasets.add(key)

    def grants_changed(self, namespace: str) -> None:
        """Look at all that shows or loads something of a namespace from another one."""
        for key in self._objects.that_show_of(namespace):
            self.datasets.add(key)
        for load in self._objects.loads_from_elsewhere(namespace):
            self.loads.add(load)

    def _find_dataset(self, key: Key) -> Dataset | None:
        try:
            return self._objects.get(Dataset, key)
        except ValidationError:
            return None  # its own reconcile says so

    def _may_have(self, of: Key, namespace: str) -> bool:
        return sharing.is_granted(of, namespace, self._objects.grants(of[0]))

    async def _show_another(self, item: Dataset) -> float | None:
        """Bring a Dataset that shows another one in line with it; nothing of its own is cached."""
        try:
            shown = sharing.shown(item)
        except ValueError as error:
            return await self._show_nothing(item, "InvalidMount", f"spec.mounts: {error}")
        of = self._find_dataset(shown.key)
        if not self._may_have(shown.key, item.metadata.namespace):
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

    async def _sync_dataset(self, item: Dataset) -> float | None:
        if sharing.shows_another(item):
            return await self._show_another(item)
        allowed = dataset.eligible_nodes(item, self._objects.nodes)
        if allowed is None:
            message = "spec.nodeAffinity.required matches no node; blocks have nowhere to be kept"
            return await self._refuse_dataset(item, "NoEligibleNode", message)
        pool = self._pool_of(item)
        of_pool = None if pool is None else self._pools.get(pool)
        if pool is not None and of_pool is None:
            return SYNC_POLL_SECONDS  # whose workers are in it is about to be decided
        eligible = runtime.eligible(allowed, of_pool)
        if eligible is None:
            message = f"CacheRuntime {item.spec.runtime} has no worker that this dataset may use; see its status"
            return await self._refuse_dataset(item, "NoEligibleNode", message)
        try:
            await self._bring_credentials(item)
        except SecretProblem as error:
            return await self._refuse_dataset(item, "SecretNotFound", str(error))
        try:
            info = await self._metadata.sync(dataset.sync_request(item, eligible))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return await self._refuse_dataset(item, "InvalidMount", error.details() or "the mount is refused")
            raise
        listing = self._next_listing(item, info)
        if listing.is_due(time.time()):
            info = await self._metadata.sync(dataset.sync_request(item, eligible, force=True))
            LISTINGS_ASKED.labels(listing.why).inc()
            listing = self._next_listing(item, info)
        await self._evict_paths(item)
        item = self._objects.get(Dataset, (item.metadata.namespace, item.metadata.name)) or item
        known = self._known_workers
        capacity = runtime.capacity_bytes([one for one in known if of_pool is None or one.node in of_pool])
        key = (item.metadata.namespace, item.metadata.name)
        users = self._users.seen(key)
        status = dataset.status(item, info, listing, capacity, time.time(), users=users)
        rest_seconds = await self._reclaim(item, info, status, users)
        if listings.is_new_failure(item.status, status.metadata_sync):
            self._recorder.record(_reference(item), SYNC_FAILED, info.error, kind="Warning")
        if item.status != status:
            self.tell_who_shows(key)
        await self._objects.write_status(item, status)
        before = item.status.snapshot if item.status is not None else None
        if info.snapshot_version != (before.version if before is not None else 0):
            for load in self._objects.loads_of(key):
                self.loads.add(load)
        is_taken = False
        if info.snapshot_version and item.metadata.deletion_timestamp is None:
            is_taken = not await self._ensure_volumes(item.model_copy(update={"status": status}))
        if info.syncing:
            return SYNC_POLL_SECONDS
        rests = [listing.rest_seconds(time.time()), rest_seconds]
        if is_taken or (users is None and status.references):
            rests.append(FAILED_RETRY_SECONDS)
        return min((rest for rest in rests if rest is not None), default=None)

    def _pool_of(self, item: Dataset) -> Key | None:
        """Return the key of the CacheRuntime that limits where a dataset's blocks are kept; None: nothing does."""
        key = (item.metadata.namespace, item.spec.runtime)
        try:
            found = self._objects.get(CacheRuntime, key)
        except ValidationError:
            return None  # said by whoever looks at the pool itself
        return key if found is not None and runtime.is_limited(found) else None

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

    async def _reclaim(
        self, item: Dataset, info: metadata_pb2.DatasetInfo, status: DatasetStatus, users: Sequence[Reference] | None
    ) -> float | None:
        """Give its cached bytes back if it is time, and enter in `status` since when nobody uses it; return the seconds
        until it may be time."""
        key = (item.metadata.namespace, item.metadata.name)
        cached_bytes = info.cached_bytes + info.cached_copy_bytes
        is_loading = self._is_loading(key)
        idle = reclaim.idleness(item, users, is_loading=is_loading, cached_bytes=cached_bytes, now=time.time())
        status.unused_since = idle.unused_since
        if not idle.is_due:
            return idle.rest_seconds
        try:
            # Asked anew: a watch that lags must not take the bytes from under a job that begins.
            found = await self._users.now(key)
            if found:
                status.references, status.unused_since = references.kept(found), None
                return None
            await self._workers.evict(await self._alive_workers(), item.metadata.uid)
        except (grpc.aio.AioRpcError, KubeError) as error:
            what = {"dataset": item.metadata.name, "namespace": item.metadata.namespace}
            log.warning("unused bytes are not given back yet", **what, error=_why(error))
            return reclaim.LOOK_SECONDS
        status.reclaimed_at = timestamp(time.time())
        RECLAIMED_BYTES.inc(cached_bytes)
        text = f"{format_bytes(cached_bytes)} were given back: nobody has used it since {idle.unused_since}"
        self._recorder.record(_reference(item), RECLAIMED, text)
        # What is filled again before metadata is polled looks as if nothing had happened.
        return min(reclaim.idle_seconds(item), listings.LONGEST_REST_SECONDS)

    def _is_loading(self, key: Key) -> bool:
        loads = (self._find_load(load) for load in self._objects.loads_of(key))
        return any(load is not None and dataload.is_under_way(load) for load in loads)

    async def _ensure_volumes(self, item: Dataset, shown: sharing.Shown | None = None) -> bool:
        """Make its PV and PVC; False: their names are taken, which its status says."""
        taken = await self._objects.ensure_volumes(item.metadata.uid, *dataset.volumes(item, shown))
        status = dataset.mountable_status(item, taken, time.time())
        if status is not None:
            await self._objects.write_status(item, status)
        return taken is None

    async def _delete_dataset(self, item: Dataset) -> float | None:
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
        return min(USERS_SECONDS, await self._sync_dataset(item) or USERS_SECONDS)

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
            await self._forget_dataset(item)
        except (grpc.aio.AioRpcError, KubeError) as error:
            if not isinstance(error, Conflict):
                message = f"its cached bytes and names cannot be given back, and it is tried again: {_why(error)}"
                status = dataset.deleting_status(item, REASON_CLEANUP_FAILED, message, time.time())
                await self._objects.write_status(item, status)
            raise

    async def _evict_paths(self, item: Dataset) -> None:
        try:
            paths = dataset.paths_to_evict(item)
        except ValueError as error:
            log.warning("cannot evict", dataset=item.metadata.name, namespace=item.metadata.namespace, error=str(error))
            return
        if paths is None:
            return
        await self._workers.evict(await self._alive_workers(), item.metadata.uid, paths)
        log.info("evicted", dataset=item.metadata.name, namespace=item.metadata.namespace, paths=paths[:10])
        await self._objects.drop_annotation(item, names.DATASET_EVICT_ANNOTATION)

    async def _alive_workers(self) -> list[metadata_pb2.Worker]:
        return [worker for worker in await self._metadata.workers() if worker.alive]

    async def _refuse_dataset(self, item: Dataset, reason: str, message: str) -> float:
        await self._objects.write_status(item, dataset.failed_status(item, reason, message, time.time()))
        return FAILED_RETRY_SECONDS

    async def _forget_dataset(self, item: Dataset) -> None:
        await self._objects.delete_volumes(item.metadata.uid, *dataset.volumes(item))
        alive = await self._alive_workers()
        try:
            await self._workers.evict(alive, item.metadata.uid)
        except grpc.aio.AioRpcError as error:
            # Workers drop by themselves what metadata does not know any more: one that hangs is not waited for.
            log.warning("a worker does not drop a dataset", uid=item.metadata.uid, details=error.details())
        await self._metadata.remove(item.metadata.uid, force=dataset.is_forced(item))
        await self._drop_credentials(item, set())
        rest = [one for one in item.metadata.finalizers if one != names.DATASET_FINALIZER]
        await self._objects.set_finalizers(item, rest)

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

    # DataLoads

    async def _reconcile_load(self, key: Key) -> float | None:
        try:
            load = self._objects.get(DataLoad, key)
        except ValidationError as error:
            log.error("dataload is malformed", dataload="/".join(key), error=str(error)[:500])
            return None
        if load is None or load.metadata.deletion_timestamp is not None:
            return None
        source = self._find_dataset(load_dataset(load))
        snapshot = source.status.snapshot if source is not None and source.status is not None else None
        turn = load_turns.next_turn(load, self._find_load, 0 if snapshot is None else snapshot.version, time.time())
        if turn.status is not None:
            await self._objects.write_status(load, turn.status)
            load = self._objects.get(DataLoad, key) or load
        if turn.runs:
            return await self._advance_load(load, source)
        if dataload.expiry_seconds(load, time.time()) == 0:
            await self._objects.delete_load(load)
            return None
        return turn.again_seconds

    def _find_load(self, key: Key) -> DataLoad | None:
        try:
            return self._objects.get(DataLoad, key)
        except ValidationError:
            return None  # its own reconcile says so; for others it is not there

    async def _advance_load(self, load: DataLoad, source: Dataset | None) -> float | None:
        namespace, name = load_dataset(load)
        if not self._may_have((namespace, name), load.metadata.namespace):
            why = sharing.refusal((namespace, name), load.metadata.namespace)
            return await self._wait_load(load, sharing.NOT_GRANTED, why)
        if source is not None and sharing.shows_another(source):
            try:
                shown = sharing.shown(source)
            except ValueError as error:
                return await self._wait_load(load, "InvalidMount", f"Dataset {namespace}/{name}: spec.mounts: {error}")
            namespace, name = shown.key
            if not self._may_have(shown.key, load.metadata.namespace):
                why = sharing.refusal(shown.key, load.metadata.namespace)
                return await self._wait_load(load, sharing.NOT_GRANTED, why)
            source, load = self._find_dataset(shown.key), dataload.below(load, shown.path)
        if source is None:
            return await self._wait_load(
                load, "DatasetNotFound", f"Dataset {namespace}/{name} does not exist; create it"
            )
        try:
            info = await self._metadata.dataset(namespace, name)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return await self._wait_load(load, "DatasetNotListed", f"Dataset {namespace}/{name} is not listed yet")
            raise
        if load.spec.load_metadata and not dataload.is_listed_since_start(load, info):
            if not info.syncing:
                await self._metadata.sync(dataset.sync_request(source, info.eligible_nodes, force=True))
            why = f": {info.error}" if info.error else ""
            return await self._wait_load(load, "DatasetNotListed", f"Dataset {namespace}/{name} is listed anew{why}")
        if not info.snapshot_version:
            why = info.error or "its files are being listed"
            return await self._wait_load(load, "DatasetNotListed", f"Dataset {namespace}/{name}: {why}")
        workers = dataload.participants(info, await self._metadata.workers())
        if not workers:
            message = "no live cache worker may keep this dataset; check spec.nodeAffinity and the workers"
            return await self._wait_load(load, "NoWorker", message)
        missing = dataload.unknown_nodes(load, workers)
        if missing:
            message = f"spec.target names nodes without a live worker for this dataset: {', '.join(missing)}"
            return await self._wait_load(load, "NoWorkerOnNode", message)
        return await self._run_load(load, info, workers)

    async def _run_load(
        self, load: DataLoad, info: metadata_pb2.DatasetInfo, workers: Sequence[metadata_pb2.Worker]
    ) -> float | None:
        targets = []
        for request in dataload.requests(load, info, workers):
            targets.append(await self._workers.start_load(workers, request))
            if not all(one.done for one in targets[-1]):
                break  # lower priorities wait their turn
        waits_for_more = len(targets) < len(load.spec.target)
        status = dataload.status(load, targets, info.snapshot_version, time.time(), waits_for_more=waits_for_more)
        await self._objects.write_status(load, status)
        return 0.0 if status.phase in dataload.FINISHED_PHASES else LOAD_POLL_SECONDS

    async def _wait_load(self, load: DataLoad, reason: str, message: str) -> float:
        await self._objects.write_status(load, dataload.waiting_status(load, reason, message, time.time()))
        return load_turns.WAIT_SECONDS

    # What workers hold

    async def _for_ever(self, poll: Callable[[], Awaitable[None]]) -> None:
        """Poll again and again; what takes long is done more seldom, so that it never is most of what is done."""
        while True:
            began = time.monotonic()
            try:
                await poll()
            except grpc.aio.AioRpcError as error:
                POLL_ERRORS.labels("metadata").inc()
                log.warning("metadata does not answer", code=error.code().name, details=error.details())
            except KubeError as error:
                POLL_ERRORS.labels("api-server").inc()
                log.warning("the API server does not take what was found", error=str(error)[:500])
            await asyncio.sleep(max(self._poll_seconds, POLL_SHARE * (time.monotonic() - began)))

    async def _poll_datasets(self) -> None:
        told: dict[str, tuple[Key, bytes]] = {}
        for info in await self._metadata.datasets():
            digest = hashlib.blake2b(info.SerializeToString(deterministic=True), digest_size=16).digest()
            key = (info.namespace, info.name)
            told[info.uid] = (key, digest)
            if self._told.get(info.uid) != told[info.uid]:
                self.datasets.add(key)
        # A metadata service that lost its database has to be told of them again.
        for uid in self._told.keys() - told.keys():
            self.datasets.add(self._told[uid][0])
        self._told = told

    async def _poll_workers(self) -> None:
        self._known_workers = await self._metadata.workers()
        await self._workers.keep_only({worker.control_endpoint for worker in self._known_workers if worker.alive})
        leaving = await self._drain_workers()
        await self._publish_node_caches(await self._metadata.by_node(), leaving)
        for key in self._objects.keys(CacheRuntime):
            await self._look_at_pool(key)
        for key in self._pools.keys() - set(self._objects.keys(CacheRuntime)):
            self._forget_pool(key)

    async def _look_at_pool(self, key: Key) -> None:
        try:
            item = self._objects.get(CacheRuntime, key)
        except ValidationError as error:
            log.error("cacheruntime is malformed", runtime="/".join(key), error=str(error)[:500])
            return
        if item is None:
            return
        status = runtime.status(item, self._known_workers, self._objects.nodes, time.time())
        await self._objects.write_status(item, status)
        CAPACITY_USED.labels(*key).set(status.capacity_used_percent / 100)
        POOL_WORKERS.labels(*key).set(status.worker_number_ready)
        nodes = status.nodes if runtime.is_limited(item) else None
        if self._pools.get(key) != nodes:
            log.info("a pool's workers change", runtime="/".join(key), nodes=nodes)
            for of_it in self._objects.datasets_of(key):
                self.datasets.add(of_it)
        self._pools[key] = nodes

    def _forget_pool(self, key: Key) -> None:
        del self._pools[key]
        for gauge in (CAPACITY_USED, POOL_WORKERS):
            gauge.remove(*key)
        for of_it in self._objects.datasets_of(key):
            self.datasets.add(of_it)

    async def _drain_workers(self) -> dict[str, worker_pb2.LeaveProgress]:
        """Tell workers of drained nodes to hand their blocks over, those of others to stay; return how far they are."""
        found: dict[str, worker_pb2.LeaveProgress] = {}
        for worker in self._known_workers:
            is_drained = worker.node in self._objects.drained
            # Of a node that was not seen yet nobody knows what its owner wants.
            if not worker.alive or worker.node not in self._objects.nodes or not (is_drained or worker.leaving):
                continue
            try:
                progress = await self._workers.leave(worker, stay=not is_drained)
            except grpc.aio.AioRpcError as error:
                log.warning("a worker does not hand over", node=worker.node, details=error.details())
                continue
            if progress.leaving:
                found[worker.node] = progress
        return found

    async def _publish_node_caches(
        self,
        residencies: Sequence[metadata_pb2.NodeResidency],
        leaving: Mapping[str, worker_pb2.LeaveProgress],
    ) -> None:
        current = {one.worker.node: nodecache.status(one, leaving.get(one.worker.node)) for one in residencies}
        if not self._written:
            # After our own start: nodes whose worker died meanwhile must not keep their old figures.
            self._written = {node: (NodeCacheStatus(), 0.0) for node in await self._objects.node_cache_names()}
            dead = [node for node in self._written if node not in current]
            for node in dead:
                await self._objects.write_node_cache(node, nodecache.gone())
        for node in self._written.keys() - current.keys():
            current[node] = nodecache.gone()
        for node, status in current.items():
            written, written_at = self._written.get(node, (None, 0.0))
            if nodecache.write_delay_seconds(written, status, written_at, time.monotonic()) == 0:
                await self._objects.write_node_cache(node, status)
                self._written[node] = (status, time.monotonic())


def _why(error: grpc.aio.AioRpcError | KubeError) -> str:
    return (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)


def _reference(item: Dataset) -> ObjectRef:
    meta = item.metadata
    return ObjectRef(
        api_version=DATASETS.api_version, kind=DATASETS.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid
    )
