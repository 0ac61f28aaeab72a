"""Volumes before pods: carries out a bind's plan, waits until every claim is bound, then hands the bind on.

Owns the calls to volumes and claims and the wait (VolumeBinding's PreBind: volumebinding/binder.go BindPodVolumes).
Decides nothing. Invariants: every bind given is handed on once, or ends in one BindFailed; a write carries the
resourceVersion of what was read, so it never overwrites a volume somebody else took meanwhile; nothing is taken back
on failure, as upstream: a volume given to the claim, or a node selected for it, stays for the next try.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from scheduler.core.decisions import Bind
from scheduler.core.events import BindFailed, Event
from scheduler.core.pod_volumes import ClaimKey, VolumePlan
from scheduler.core.volume_table import BOUND_ANNOTATION, SELECTED_NODE_ANNOTATION
from scheduler.shell import metrics

_log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5
# The volume controller frees the volume again when it made the binding itself (AnnBoundByController).
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"


class _NotDoneError(Exception):
    """Why a pod's volumes cannot be had there."""


class VolumeBinder:
    """Performs the volume plans of Bind decisions."""

    def __init__(
        self,
        client: KubeClient,
        *,
        submit: Callable[[Bind], None],
        may_bind: Callable[[str], bool],
        report: Callable[[Bind, Event], None],
        bind_seconds: float,
    ) -> None:
        """`submit` takes binds whose volumes are ready, `report` those that failed; neither may block."""
        self._client = client
        self._submit = submit
        self._may_bind = may_bind
        self._report = report
        self._bind_seconds = bind_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, bind: Bind, plan: VolumePlan) -> None:
        """Take a bind; returns at once."""
        task = asyncio.get_running_loop().create_task(self._carry_out(bind, plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up waiting; the next leader tries those pods again, on the nodes their claims name already."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _carry_out(self, bind: Bind, plan: VolumePlan) -> None:
        failed: str | None = "the scheduler stopped"
        is_error = False
        try:
            async with asyncio.timeout(self._bind_seconds):
                uids = await self._begin(plan)
                while not await self._are_bound(bind, plan, uids):  # noqa: ASYNC110 - what others do
                    await asyncio.sleep(LOOK_SECONDS)
            failed = None
        except TimeoutError:
            failed, is_error = f"its volumes were not bound within {self._bind_seconds:.0f} s", True
        except (_NotDoneError, KubeError) as error:
            failed, is_error = str(error), True
        finally:
            if failed is None:
                metrics.VOLUME_BINDS.labels("bound").inc()
                self._submit(bind)
            else:
                metrics.VOLUME_BINDS.labels("failed").inc()
                _log.warning("volumes_not_bound", pod=f"{bind.namespace}/{bind.name}", node=plan.node, cause=failed)
                event = BindFailed(bind.uid, bind.node, f"binding volumes: {failed}", is_error=is_error)
                self._report(bind, event)

    async def _begin(self, plan: VolumePlan) -> dict[ClaimKey, str]:
        """Give volumes to claims and select the node of others; returns the uids of all claims of the plan."""
        if plan.conflict is not None:
            raise _NotDoneError(plan.conflict)
        uids: dict[ClaimKey, str] = {}
        for volume, key in plan.bindings:
            claim = await self._claim(key)
            uids[key] = claim["metadata"]["uid"]
            await self._give(volume, claim)
        for key in plan.provisions:
            claim = await self._claim(key)
            uids[key] = claim["metadata"]["uid"]
            if claim["metadata"].get("annotations", {}).get(SELECTED_NODE_ANNOTATION) == plan.node:
                continue
            metadata = {
                "resourceVersion": claim["metadata"]["resourceVersion"],
                "annotations": {SELECTED_NODE_ANNOTATION: plan.node},
            }
            await self._client.patch(PERSISTENT_VOLUME_CLAIMS, key[1], {"metadata": metadata}, key[0])
        return uids

    async def _give(self, name: str, claim: dict[str, Any]) -> None:
        volume = await self._client.get(PERSISTENT_VOLUMES, name)
        held = volume["spec"].get("claimRef")
        meta = claim["metadata"]
        if held is not None and (held.get("namespace"), held.get("name")) != (meta["namespace"], meta["name"]):
            raise _NotDoneError(
                f"volume {name} was taken by claim {held.get('namespace')}/{held.get('name')} meanwhile"
            )
        if held is not None and held.get("uid") == meta["uid"]:
            return
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        }
        metadata: dict[str, Any] = {"resourceVersion": volume["metadata"]["resourceVersion"]}
        if held is None:
            metadata["annotations"] = {BOUND_BY_CONTROLLER: "yes"}
        await self._client.patch(PERSISTENT_VOLUMES, name, {"metadata": metadata, "spec": {"claimRef": reference}})

    async def _are_bound(self, bind: Bind, plan: VolumePlan, uids: dict[ClaimKey, str]) -> bool:
        """Whether every claim is bound by now. Raises _NotDoneError when that will not happen here."""
        if not self._may_bind(bind.uid):
            raise _NotDoneError("the pod is gone, or its room was taken")
        for key in plan.provisions:
            claim = await self._claim(key)
            if claim["metadata"]["uid"] != uids[key]:
                raise _NotDoneError(f"claim {key[0]}/{key[1]} was made anew")
            # A provisioner that fails takes the node away: elsewhere it may work.
            if claim["metadata"].get("annotations", {}).get(SELECTED_NODE_ANNOTATION) != plan.node:
                raise _NotDoneError(f"claim {key[0]}/{key[1]} could not be provisioned on {plan.node}")
            if not _is_bound(claim):
                return False
        for volume, key in plan.bindings:
            claim = await self._claim(key)
            if _is_bound(claim):
                continue
            given = await self._client.get(PERSISTENT_VOLUMES, volume)
            if (given["spec"].get("claimRef") or {}).get("uid") != uids[key]:
                raise _NotDoneError(f"volume {volume} was taken from claim {key[0]}/{key[1]}")
            return False
        return True

    async def _claim(self, key: ClaimKey) -> dict[str, Any]:
        try:
            return await self._client.get(PERSISTENT_VOLUME_CLAIMS, key[1], key[0])
        except NotFound:
            raise _NotDoneError(f"claim {key[0]}/{key[1]} is gone") from None


def _is_bound(claim: dict[str, Any]) -> bool:
    return bool(claim["spec"].get("volumeName")) and BOUND_ANNOTATION in claim["metadata"].get("annotations", {})
