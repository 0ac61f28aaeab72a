"""One pod on this node: the loop that turns events into state and decisions into deeds.

Owns the pod's state while the agent lives, its status in the API, its end. Does not decide
(core/pod_state.py) and does not know how a container is run (shell/container_runner.py).
One task a pod is the only writer of its state; everything else sends it events.
Invariants: the address is in the status before a container runs; the object is deleted
only after every process of the pod is gone; nothing is written for a pod that left the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from headrace.node.core import pod_status
from headrace.node.core.environment import PodFacts
from headrace.node.core.node_object import HOST_IP
from headrace.node.core.pod_model import (
    BACK_OFF,
    FAILED,
    SUCCEEDED,
    Decision,
    Event,
    PodState,
    Rejected,
    SandboxReady,
    StopRequested,
    Tick,
    Verdict,
    VolumesReady,
    Waiting,
    rules_of,
)
from headrace.node.core.pod_spec import Pod, grace_seconds
from headrace.node.core.pod_state import decide, handle, initial
from headrace.node.errors import VolumeError
from headrace.node.shell import metrics
from headrace.node.shell.container_runner import ContainerRunner, KubeletEvents
from headrace.node.shell.container_spec import PodPlace
from headrace.node.shell.dataset_mounts import DatasetMounts
from headrace.node.shell.name_service import NameService
from headrace.node.shell.records import PodFolder, PodRecord
from headrace.node.shell.volumes import VolumeSetup
from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, KubeError, NotFound
from kube.identity import Condition
from kube.resources import PODS

_log = structlog.get_logger(__name__)

#: A failed volume or API call is tried again after this, doubled up to the maximum.
FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
#: kubelet's shortest grace for a pod that was forced out of the API.
FORCED_GRACE_SECONDS = 2
#: SIGKILL is repeated this often: a process may hang in a system call.
KILL_REPEAT_SECONDS = 2.0
MAX_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class NodeServices:
    """What all pod workers of a node share."""

    client: KubeClient
    events: Callable[[Pod], KubeletEvents]
    names: NameService
    mounts: DatasetMounts
    pods: Path
    node_name: str
    allocatable: dict[str, str]
    bin_dir: Path
    mount_wait_seconds: float


class PodWorker:
    """Runs one pod. `record` is None for a pod that is only to be refused."""

    def __init__(self, services: NodeServices, pod: Pod, record: PodRecord | None) -> None:
        self.pod = pod
        self.record = record
        self.folder = PodFolder(services.pods, pod.metadata.uid)
        self._services = services
        self._rules = rules_of(pod)
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(maxsize=MAX_EVENTS)
        self._conditions = pod.status.conditions
        self._is_gone = False
        self._published: dict[str, Any] | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._publish_at = 0.0
        self._volume_task: asyncio.Task[None] | None = None
        #: the volumes once they are made, and the pod's labels and annotations their files were made from
        self._made_volumes: VolumeSetup | None = None
        self._written_fields = _fields_of(pod)
        self._cleaned = False
        #: set once the pod is over and the API knows, or need not
        self.settled = asyncio.Event()
        if pod.status.phase in (SUCCEEDED, FAILED):
            self.settled.set()
        start_time = record.start_time if record is not None else time.time()
        self.state: PodState = initial(self._rules, start_time)
        if pod.status.phase in (SUCCEEDED, FAILED):
            self.send(Rejected(Verdict(pod.status.phase, pod.status.reason)))
        self.runner: ContainerRunner | None = None
        if record is not None:
            facts = PodFacts(services.node_name, HOST_IP, record.pod_ip, services.allocatable)
            place = PodPlace(self.folder, facts, record.gpus, services.bin_dir)
            self.runner = ContainerRunner(
                services.client,
                pod,
                place,
                record=services.events(pod),
                send=self.send,
                current_pod=lambda: self.pod,
            )

    # ---- called by the agent -----------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """True once the pod holds nothing of the node's resources."""
        return self.state.final is not None

    def send(self, event: Event) -> None:
        """Give the worker an event; never blocks."""
        self._inbox.put_nowait(event)

    def update(self, pod: Pod) -> None:
        """Take a newer object of the same pod."""
        self.pod = pod
        self._conditions = pod.status.conditions
        self.send(self._deletion() or Tick())

    def gone(self) -> None:
        """The object left the API: end what runs, quickly, and write nothing more."""
        self._is_gone = True
        self.send(StopRequested(time.time() + min(grace_seconds(self.pod), FORCED_GRACE_SECONDS)))

    def _deletion(self) -> StopRequested | None:
        if self.pod.metadata.deletion_timestamp is None:
            return None
        return StopRequested(time.time() + grace_seconds(self.pod))

    # ---- the loop ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the pod until it left the API and nothing of it is left here."""
        try:
            self._begin()
            while not await self._is_finished():
                await self._wait()
        finally:
            self.settled.set()
            if self._volume_task is not None:
                self._volume_task.cancel()
            if self.runner is not None:
                self.runner.detach()
            self._services.names.remove_local(self.pod)

    def _begin(self) -> None:
        if self.record is None or self.runner is None:
            return
        self._services.names.add_local(self.pod, self.record.pod_ip, self.folder.hosts)
        self._handle(SandboxReady())
        self.state = self.runner.restore(self._rules, self.state)
        deletion = self._deletion()
        if deletion is not None:
            self._handle(deletion)

    async def _is_finished(self) -> bool:
        """Do everything there is to do now; True when the worker is over."""
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())
        self._handle(Tick())
        if not self._is_gone:
            await self._publish()
        if self.state.final is not None:
            return await self._end()
        self._prepare_volumes()
        await self._refresh_volumes()
        self._act(decide(self._rules, self.state, time.time()))
        return False

    def _handle(self, event: Event) -> None:
        before = self.state
        self.state = handle(self._rules, self.state, event, time.time())
        for name, container in self.state.containers.items():
            waiting = container.state
            if isinstance(waiting, Waiting) and waiting.reason == BACK_OFF and before.containers[name] != container:
                note = f"Back-off restarting failed container {name} in pod {self.pod.metadata.name}"
                self._services.events(self.pod)("BackOff", note, kind="Warning")

    def _act(self, decision: Decision) -> None:
        if self.runner is None:
            return
        for name in decision.starts:
            self._handle(self.runner.start(name, self.state.containers[name].attempt + 1))
        for name, why in decision.stops.items():
            deadline = self.state.stop.deadline if self.state.stop else time.time() + grace_seconds(self.pod)
            self._handle(self.runner.stop(name, why, deadline))
        if self.state.stop is not None and time.time() >= self.state.stop.deadline:
            self.runner.kill_all()

    async def _wait(self) -> None:
        now = time.time()
        times = [decide(self._rules, self.state, now).wake_at, self._publish_at or None]
        if self.state.stop is not None and self.state.final is None:
            overdue = now >= self.state.stop.deadline
            times.append(now + KILL_REPEAT_SECONDS if overdue else self.state.stop.deadline)
        wake_at = min((at for at in times if at is not None), default=None)
        if not self._inbox.empty():
            return
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - now)):
                self._handle(await self._inbox.get())
        except TimeoutError:
            return

    # ---- volumes -----------------------------------------------------------------------------

    def _prepare_volumes(self) -> None:
        if self.record is None or self._volume_task is not None or self.state.stop is not None:
            return
        self._volume_task = asyncio.create_task(self._volumes(), name=f"volumes {self.pod.metadata.name}")

    async def _refresh_volumes(self) -> None:
        """Let the files of downward volumes follow labels and annotations, as a kubelet does."""
        fields = _fields_of(self.pod)
        if self._made_volumes is None or fields == self._written_fields or self._is_gone:
            return
        self._written_fields = fields
        try:
            await self._made_volumes.refresh(self.pod)
        except VolumeError as error:
            self._services.events(self.pod)("FailedMount", str(error), kind="Warning")

    async def _volumes(self) -> None:
        assert self.runner is not None
        self._written_fields = _fields_of(self.pod)
        setup = VolumeSetup(
            self._services.client,
            self._services.mounts,
            self.folder,
            self.pod,
            facts=self.runner.place.facts,
            mount_wait_seconds=self._services.mount_wait_seconds,
        )
        wait_seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                self.runner.volumes = await setup.prepare()
                break
            except VolumeError as error:
                self._services.events(self.pod)("FailedMount", str(error), kind="Warning")
            except KubeError as error:
                _log.warning("volume_setup_failed", pod=self.pod.metadata.name, error=str(error))
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, MAX_RETRY_SECONDS)
        self._made_volumes = setup
        self.send(VolumesReady())

    # ---- the API -----------------------------------------------------------------------------

    async def _publish(self) -> None:
        now = time.time()
        if now < self._publish_at:
            return
        status = pod_status.build(
            self._rules,
            self.state,
            conditions=self._conditions,
            pod_ip=self.record.pod_ip if self.record else "",
            host_ip=HOST_IP,
            now=now,
        )
        if self._published is not None and _without_times(status) == _without_times(self._published):
            self._publish_at = 0.0
            return
        if self.pod.status.phase in (SUCCEEDED, FAILED):
            return
        body = {"metadata": {"uid": self.pod.metadata.uid}, "status": status}
        meta = self.pod.metadata
        try:
            answer = await self._services.client.patch(
                PODS, meta.name, body, meta.namespace, kind=PatchKind.STRATEGIC, subresource="status"
            )
        except (NotFound, Conflict):
            # Gone, or another pod of that name: the watch will tell.
            self._publish_at = 0.0
        except KubeError as error:
            metrics.STATUS_WRITES.labels("failed").inc()
            _log.warning("status_write_failed", pod=meta.name, namespace=meta.namespace, error=str(error))
            self._publish_at = time.time() + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, MAX_RETRY_SECONDS)
            return
        else:
            # The watch may still have an older status in store, with older transition times.
            self._conditions = msgspec.convert(answer["status"].get("conditions") or [], list[Condition])
        metrics.STATUS_WRITES.labels("ok").inc()
        self._published = status
        if self.state.final is not None:
            self.settled.set()
        self._publish_at = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS

    async def _end(self) -> bool:
        """Tidy up after the last process; True once nothing is left to do for the pod."""
        if self._volume_task is not None:
            self._volume_task.cancel()
        if not self._cleaned:
            await asyncio.to_thread(self.folder.remove_volumes)
            self._cleaned = True
        if self._is_gone:
            await asyncio.to_thread(self.folder.remove)
            return True
        if self.pod.metadata.deletion_timestamp is None or time.time() < self._publish_at:
            return False
        meta = self.pod.metadata
        try:
            await self._services.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period_seconds=0)
        except (NotFound, Conflict):
            _log.debug("pod_already_gone", pod=meta.name)
        except KubeError as error:
            _log.warning("pod_delete_failed", pod=meta.name, namespace=meta.namespace, error=str(error))
            self._publish_at = time.time() + self._retry_seconds
            return False
        await asyncio.to_thread(self.folder.remove)
        return True


def _fields_of(pod: Pod) -> tuple[dict[str, str], dict[str, str]]:
    return dict(pod.metadata.labels), dict(pod.metadata.annotations)


def _without_times(status: dict[str, Any]) -> dict[str, Any]:
    """What a write is worth: transition times of unchanged conditions are not."""
    conditions = [
        {key: value for key, value in condition.items() if key != "lastTransitionTime"}
        for condition in status.get("conditions", ())
    ]
    return {**status, "conditions": conditions}
