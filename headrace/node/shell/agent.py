"""The node agent: which pods are this node's, and a worker for each.

Owns the watch, admission, addresses and GPU indices, and the life of the workers. Does not
run containers (shell/pod_worker.py) nor write the Node (shell/registration.py). One watch
of all pods serves both this node's pods and the names of their peers.
Invariants: one worker a uid; an address or a GPU index is given out again only when the
worker of the pod that had it is over and, for addresses, its folder is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from random import Random

import structlog

from headrace.node.core import addresses, admission, devices, pod_spec, requests
from headrace.node.core.node_object import HOST_IP
from headrace.node.core.pod_model import FAILED, SUCCEEDED, Rejected, StopRequested, Verdict
from headrace.node.core.pod_spec import Pod
from headrace.node.shell import metrics
from headrace.node.shell.pod_worker import NodeServices, PodWorker
from headrace.node.shell.records import PodFolder, PodRecord, all_records
from kube.client import KubeClient
from kube.resources import PODS
from kube.store import Store
from kube.watch import ChangeKind, list_watch

_log = structlog.get_logger(__name__)

#: kubelet's words for a pod it ends because the node stops.
SHUTDOWN = Verdict(FAILED, "Terminated", "Pod was terminated in response to imminent node shutdown.")
STOP_MARGIN_SECONDS = 10.0


class Agent:
    """Pods of one node."""

    def __init__(
        self,
        client: KubeClient,
        services: NodeServices,
        *,
        labels: dict[str, str],
        allocatable: dict[str, int],
        gpus: int,
        network_index: int,
    ) -> None:
        self._client = client
        self._services = services
        self._labels = labels
        self._allocatable = allocatable
        self._gpus = gpus
        self._network_index = network_index
        self._last_address = ""
        self._store: Store[Pod] = Store()
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._records = {record.uid: record for record in all_records(services.pods)}
        #: uids whose worker is over while the object is still there (held by finalizers)
        self._ended: set[str] = set()
        self._is_stopping = False
        self.is_synced = asyncio.Event()

    # ---- the watch ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the cluster's pods until cancelled."""
        batches = list_watch(self._client, PODS, Pod, jitter=Random())
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                changes = self._store.apply(batch)
                # Names first: a pod that starts finds the peers that are there already.
                for change in changes:
                    if change.kind is ChangeKind.DELETED:
                        self._services.names.gone(change.object)
                    else:
                        self._services.names.seen(change.object)
                for change in sorted(changes, key=lambda change: change.object.metadata.uid not in self._records):
                    if change.object.spec.node_name == self._services.node_name:
                        self._on_own_pod(change.object, is_gone=change.kind is ChangeKind.DELETED)
                if not self.is_synced.is_set():
                    self._end_orphans()
                    self.is_synced.set()

    def _on_own_pod(self, pod: Pod, *, is_gone: bool) -> None:
        uid = pod.metadata.uid
        worker = self._workers.get(uid)
        if worker is None and not is_gone and not self._is_stopping and uid not in self._ended:
            self._begin(pod)
        elif worker is not None and is_gone:
            worker.gone()
        elif worker is not None:
            worker.update(pod)
        if is_gone:
            self._ended.discard(uid)

    def _end_orphans(self) -> None:
        """Pods that left the API while no agent ran: their processes are ended, their folders removed."""
        for uid, record in self._records.items():
            if uid in self._workers:
                continue
            _log.info("orphan_pod", pod=record.name, namespace=record.namespace)
            pod = Pod(metadata=pod_spec.PodMeta(name=record.name, namespace=record.namespace, uid=uid))
            folder = PodFolder(self._services.pods, uid)
            containers = [pod_spec.Container(name=name) for name in folder.container_names()]
            pod = Pod(metadata=pod.metadata, spec=pod_spec.PodSpec(containers=containers, restart_policy="Never"))
            self._spawn(PodWorker(self._services, pod, record))
            self._workers[uid].gone()

    # ---- taking a pod ------------------------------------------------------------------------

    def _begin(self, pod: Pod) -> None:
        record = self._records.get(pod.metadata.uid)
        if record is not None or pod.status.phase in (SUCCEEDED, FAILED):
            self._spawn(PodWorker(self._services, pod, record))
            return
        rejection = admission.admit(
            pod.spec,
            labels=self._labels,
            node_name=self._services.node_name,
            allocatable=self._allocatable,
            admitted=[requests.effective_requests(worker.pod.spec) for worker in self._active()],
        )
        if rejection is not None:
            metrics.REJECTIONS.inc()
            self._services.events(pod)(rejection.reason, rejection.message, kind="Warning")
            worker = PodWorker(self._services, pod, None)
            message = f"Pod was rejected: {rejection.message}"
            worker.send(Rejected(Verdict(FAILED, rejection.reason, message)))
            self._spawn(worker)
            return
        self._spawn(PodWorker(self._services, pod, self._take(pod)))

    def _active(self) -> Iterator[PodWorker]:
        return (worker for worker in self._workers.values() if not worker.is_over and worker.record is not None)

    def _take(self, pod: Pod) -> PodRecord:
        held = {worker.record.pod_ip for worker in self._workers.values() if worker.record is not None}
        held |= {record.pod_ip for record in self._records.values()}
        if pod.spec.host_network:
            address = HOST_IP
        else:
            address = addresses.choose(self._network_index, taken=held, after=self._last_address)
            self._last_address = address
        busy = {
            index
            for worker in self._active()
            if worker.record is not None
            for indices in worker.record.gpus.values()
            for index in indices
        }
        record = PodRecord(
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            uid=pod.metadata.uid,
            pod_ip=address,
            start_time=time.time(),
            gpus=devices.assign(pod.spec, total=self._gpus, taken=busy),
        )
        PodFolder(self._services.pods, record.uid).create(record, pod_spec.host_name(pod))
        self._records[record.uid] = record
        return record

    # ---- workers -----------------------------------------------------------------------------

    def _spawn(self, worker: PodWorker) -> None:
        uid = worker.pod.metadata.uid
        self._workers[uid] = worker
        metrics.PODS.set(sum(1 for _ in self._active()))
        task = asyncio.create_task(self._supervise(worker), name=f"pod {worker.pod.metadata.name}")
        self._tasks[uid] = task

    async def _supervise(self, worker: PodWorker) -> None:
        """Run a worker; an error of one pod must not end the others."""
        uid = worker.pod.metadata.uid
        try:
            await worker.run()
        except Exception:  # noqa: BLE001
            # The edge: logged and counted; the pod is taken up again from its records.
            _log.exception("pod_worker_failed", pod=worker.pod.metadata.name)
            metrics.WORKER_ERRORS.inc()
            await asyncio.sleep(STOP_MARGIN_SECONDS)
        del self._workers[uid], self._tasks[uid]
        if PodFolder(self._services.pods, uid).record() is None:
            self._records.pop(uid, None)
        metrics.PODS.set(sum(1 for _ in self._active()))
        current = self._store.get(worker.pod.metadata.namespace, worker.pod.metadata.name)
        if current is None or current.metadata.uid != uid:
            return
        if uid in self._records and not self._is_stopping:
            self._begin(current)
        else:
            self._ended.add(uid)

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """Return the worker of a pod by name (the newest of that name)."""
        found = [
            worker
            for worker in self._workers.values()
            if (worker.pod.metadata.namespace, worker.pod.metadata.name) == (namespace, name)
        ]
        return found[-1] if found else None

    def has_pod(self, uid: str) -> bool:
        """Whether processes of a pod may be here."""
        return not self.is_synced.is_set() or uid in self._workers or uid in self._records

    async def stop_pods(self, grace_seconds: float) -> None:
        """End every pod, each with its own grace but at most `grace_seconds`; returns when all ended."""
        self._is_stopping = True
        now = time.time()
        for worker in self._workers.values():
            if not worker.is_over:
                grace = min(grace_seconds, pod_spec.grace_seconds(worker.pod))
                worker.send(StopRequested(now + grace, SHUTDOWN))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds + STOP_MARGIN_SECONDS):
                await asyncio.gather(*(worker.settled.wait() for worker in self._workers.values()))
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
