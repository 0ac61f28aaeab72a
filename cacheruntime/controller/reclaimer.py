"""Gives back the cached bytes of Datasets that nobody uses.

Owns the order: who uses it is asked anew, then workers drop what they hold, then it is told. When that is due is
decided in `reclaim.py`. Invariant: what cannot be asked or dropped now is tried again, and not told before.
"""

import time
from collections.abc import Sequence

import grpc
import structlog
from prometheus_client import Counter

from api.conditions import timestamp
from api.data_v1alpha1 import Dataset, DatasetStatus, Reference
from api.dataload_v1alpha1 import DataLoad
from api.gen import metadata_pb2
from api.quantities import format_bytes
from cacheruntime.controller import dataload, listings, reclaim, references
from cacheruntime.controller.objects import Key, Objects, event_object
from cacheruntime.controller.services import Metadata, Workers, alive_workers, said
from cacheruntime.controller.users import Users
from kube.errors import KubeError
from kube.events import EventRecorder

log = structlog.get_logger()

RECLAIMED = "Reclaimed"
"""Reason of the event for cached bytes that were given back as nobody used them."""
RECLAIMED_BYTES = Counter(
    "headrace_controller_reclaimed_bytes", "Cached bytes of datasets that were given back as spec.reclaim says."
)


class Reclaimer:
    """Looks at one Dataset at a time."""

    def __init__(
        self, objects: Objects, users: Users, metadata: Metadata, workers: Workers, recorder: EventRecorder
    ) -> None:
        self._objects = objects
        self._users = users
        self._metadata = metadata
        self._workers = workers
        self._recorder = recorder

    async def look(
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
            await self._workers.evict(await alive_workers(self._metadata), item.metadata.uid)
        except (grpc.aio.AioRpcError, KubeError) as error:
            what = {"dataset": item.metadata.name, "namespace": item.metadata.namespace}
            log.warning("unused bytes are not given back yet", **what, error=said(error))
            return reclaim.LOOK_SECONDS
        status.reclaimed_at = timestamp(time.time())
        RECLAIMED_BYTES.inc(cached_bytes)
        text = f"{format_bytes(cached_bytes)} were given back: nobody has used it since {idle.unused_since}"
        self._recorder.record(event_object(item), RECLAIMED, text)
        # What is filled again before metadata is polled looks as if nothing had happened.
        return min(reclaim.idle_seconds(item), listings.LONGEST_REST_SECONDS)

    def _is_loading(self, key: Key) -> bool:
        loads = (self._objects.find(DataLoad, load) for load in self._objects.loads_of(key))
        return any(load is not None and dataload.is_under_way(load) for load in loads)
