"""The controller's shell: runs the queues and the polls.

Owns how often metadata is polled, and what that wakes. What a key means is `dataset_reconciler.py`'s and
`load_reconciler.py`'s, what workers say `cache_nodes.py`'s. Invariant: a poll that fails is said, counted, done again.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

import grpc
import structlog
from prometheus_client import Counter

from cacheruntime.controller.cache_nodes import CacheNodes
from cacheruntime.controller.credentials import Credentials
from cacheruntime.controller.dataset_reconciler import DatasetReconciler
from cacheruntime.controller.load_reconciler import LoadReconciler
from cacheruntime.controller.objects import Key, Objects
from cacheruntime.controller.pool_workloads import PoolWorkloads
from cacheruntime.controller.queues import Queues
from cacheruntime.controller.services import Metadata, Workers
from cacheruntime.controller.users import Users
from kube.client import KubeClient
from kube.errors import KubeError
from kube.events import EventRecorder

log = structlog.get_logger()

USERS_CHANGED_SECONDS = 1.0
"""The pods of a job come and go by hundreds; their Dataset's status follows once a second."""
POLL_SHARE = 9.0
"""A poll rests nine times as long as it took: it is never more than a tenth of what metadata and we do."""
WORKLOADS_SECONDS = 5.0
"""How often the DaemonSets of CacheRuntimes' own nodes are looked at: three lists each time."""
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
        installed_workers: tuple[str, str] | None = None,
    ) -> None:
        self._metadata = metadata
        self._poll_seconds = poll_seconds
        self.queues = Queues(objects)
        self._users = Users(client, lambda key: self.queues.datasets.add(key, USERS_CHANGED_SECONDS))
        self.workloads = PoolWorkloads(client, installed_workers)
        self.nodes = CacheNodes(objects, metadata, workers, self.queues, self.workloads)
        self.datasets = DatasetReconciler(
            objects,
            credentials,
            metadata,
            workers,
            nodes=self.nodes,
            users=self._users,
            queues=self.queues,
            recorder=recorder,
        )
        self.loads = LoadReconciler(objects, metadata, workers)
        self._told: dict[str, tuple[Key, bytes]] = {}
        """What metadata told last, by uid: whose it is, and a digest of all else."""
        self._revision = ""
        """Of metadata's last answer, all of which was looked at."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._users.run())
            tasks.create_task(self.queues.datasets.run(self.datasets.reconcile))
            tasks.create_task(self.queues.loads.run(self.loads.reconcile))
            tasks.create_task(self._for_ever(self.nodes.poll))
            tasks.create_task(self._for_ever(self._poll_datasets))
            tasks.create_task(self._for_ever(self.workloads.turn, WORKLOADS_SECONDS))

    async def _for_ever(self, poll: Callable[[], Awaitable[None]], pause_seconds: float = 0.0) -> None:
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
            await asyncio.sleep(max(self._poll_seconds, pause_seconds, POLL_SHARE * (time.monotonic() - began)))

    async def _poll_datasets(self) -> None:
        answer = await self._metadata.datasets_since(self._revision)
        told: dict[str, tuple[Key, bytes]] = {}
        gone: set[str] = set()
        for info in answer.datasets:
            if info.removed:
                gone.add(info.uid)
                continue
            digest = hashlib.blake2b(info.SerializeToString(deterministic=True), digest_size=16).digest()
            key = (info.namespace, info.name)
            told[info.uid] = (key, digest)
            if self._told.get(info.uid) != told[info.uid]:
                self.queues.datasets.add(key)
        # A metadata service that lost its database has to be told of them again.
        gone = self._told.keys() & gone if answer.partial else self._told.keys() - told.keys()
        for uid in gone:
            self.queues.datasets.add(self._told.pop(uid)[0])
        self._told.update(told)
        self._revision = answer.revision
