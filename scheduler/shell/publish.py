"""What users read, written off the bind path: conditions, events, PodGroup statuses, and deletions of undone binds.

Owns the queue of things to write. Invariants: of several conditions for one pod only the newest is written;
a condition that is being written is finished before the pod's bind is sent, so that it cannot overwrite
PodScheduled=True; writes about one object are never under way twice; deletions go first, failures are
reported back; PodGroups' statuses give way to binds, but not for longer than PATIENCE_SECONDS.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, KubeError, NotFound
from kube.events import EventKind, EventRecorder
from kube.identity import ObjectRef
from kube.resources import PODS, Resource
from scheduler.core.decisions import SCHEDULER_ERROR, Bind, DeletePod, Explain, GroupStatus, Nominate
from scheduler.core.events import DeleteFailed, Event
from scheduler.shell import group_status, metrics

_log = structlog.get_logger(__name__)
Work = Explain | GroupStatus | DeletePod | Nominate
# A PodGroup's status waits so long for binds: five hundred gangs have a thousand states on their way to Scheduled.
PATIENCE_SECONDS = 1.0
LOOK_SECONDS = 0.05


class Publisher:
    """Performs everything that is not a bind."""

    def __init__(
        self,
        client: KubeClient,
        recorder: EventRecorder,
        workers: int,
        report: Callable[[Event], None],
        *,
        is_busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`report` takes DeleteFailed; it must not block. `is_busy`: binds wait for a free call, so that what may
        wait for them does."""
        self._client = client
        self._recorder = recorder
        self._workers = workers
        self._report = report
        self._group_resources = dict(group_status.RESOURCES)
        self._urgent: OrderedDict[str, Work] = OrderedDict()
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self._patient: OrderedDict[str, tuple[Work, float]] = OrderedDict()  # with when each came in
        self._is_busy = is_busy
        self._clock = clock
        self._writing: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def found(self, resource: Resource) -> None:
        """Take the version of a PodGroup API that is served."""
        api = group_status.API_OF.get(resource.group)
        if api is not None and resource.plural == group_status.RESOURCES[api].plural:
            self._group_resources[api] = resource

    def submit(self, work: Work) -> None:
        """Take something to write; returns at once."""
        if isinstance(work, DeletePod):
            self._urgent[f"delete:{work.uid}"] = work
            self._event(work, "GangUndone", work.note, is_warning=True)
        elif isinstance(work, Explain):
            self._waiting[work.uid] = work
            if work.with_event:
                self._event(work, "FailedScheduling", work.message, work.profile, is_warning=True)
        elif isinstance(work, Nominate):
            self._waiting[f"nominate:{work.uid}"] = work
        else:
            key = f"group:{work.api}:{work.namespace}/{work.name}"
            # The newest state is written in place of those before it, which were never seen.
            _, since = self._patient.get(key, (work, self._clock()))
            self._patient[key] = (work, since)
        self._idle.clear()
        self._wake.set()

    def bound(self, bind: Bind) -> None:
        """Tell that a pod was bound."""
        self._event(bind, "Scheduled", bind.note, bind.profile)

    def before_bind(self, uid: str) -> Awaitable[None] | None:
        """Drop the pod's waiting condition and nomination; returns their writes in flight, to be waited for."""
        under_way = []
        for key in (uid, f"nominate:{uid}"):
            self._waiting.pop(key, None)
            writing = self._writing.get(key)
            if writing is not None:
                under_way.append(writing)
        return asyncio.shield(_all(under_way)) if under_way else None

    async def join(self) -> None:
        """Wait until nothing waits and nothing is being written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                await self._wait()
                continue
            key, work = taken
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writing[key] = written
            try:
                await self._write(work)
            finally:
                written.set_result(None)
                del self._writing[key]
                # What waited for this key to be written may go now.
                self._wake.set()

    async def _wait(self) -> None:
        self._wake.clear()
        if not (self._writing or self._urgent or self._waiting or self._patient):
            self._idle.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS if self._patient else None):
                await self._wake.wait()

    def _take(self) -> tuple[str, Work] | None:
        """The next thing whose key is not being written: two writes of one key could land in any order."""
        for source in (self._urgent, self._waiting):
            for key in source:
                if key not in self._writing:
                    return key, source.pop(key)
        is_busy, now = self._is_busy(), self._clock()
        for key, (work, since) in self._patient.items():
            if key not in self._writing and (not is_busy or now - since >= PATIENCE_SECONDS):
                del self._patient[key]
                return key, work
        return None

    async def _write(self, work: Work) -> None:
        if isinstance(work, DeletePod):
            await self._delete(work)
        elif isinstance(work, Explain):
            await self._condition(work)
        elif isinstance(work, Nominate):
            await self._nominate(work)
        else:
            await self._group(work)

    async def _condition(self, work: Explain) -> None:
        condition: dict[str, Any] = {
            "type": "PodScheduled",
            "status": "False",
            "reason": work.reason,
            "message": work.message,
        }
        if work.generation:
            condition["observedGeneration"] = work.generation
        if work.is_first:
            condition["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        version = ""
        if work.reason == SCHEDULER_ERROR:
            # The bind may have been applied though its answer was an error: PodScheduled is True then.
            version = await self._unbound_version(work)
            if not version:
                metrics.PUBLISH.labels("condition", "skipped").inc()
                return
        await self._pod_status("condition", work, {"conditions": [condition]}, version)

    async def _unbound_version(self, work: Explain) -> str:
        """The resourceVersion of a pod that has no node; "" when it has one, is gone, or cannot be read."""
        try:
            pod = await self._client.get(PODS, work.name, work.namespace)
        except KubeError:
            return ""
        if pod["metadata"]["uid"] != work.uid or pod["spec"].get("nodeName"):
            return ""
        return str(pod["metadata"]["resourceVersion"])

    async def _nominate(self, work: Nominate) -> None:
        await self._pod_status("nomination", work, {"nominatedNodeName": work.node or None})

    async def _pod_status(self, what: str, work: Explain | Nominate, status: dict[str, Any], version: str = "") -> None:
        metadata = {"uid": work.uid} | ({"resourceVersion": version} if version else {})
        body = {"metadata": metadata, "status": status}
        try:
            await self._client.patch(
                PODS, work.name, body, work.namespace, kind=PatchKind.STRATEGIC, subresource="status"
            )
        except (NotFound, Conflict):
            metrics.PUBLISH.labels(what, "skipped").inc()
        except KubeError as error:
            metrics.PUBLISH.labels(what, "failed").inc()
            _log.warning(f"{what}_not_written", pod=f"{work.namespace}/{work.name}", error=str(error))
        else:
            metrics.PUBLISH.labels(what, "written").inc()

    async def _group(self, work: GroupStatus) -> None:
        resource = self._group_resources[work.api]
        kind, body = group_status.patch(work, resource, datetime.now(UTC))
        try:
            await self._client.patch(resource, work.name, body, work.namespace, kind=kind, subresource="status")
        except NotFound:
            metrics.PUBLISH.labels("group", "skipped").inc()
        except KubeError as error:
            metrics.PUBLISH.labels("group", "failed").inc()
            _log.warning("group_status_not_written", group=f"{work.namespace}/{work.name}", error=str(error))
        else:
            metrics.PUBLISH.labels("group", "written").inc()

    async def _delete(self, work: DeletePod) -> None:
        try:
            await self._client.delete(PODS, work.name, work.namespace, uid=work.uid)
        except (NotFound, Conflict):
            metrics.PUBLISH.labels("delete", "skipped").inc()
        except KubeError as error:
            metrics.PUBLISH.labels("delete", "failed").inc()
            _log.warning("gang_member_not_deleted", pod=f"{work.namespace}/{work.name}", error=str(error))
            self._report(DeleteFailed(work.uid))
        else:
            metrics.PUBLISH.labels("delete", "written").inc()
            metrics.GANGS_UNDONE.inc()
            _log.info("gang_member_deleted", pod=f"{work.namespace}/{work.name}", cause=work.note)

    def _event(
        self, about: Bind | Explain | DeletePod, reason: str, note: str, profile: str = "", *, is_warning: bool = False
    ) -> None:
        """Of the pod's own schedulerName, as kube-scheduler's profiles are; "" is the main one."""
        action = "Binding" if reason == "Scheduled" else "Scheduling"
        ref = ObjectRef(api_version="v1", kind="Pod", namespace=about.namespace, name=about.name, uid=about.uid)
        kind: EventKind = "Warning" if is_warning else "Normal"
        self._recorder.record(ref, reason, note, kind=kind, action=action, component=profile)


async def _all(writes: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.wait(writes)
