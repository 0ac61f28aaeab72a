"""The cache nodes: their workers, what each holds, and the pools they make.

Owns the poll of the workers, their NodeCaches, and which nodes the Datasets of a CacheRuntime were told. What to say is
decided in `nodecache.py` and `runtime.py`. Invariants: a NodeCache is written no more often than `nodecache.py` allows;
a pool that changes wakes its Datasets.
"""

import time
from collections.abc import Mapping, Sequence

import grpc
import structlog
from prometheus_client import Gauge
from pydantic import ValidationError

from api.cacheruntime_v1alpha1 import CacheRuntime
from api.data_v1alpha1 import Dataset
from api.gen import metadata_pb2, worker_pb2
from api.nodecache_v1alpha1 import NodeCacheStatus
from cacheruntime.controller import nodecache, runtime
from cacheruntime.controller.objects import Key, Objects
from cacheruntime.controller.pool_workloads import PoolWorkloads
from cacheruntime.controller.queues import Queues
from cacheruntime.controller.services import Metadata, Workers

log = structlog.get_logger()

CAPACITY_USED = Gauge(
    "headrace_runtime_capacity_used_ratio",
    "Used part of the room of a CacheRuntime's live workers, 0 to 1: what an autoscaler of its /scale goes by.",
    ["namespace", "runtime"],
)
POOL_WORKERS = Gauge("headrace_runtime_workers", "Live workers of a CacheRuntime.", ["namespace", "runtime"])


class CacheNodes:
    """Nodes that cache, as metadata told of them last."""

    def __init__(
        self, objects: Objects, metadata: Metadata, workers: Workers, queues: Queues, workloads: PoolWorkloads
    ) -> None:
        self._objects = objects
        self._metadata = metadata
        self._workers = workers
        self._queues = queues
        self._workloads = workloads
        self.known: Sequence[metadata_pb2.Worker] = ()
        """Every worker, dead ones too."""
        self._written: dict[str, tuple[NodeCacheStatus, float]] = {}
        self._pools: dict[Key, list[str] | None] = {}
        """The nodes of each CacheRuntime, as its datasets were told; None: it limits nothing."""

    async def poll(self) -> None:
        """Ask metadata, and write down what it says."""
        self.known = await self._metadata.workers()
        await self._workers.keep_only({worker.control_endpoint for worker in self.known if worker.alive})
        leaving = await self._drain_workers()
        await self._publish_node_caches(await self._metadata.by_node(), leaving)
        for key in self._objects.keys(CacheRuntime):
            await self._look_at_pool(key)
        for key in self._pools.keys() - set(self._objects.keys(CacheRuntime)):
            self._forget_pool(key)

    def pool_of(self, item: Dataset) -> Key | None:
        """Return the key of the CacheRuntime that limits where a dataset's blocks are kept; None: nothing does."""
        key = (item.metadata.namespace, item.spec.runtime)
        found = self._objects.find(CacheRuntime, key)
        return key if found is not None and runtime.is_limited(found) else None

    def nodes_of(self, pool: Key) -> list[str] | None:
        """Return the nodes of a pool that limits its datasets; None: they are about to be decided."""
        return self._pools.get(pool)

    async def _look_at_pool(self, key: Key) -> None:
        try:
            item = self._objects.get(CacheRuntime, key)
        except ValidationError as error:
            log.error("cacheruntime is malformed", runtime="/".join(key), error=str(error)[:500])
            return
        if item is None:
            return
        status = runtime.status(item, self.known, self._objects.nodes, time.time(), self._workloads.condition(item))
        await self._objects.write_status(item, status)
        CAPACITY_USED.labels(*key).set(status.capacity_used_percent / 100)
        POOL_WORKERS.labels(*key).set(status.worker_number_ready)
        nodes = status.nodes if runtime.is_limited(item) else None
        if self._pools.get(key) != nodes:
            log.info("a pool's workers change", runtime="/".join(key), nodes=nodes)
            self._queues.pool_changed(key)
        self._pools[key] = nodes

    def _forget_pool(self, key: Key) -> None:
        del self._pools[key]
        for gauge in (CAPACITY_USED, POOL_WORKERS):
            gauge.remove(*key)
        self._queues.pool_changed(key)

    async def _drain_workers(self) -> dict[str, worker_pb2.LeaveProgress]:
        """Tell workers of drained nodes to hand their blocks over, those of others to stay; return how far they are."""
        found: dict[str, worker_pb2.LeaveProgress] = {}
        for worker in self.known:
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
