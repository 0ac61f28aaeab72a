"""One scheduler process on one world: a real API server between it and the event engine's model.

Owns the run: it fills the cluster, lets time go (kwok/clock.py), tells the simulation what was bound, the API server
what the simulation says, and the judge of invariants what the watches show. Decides nothing about placement. Ends when
all jobs have, at the horizon, or when nothing can happen any more.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import structlog

from kube.client import KubeClient
from kube.config import load_config
from kube.gang_objects import PodGroup
from kube.objects import Node, Pod
from kube.resources import NODES, POD_GROUPS, PODS, Resource
from kube.store import Store
from kube.watch import Change, ChangeKind, WatchBatch, list_watch
from simulations.engine.invariants import check_reason
from simulations.engine.ledger import InvariantViolation
from simulations.engine.model import World
from simulations.engine.outcome import Outcome
from simulations.engine.policy import Gangs, Policy
from simulations.engine.simulation import Progress, Simulation
from simulations.errors import ScenarioError
from simulations.kwok import objects
from simulations.kwok.clock import WorkClock
from simulations.kwok.driver import Busy, KwokDriver
from simulations.kwok.invariants import WatchedCluster, reason
from simulations.kwok.objects import Shape
from simulations.kwok.process import Scheduler, SchedulerDied, job_controller, log_tail, running
from simulations.kwok.writer import Writer

# A gang may be bound in part while its binds are under way, and until Headrace takes one that fell apart back (30 s).
GANG_SECONDS = 60.0
# No condition, no bind: longer than any backoff (10 s) and a scheduler's start on a busy machine.
SILENT_SECONDS = 90.0
# A pod that fits is bound once its backoff (10 s at most) is over.
PATIENCE_SECONDS = 45.0
LOOK_SECONDS = 0.25
_log = structlog.get_logger("simulations.kwok")
WATCHED: tuple[tuple[Resource, Any], ...] = ((NODES, Node), (POD_GROUPS, PodGroup), (PODS, Pod))


@dataclass(frozen=True, slots=True)
class Contender:
    """A scheduler under test. `policy` says what its pods are told, and whether it promises whole gangs."""

    scheduler: Scheduler
    policy: Policy
    shape: Shape = Shape.PODS


async def follow(
    world: World, contender: Contender, kubeconfig: Path, folder: Path, *, price: float, progress: Progress | None
) -> Outcome:
    """Run it on an empty cluster with our CRDs and kwok; the outcome as the event engine gives it.

    Raises InvariantViolation, SchedulerDied, ScenarioError when the cluster does not answer, and kube's errors."""
    config = load_config(kubeconfig)
    async with KubeClient(config, user_agent="headrace-sim") as client:
        writer = Writer(client)
        run = _Run(world, contender, await _fill(writer, world), writer, price)
        is_controlled = contender.shape is Shape.TRAINING_JOBS
        programs = [contender.scheduler, *([job_controller()] if is_controlled else [])]
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(writer.run())]
                helpers += [tasks.create_task(run.watch(client, resource, kind)) for resource, kind in WATCHED]
                await run.synced()
                async with contextlib.AsyncExitStack() as stack:
                    for program in programs:
                        run.processes.append(
                            (program, await stack.enter_async_context(running(program, kubeconfig, folder)))
                        )
                    found = await run.go(progress)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as group:
            # The first failure; what it cancelled says nothing more.
            cause = group.exceptions[0]
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            if isinstance(cause, SchedulerDied):
                logs = "\n".join(log_tail(program, folder) for program in programs)
                raise SchedulerDied(f"{cause}; the end of its log:\n{logs}") from None
            raise cause from None
    return found


async def _fill(writer: Writer, world: World) -> dict[str, str]:
    """Nodes, datasets and empty NodeCaches; returns the datasets' uids."""
    await writer.write([objects.priority_class()])
    pairs = [objects.dataset(spec) for spec in world.datasets]
    made = await writer.write([create for create, _ in pairs])
    await writer.write([status for _, status in pairs])
    await writer.write([objects.node(world, index) for index in range(len(world.nodes))])
    await writer.write([objects.node_cache(world, index) for index in range(len(world.nodes))])
    return {body["metadata"]["name"]: body["metadata"]["uid"] for body in made}


class _Run:
    def __init__(self, world: World, contender: Contender, uids: dict[str, str], writer: Writer, price: float) -> None:
        policy = contender.policy
        self._contender, self._writer = contender, writer
        self.processes: list[tuple[Scheduler, asyncio.subprocess.Process]] = []

        def drive(world: World, cache: Any) -> KwokDriver:
            name = contender.scheduler.pod_scheduler_name
            return KwokDriver(
                world, cache, scheduler=name, gangs=policy.gangs, dataset_uids=uids, shape=contender.shape
            )

        # Pods leave their nodes when kwok ends them, one after the other anyway.
        world = replace(world, end_spread_seconds=0.0)
        self._sim = Simulation(world, policy, price_per_gib=price, drive=drive)
        assert isinstance(self._sim.driver, KwokDriver)
        self._driver = self._sim.driver
        self._judge = WatchedCluster(
            gangs_are_whole=policy.gangs is Gangs.WHOLE, gang_seconds=GANG_SECONDS, silent_seconds=SILENT_SECONDS
        )
        self._news = asyncio.Event()
        writer.on_idle = self._news.set
        self._inbox: list[Change[Any]] = []
        self._listed: set[str] = set()
        self._busy: Busy | None = None
        self._began = self._busy_since = self._looked_at = time.monotonic()
        self._probe_is_told = False
        self._waited = dict.fromkeys(Busy, 0.0)

    async def watch(self, client: KubeClient, resource: Resource, kind: type[Any]) -> None:
        """Follow a kind for ever."""
        store: Store[Any] = Store()
        batch: WatchBatch[Any]
        async for batch in list_watch(client, resource, kind, jitter=Random(0)):
            self._inbox += store.apply(batch)
            self._listed.add(resource.plural)
            self._news.set()

    async def synced(self) -> None:
        """All kinds were listed once."""
        while len(self._listed) < len(WATCHED):
            await self._wait(LOOK_SECONDS)
            self._news.clear()

    async def go(self, progress: Progress | None) -> Outcome:
        """Let time go until nothing happens any more."""
        sim, driver, horizon = self._sim, self._driver, self._sim.world.horizon_seconds
        # All caches tell what they hold at the start, empty ones too: that a worker is there at all.
        driver.report(range(len(sim.world.nodes)))
        self._writer.put(driver.take_writes())
        await self._see_probe([objects.probe_pod(self._contender.scheduler.pod_scheduler_name)], is_there=True)
        await self._see_probe([objects.pod_goes(objects.PROBE)], is_there=False)
        began = time.monotonic()
        clock = WorkClock(began)
        while sim.unfinished:
            wall = time.monotonic()
            self._take_in(wall)
            now = clock.now(wall)
            if not self._catch_up(min(now, horizon)) or now > horizon:
                break
            self._writer.put(driver.take_writes())
            if progress is not None:
                progress(len(sim.world.jobs) - sim.unfinished, len(sim.world.jobs), now)
            due = sim.next_at()
            if self._is_at_rest(wall):
                if due > horizon or sim.is_stuck(due):
                    break
                driver.rests = True
                sim.check_reasons()
                driver.rests = False
                clock.jump(due, wall)
                # Others on this loop are to go on too.
                await asyncio.sleep(0)
                continue
            await self._wait(max(0.0, min(LOOK_SECONDS, due - now)))
        found = sim.outcome()
        wall = time.monotonic()
        more = {
            "wall_seconds": wall - began,
            "skipped_seconds": clock.skipped,
            "binds_seen": float(self._judge.binds),
            "writes": float(self._writer.written),
        }
        more |= {f"waited_{cause.name.lower()}_seconds": seconds for cause, seconds in self._waited.items()}
        return replace(found, figures={**found.figures, **more})

    async def _see_probe(self, writes: list[objects.Write], *, is_there: bool) -> None:
        """Write, and wait until the probe was told why it waits, or is gone: a scheduler's start takes no simulated
        time. The judge says when it is too long."""
        self._writer.put([writes])
        while self._probe_is_told is not is_there:
            self._take_in(time.monotonic())
            await self._wait(LOOK_SECONDS)

    def _take_in(self, wall: float) -> None:
        for program, process in self.processes:
            if process.returncode is not None:
                raise SchedulerDied(f"{program.name} ended with code {process.returncode}")
        since = wall - self._began
        inbox, self._inbox = self._inbox, []
        self._news.clear()
        if inbox:
            self._busy_since = wall
        for change in inbox:
            item = change.object
            is_gone = change.kind is ChangeKind.DELETED
            if isinstance(item, Pod):
                self._judge.pod(item, since, is_gone=is_gone)
                self._driver.seen(item, is_gone=is_gone)
                if item.metadata.name == objects.PROBE:
                    self._probe_is_told = bool(reason(item)) and not is_gone
            elif isinstance(item, PodGroup):
                self._judge.group(item, since)
            elif not is_gone:
                self._judge.node(item)
        self._judge.look(since)

    def _catch_up(self, now: float) -> bool:
        """Everything due by now, each at its time; False when all jobs are finished."""
        sim, driver = self._sim, self._driver
        while sim.unfinished and (at := sim.next_at()) <= now:
            sim.step(max(at, sim.heap.now))
        if driver.has_news:
            sim.step(max(now, sim.heap.now))
        for number, cause in list(driver.broken.items()):
            sim.account.faults["attempts_broken"] += 1
            _log.info("attempt_broken", job=sim.world.jobs[number].name, cause=cause)
            sim.stop(number, saves=False)
        return bool(sim.unfinished)

    def _is_at_rest(self, wall: float) -> bool:
        """Whether nothing happens before the next event. Raises when what is waited for does not come."""
        sim = self._sim
        busy = Busy.UNSEEN if not self._writer.is_idle else self._driver.busy(sim.waiting, sim.ledger)
        if self._busy is not None:
            self._waited[self._busy] += wall - self._looked_at
        self._looked_at = wall
        if busy is not self._busy:
            self._busy, self._busy_since = busy, wall
        if busy is None or wall - self._busy_since < PATIENCE_SECONDS:
            return busy is None
        if busy is Busy.UNSEEN:
            raise ScenarioError(f"after {PATIENCE_SECONDS:.0f} s {busy}; look at the logs of kwok and kube-apiserver")
        if busy is Busy.FITS:
            for attempt in sim.waiting.values():
                told, _ = self._driver.reason_of(attempt)
                check_reason(attempt, told, self._contender.policy.gangs, sim.ledger, held=None, now=sim.heap.now)
            raise InvariantViolation(f"at {sim.heap.now:.1f} s {busy}, and is not bound for {PATIENCE_SECONDS:.0f} s")
        return False  # the judge says when it is too long

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
