"""The controller's shell: reads, asks the pure modules for a plan, carries it out.

Owns the order of calls for each kind and the polling of residency. What to say in a status is decided in
`dataset.py`, `dataload.py`, `nodecache.py` and `runtime.py`. Invariants: every reconcile starts from what is known
now (level-triggered); a step that fails is retried by the queue, none is skipped.
"""

import asyncio
import time
from collections.abc import Sequence

import grpc
import structlog
from pydantic import ValidationError

from api import names
from api.data_v1alpha1 import CacheRuntime, DataLoad, Dataset, NodeCacheStatus
from api.gen import metadata_pb2
from cacheruntime.controller import dataload, dataset, nodecache, runtime
from cacheruntime.controller.credentials import CredentialFiles, SecretProblem
from cacheruntime.controller.objects import Key, Objects
from cacheruntime.controller.services import Metadata, Workers
from kube.workqueue import WorkQueue

log = structlog.get_logger()

SYNC_POLL_SECONDS = 0.5
LOAD_POLL_SECONDS = 0.5
FAILED_RETRY_SECONDS = 10.0
WAIT_SECONDS = 2.0


class Reconciler:
    """Brings metadata, workers and statuses in line with the objects."""

    def __init__(
        self, objects: Objects, credentials: CredentialFiles, metadata: Metadata, workers: Workers, poll_seconds: float
    ) -> None:
        self._objects = objects
        self._credentials = credentials
        self._metadata = metadata
        self._workers = workers
        self._poll_seconds = poll_seconds
        self.datasets: WorkQueue[Key] = WorkQueue("datasets")
        self.loads: WorkQueue[Key] = WorkQueue("dataloads")
        self._written: dict[str, tuple[NodeCacheStatus, float]] = {}
        self._known_workers: Sequence[metadata_pb2.Worker] = ()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.datasets.run(self._reconcile_dataset))
            tasks.create_task(self.loads.run(self._reconcile_load))
            tasks.create_task(self._poll_for_ever())

    # Datasets

    async def _reconcile_dataset(self, key: Key) -> float | None:
        try:
            item = self._objects.get(Dataset, key)
        except ValidationError as error:
            log.error("dataset is malformed", dataset="/".join(key), error=str(error)[:500])
            return None
        if item is None:
            return None
        if item.metadata.deletion_timestamp is not None:
            await self._forget_dataset(item)
            return None
        if names.DATASET_FINALIZER not in item.metadata.finalizers:
            await self._objects.set_finalizers(item, [*item.metadata.finalizers, names.DATASET_FINALIZER])
            item = self._objects.get(Dataset, key) or item
        return await self._sync_dataset(item)

    async def _sync_dataset(self, item: Dataset) -> float | None:
        eligible = dataset.eligible_nodes(item, self._objects.nodes)
        if eligible is None:
            message = "spec.nodeAffinity.required matches no node; blocks have nowhere to be kept"
            return await self._refuse_dataset(item, "NoEligibleNode", message)
        try:
            await self._credentials.write(item.metadata.namespace, dataset.secret_keys(item))
        except SecretProblem as error:
            return await self._refuse_dataset(item, "SecretNotFound", str(error))
        try:
            info = await self._metadata.sync(dataset.sync_request(item, eligible))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return await self._refuse_dataset(item, "InvalidMount", error.details() or "the mount is refused")
            raise
        await self._evict_paths(item)
        item = self._objects.get(Dataset, (item.metadata.namespace, item.metadata.name)) or item
        capacity = runtime.capacity_bytes(self._known_workers)
        status = dataset.status(item, info, capacity, time.time())
        await self._objects.write_status(item, status)
        if info.snapshot_version:
            await self._objects.ensure_volumes(*dataset.volumes(item.model_copy(update={"status": status})))
        if info.syncing:
            return SYNC_POLL_SECONDS
        return FAILED_RETRY_SECONDS if info.error else None

    async def _evict_paths(self, item: Dataset) -> None:
        try:
            paths = dataset.paths_to_evict(item)
        except ValueError as error:
            log.warning("cannot evict", dataset=item.metadata.name, namespace=item.metadata.namespace, error=str(error))
            return
        if paths is None:
            return
        alive = [worker for worker in await self._metadata.workers() if worker.alive]
        await self._workers.evict(alive, item.metadata.uid, paths)
        log.info("evicted", dataset=item.metadata.name, namespace=item.metadata.namespace, paths=paths[:10])
        await self._objects.drop_annotation(item, names.DATASET_EVICT_ANNOTATION)

    async def _refuse_dataset(self, item: Dataset, reason: str, message: str) -> float:
        await self._objects.write_status(item, dataset.failed_status(item, reason, message, time.time()))
        return FAILED_RETRY_SECONDS

    async def _forget_dataset(self, item: Dataset) -> None:
        if names.DATASET_FINALIZER not in item.metadata.finalizers:
            return
        await self._objects.delete_volumes(*dataset.volumes(item))
        alive = [worker for worker in await self._metadata.workers() if worker.alive]
        await self._workers.evict(alive, item.metadata.uid)
        await self._metadata.remove(item.metadata.uid)
        rest = [one for one in item.metadata.finalizers if one != names.DATASET_FINALIZER]
        await self._objects.set_finalizers(item, rest)

    # DataLoads

    async def _reconcile_load(self, key: Key) -> float | None:
        try:
            load = self._objects.get(DataLoad, key)
        except ValidationError as error:
            log.error("dataload is malformed", dataload="/".join(key), error=str(error)[:500])
            return None
        if load is None or load.metadata.deletion_timestamp is not None:
            return None
        if load.status is not None and load.status.phase in dataload.FINISHED_PHASES:
            return await self._expire_load(load)
        refusal = dataload.refusal(load)
        if refusal is not None:
            await self._objects.write_status(load, dataload.failed_status(load, "NotSupported", refusal, time.time()))
            return 0.0
        return await self._advance_load(load)

    async def _expire_load(self, load: DataLoad) -> float | None:
        left = dataload.expiry_seconds(load, time.time())
        if left == 0:
            await self._objects.delete_load(load)
            return None
        return left

    async def _advance_load(self, load: DataLoad) -> float | None:
        namespace = load.spec.dataset.namespace or load.metadata.namespace
        name = load.spec.dataset.name
        source = self._objects.get(Dataset, (namespace, name))
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
        return WAIT_SECONDS

    # What workers hold

    async def _poll_for_ever(self) -> None:
        seen: dict[str, bytes] = {}
        while True:
            try:
                await self._poll_once(seen)
            except grpc.aio.AioRpcError as error:
                log.warning("metadata does not answer", code=error.code().name, details=error.details())
            await asyncio.sleep(self._poll_seconds)

    async def _poll_once(self, seen: dict[str, bytes]) -> None:
        self._known_workers = await self._metadata.workers()
        await self._workers.keep_only({worker.control_endpoint for worker in self._known_workers if worker.alive})
        for info in await self._metadata.datasets():
            text = info.SerializeToString(deterministic=True)
            if seen.get(info.uid) != text:
                seen[info.uid] = text
                self.datasets.add((info.namespace, info.name))
        await self._publish_node_caches(await self._metadata.by_node())
        for key in self._objects.keys(CacheRuntime):
            item = self._objects.get(CacheRuntime, key)
            if item is not None:
                await self._objects.write_status(item, runtime.status(item, self._known_workers))

    async def _publish_node_caches(self, residencies: Sequence[metadata_pb2.NodeResidency]) -> None:
        current = {one.worker.node: nodecache.status(one) for one in residencies}
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
