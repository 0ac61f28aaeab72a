"""The DaemonSets of CacheRuntimes' own nodes: reads what there is, and applies what `pool_plan.py` says.

Owns the calls for them. Everything is read anew each turn, and nothing is taken from what a watch has told so far:
what was not listed yet must not look like what is gone. Invariants: an apply that changes nothing is not sent again and
again; what somebody else changed in one is changed back.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.conditions import Condition, find_condition
from cacheruntime.controller import pool_plan, pool_workers
from cacheruntime.controller.objects import FIELD_MANAGER, Key
from cacheruntime.controller.pool_plan import Seen
from cacheruntime.controller.pool_workers import Body
from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound
from kube.resources import CACHE_RUNTIMES, DAEMON_SETS, NODES

log = structlog.get_logger()


class PoolWorkloads:
    """The workers' DaemonSets beside the installed one, `namespace`/`name`; None where workers are no pods."""

    def __init__(self, client: KubeClient, installed: tuple[str, str] | None) -> None:
        self._client = client
        self._installed = installed
        self._conditions: dict[Key, Condition] = {}
        self._problems: dict[str, str] = {}
        """What the last turn said, by label."""
        self._failed = ""
        self._applied: dict[str, tuple[Body, str, int]] = {}
        """By label: what was applied last, and the uid and generation of what came of it."""

    def condition(self, runtime: CacheRuntime) -> Condition | None:
        """Return what a CacheRuntime is to be told of its workers; None when it asks for none."""
        if not pool_workers.asks_for_workers(runtime):
            return None
        if self._installed is None:
            return pool_plan.not_pods()
        if self._failed:
            return pool_plan.unknown(self._failed)
        told = self._conditions.get((runtime.metadata.namespace, runtime.metadata.name))
        old = None if runtime.status is None else find_condition(runtime.status.conditions, pool_plan.APPLIED)
        return told or old  # the first turn is not over, or it came after the last one

    async def turn(self) -> None:
        """Look at everything, and bring the DaemonSets in line."""
        if self._installed is None:
            return
        try:
            await self._turn(*self._installed)
        except KubeError as error:
            self._failed = str(error)
            raise
        self._failed = ""

    async def _turn(self, namespace: str, name: str) -> None:
        seen, live = await self._see(namespace, name)
        plan = pool_plan.plan(seen, f"{namespace}/{name}")
        problems = dict(plan.problems)
        for label, body in plan.apply.items():
            try:
                live[label] = await self._apply(label, body, live.get(label))
            except (Invalid, Forbidden, Conflict) as error:
                problems[label] = pool_plan.refused(str(error))
        for label, problem in problems.items():
            if self._problems.get(label) != problem:
                log.error("a pool's workers cannot be as its CacheRuntime says", pool=label, error=problem[:500])
        self._problems = problems
        for gone in plan.delete:
            await self._delete(gone)
        self._conditions = {
            (item.metadata.namespace, item.metadata.name): pool_plan.condition(
                item,
                live.get(label) if label in seen.labels else None,
                problems.get(label),
            )
            for item in seen.runtimes
            if pool_workers.asks_for_workers(item)
            for label in (pool_workers.label_of(item),)
        }

    async def _see(self, namespace: str, name: str) -> tuple[Seen, dict[str, Body]]:
        nodes = (await self._client.list(NODES, label_selector=names.POOL_LABEL)).items
        sets = (await self._client.list(DAEMON_SETS, namespace)).items
        runtimes, unreadable = _parsed((await self._client.list(CACHE_RUNTIMES)).items)
        pools = [one for one in sets if one["metadata"]["name"].startswith(pool_workers.NAME_PREFIX)]
        pools = [one for one in pools if names.POOL_LABEL in (one["metadata"].get("labels") or {})]
        seen = Seen(
            installed=next((one for one in sets if one["metadata"]["name"] == name), None),
            pools=pools,
            runtimes=runtimes,
            unreadable=unreadable,
            labels={node["metadata"]["labels"][names.POOL_LABEL] for node in nodes},
        )
        return seen, {one["metadata"]["labels"][names.POOL_LABEL]: one for one in pools}

    async def _apply(self, label: str, body: Body, live: Body | None) -> Body:
        """Apply it unless that was done and nobody has changed its spec since; return what there is."""
        if live is not None and self._applied.get(label) == (body, *_version(live)):
            return live
        meta = body["metadata"]
        stored = await self._client.patch(
            DAEMON_SETS,
            meta["name"],
            body,
            meta["namespace"],
            kind=PatchKind.APPLY,
            field_manager=FIELD_MANAGER,
            force=True,
        )
        if live is None or _version(live) != _version(stored):
            log.info("a pool's workers change", pool=label, daemonset=meta["name"])
        self._applied[label] = (body, *_version(stored))
        return stored

    async def _delete(self, gone: Body) -> None:
        meta = gone["metadata"]
        log.info("a pool has no nodes any more", pool=meta["labels"][names.POOL_LABEL], daemonset=meta["name"])
        self._applied.pop(meta["labels"][names.POOL_LABEL], None)
        try:
            await self._client.delete(DAEMON_SETS, meta["name"], meta["namespace"], uid=meta["uid"])
        except (NotFound, Conflict):
            return  # it went, or is another one now: the next turn looks again


def _version(live: Mapping[str, Any]) -> tuple[str, int]:
    return str(live["metadata"]["uid"]), int(live["metadata"]["generation"])


def _parsed(bodies: Sequence[Body]) -> tuple[list[CacheRuntime], set[str]]:
    found: list[CacheRuntime] = []
    unreadable: set[str] = set()
    for body in bodies:
        try:
            found.append(CacheRuntime.model_validate(body))
        except ValidationError:
            unreadable.add(f"{body['metadata']['namespace']}.{body['metadata']['name']}")
    return found, unreadable
