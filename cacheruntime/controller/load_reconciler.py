"""Reconciles DataLoads: reads, asks the pure modules for a plan, carries it out.

Owns the order of calls. When a load runs is decided in `load_turns.py`, what it is and says in `dataload.py`.
Invariants: every reconcile starts from what is known now (level-triggered); a load that cannot begin says why and
waits; higher priorities are loaded before lower ones.
"""

import time
from collections.abc import Sequence

import grpc
import structlog
from pydantic import ValidationError

from api.data_v1alpha1 import Dataset
from api.dataload_v1alpha1 import DataLoad
from api.gen import metadata_pb2
from cacheruntime.controller import dataload, dataset, load_turns, sharing
from cacheruntime.controller.objects import Key, Objects, load_dataset
from cacheruntime.controller.services import Metadata, Workers

log = structlog.get_logger()

LOAD_POLL_SECONDS = 0.5


class LoadReconciler:
    """Brings loads on the workers, and the statuses, in line with the DataLoads."""

    def __init__(self, objects: Objects, metadata: Metadata, workers: Workers) -> None:
        self._objects = objects
        self._metadata = metadata
        self._workers = workers

    async def reconcile(self, key: Key) -> float | None:
        """Look at one; return the seconds until it is looked at again, None when something has to change first."""
        try:
            load = self._objects.get(DataLoad, key)
        except ValidationError as error:
            log.error("dataload is malformed", dataload="/".join(key), error=str(error)[:500])
            return None
        if load is None or load.metadata.deletion_timestamp is not None:
            return None
        source = self._objects.find(Dataset, load_dataset(load))
        snapshot = source.status.snapshot if source is not None and source.status is not None else None
        turn = load_turns.next_turn(load, self._find, 0 if snapshot is None else snapshot.version, time.time())
        if turn.status is not None:
            await self._objects.write_status(load, turn.status)
            load = self._objects.get(DataLoad, key) or load
        if turn.runs:
            return await self._advance(load, source)
        if dataload.expiry_seconds(load, time.time()) == 0:
            await self._objects.delete_load(load)
            return None
        return turn.again_seconds

    def _find(self, key: Key) -> DataLoad | None:
        return self._objects.find(DataLoad, key)

    async def _advance(self, load: DataLoad, source: Dataset | None) -> float | None:
        namespace, name = load_dataset(load)
        if not self._objects.is_granted((namespace, name), load.metadata.namespace):
            why = sharing.refusal((namespace, name), load.metadata.namespace)
            return await self._wait(load, sharing.NOT_GRANTED, why)
        if source is not None and sharing.shows_another(source):
            try:
                shown = sharing.shown(source)
            except ValueError as error:
                return await self._wait(load, "InvalidMount", f"Dataset {namespace}/{name}: spec.mounts: {error}")
            namespace, name = shown.key
            if not self._objects.is_granted(shown.key, load.metadata.namespace):
                why = sharing.refusal(shown.key, load.metadata.namespace)
                return await self._wait(load, sharing.NOT_GRANTED, why)
            source, load = self._objects.find(Dataset, shown.key), dataload.below(load, shown.path)
        if source is None:
            return await self._wait(load, "DatasetNotFound", f"Dataset {namespace}/{name} does not exist; create it")
        try:
            info = await self._metadata.dataset(namespace, name)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return await self._wait(load, "DatasetNotListed", f"Dataset {namespace}/{name} is not listed yet")
            raise
        if load.spec.load_metadata and not dataload.is_listed_since_start(load, info):
            if not info.syncing:
                await self._metadata.sync(dataset.sync_request(source, info.eligible_nodes, force=True))
            why = f": {info.error}" if info.error else ""
            return await self._wait(load, "DatasetNotListed", f"Dataset {namespace}/{name} is listed anew{why}")
        if not info.snapshot_version:
            why = info.error or "its files are being listed"
            return await self._wait(load, "DatasetNotListed", f"Dataset {namespace}/{name}: {why}")
        workers = dataload.participants(info, await self._metadata.workers())
        if not workers:
            message = "no live cache worker may keep this dataset; check spec.nodeAffinity and the workers"
            return await self._wait(load, "NoWorker", message)
        missing = dataload.unknown_nodes(load, workers)
        if missing:
            message = f"spec.target names nodes without a live worker for this dataset: {', '.join(missing)}"
            return await self._wait(load, "NoWorkerOnNode", message)
        return await self._run(load, info, workers)

    async def _run(
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

    async def _wait(self, load: DataLoad, reason: str, message: str) -> float:
        await self._objects.write_status(load, dataload.waiting_status(load, reason, message, time.time()))
        return load_turns.WAIT_SECONDS
