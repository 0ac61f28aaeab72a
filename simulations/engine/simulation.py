"""One run: a world, a policy, a seed. Events in order of time; a driver says what is bound, this follows.

Owns the loop and the life of a job: waiting → running → finished, or back to waiting when its nodes go
(engine/faults.py). The driver is the real core in this process, or what stands for schedulers behind an API server;
who has the second one calls `step` as that cluster's time goes. Invariants: see engine/invariants.py; with the core the
same world, policy and seed give the same outcome byte for byte. A run ends when every job is finished, at the horizon,
or when nothing can happen any more (`is_stuck`); then every job that still waits must have a true reason.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from simulations.engine.cache import Cache
from simulations.engine.clock import NEVER, EventHeap
from simulations.engine.core_driver import CoreDriver
from simulations.engine.driver import Attempt, Driver, Ending
from simulations.engine.faults import Faults
from simulations.engine.invariants import A_TIME, asks_of, check_gang, check_reason, held_by_permits
from simulations.engine.jobs import Reading, Running, full_speed, goal_units, pods_by_node
from simulations.engine.layout import links_of, workers_of
from simulations.engine.ledger import Ledger
from simulations.engine.model import World
from simulations.engine.outcome import Account, Outcome, Picture, outcome, record
from simulations.engine.permits import PermitTimers
from simulations.engine.policy import Gangs, Policy
from simulations.engine.streams import Streams

STUCK_SECONDS = 3600.0
"""Longer than any backoff and wait in Permit: pods that hold each other's room have let go many times by then."""
PICTURES = 6
PICTURE_DATASETS, PICTURE_NODES = 12, 64
Progress = Callable[[int, int, float], None]


class Simulation:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        *,
        price_per_gib: float = 0.05,
        drive: Callable[[World, Cache], Driver] | None = None,
    ) -> None:
        """`drive` makes the driver; None: the core, with one generator for each use, so that a policy's draws do not
        shift what happens to nodes."""
        self.world, self.policy = world, policy
        self._price = price_per_gib
        self.heap = EventHeap()
        self.ledger = Ledger(world.nodes)
        workers = workers_of(world, policy.workers)
        self.cache = Cache(world.nodes, world.datasets, workers)
        self.links = links_of(world)
        self.streams = Streams(self.links.capacity)
        self.reading = Reading(world, self.links, self.cache)
        self.driver: Driver = (
            drive(world, self.cache)
            if drive is not None
            else CoreDriver(world, policy, self.cache, Random(f"{world.seed}/policy"), workers=workers)
        )
        self.account = Account([record(job) for job in world.jobs])
        self.waiting: dict[int, Attempt] = {}
        self.running: dict[int, Running] = {}
        self._job_of_slot: dict[int, int] = {}
        self._readers: list[dict[int, None]] = [{} for _ in world.datasets]  # running jobs, in order of their start
        self._done: list[float] = [0.0] * len(world.jobs)  # units that survive a restart
        self.checkpoint_at: list[dict[int, float]] = [{} for _ in world.jobs]
        self._asks = [asks_of(job) for job in world.jobs]
        self._starts = [0] * len(world.jobs)
        self.unfinished = len(world.jobs)
        self._last_submit = max((job.submit_seconds for job in world.jobs), default=0.0)
        self._last_change = max(self._last_submit, *(fault.is_over_at for fault in world.faults), 0.0)
        self._patience = patience(world)
        self._gpus = self.ledger.gpus()
        self._gang_idle = 0
        self._shared_at = -NEVER
        self._reported_at = -NEVER
        self._next_picture = 0.0
        self._checked = 0
        self._permits = PermitTimers(self.heap)
        self.faults = Faults(self, Random(f"{world.seed}/faults"))
        for number, job in enumerate(world.jobs):
            self.heap.push(job.submit_seconds, "submit", number)
        self._ends = Random(f"{world.seed}/ends")
        self._handlers: dict[str, Callable[[Any], None]] = {
            "submit": self.submit,
            "permit": self._permit_over,
            "gone": self._gone,
        }

    # ---- the loop ---------------------------------------------------------------------------

    def run(self, progress: Progress | None = None) -> Outcome:
        """Run to the end. `progress` hears jobs finished, jobs in all, and the virtual time."""
        horizon = self.world.horizon_seconds
        while self.unfinished and (at := self.next_at()) <= horizon and not self.is_stuck(at):
            self.step(at)
            if progress is not None:
                progress(len(self.world.jobs) - self.unfinished, len(self.world.jobs), at)
        if self.unfinished and horizon < at < NEVER:
            self._stop_at(horizon)
        self.check_reasons(all_of_them=True)
        return self.outcome()

    def is_stuck(self, at: float) -> bool:
        """Whether nothing but refusals would come from `at` on: nothing runs, comes or is planned, and all that wait
        were told why not long ago. Schedulers would go on trying for ever."""
        return at == NEVER or (not self.running and at > self._last_change + self._patience)

    def _stop_at(self, at: float) -> None:
        """Jobs run on until `at`, where nothing else happens; what they read and did by then counts."""
        self._advance(at)
        for job in self.running.values():
            assert job.segment is not None
            self._settle(job, job.segment.units - self.streams.left(job.slot, at))

    def step(self, at: float) -> None:
        """Let everything happen that is due at `at` seconds, which is `next_at` or, with news of the driver, before."""
        heap = self.heap
        self._advance(at)
        while (event := heap.pop_due()) is not None:
            kind, payload = event
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(payload)
            else:
                self.faults.happen(kind, payload)
        # All of them first: what one of them brought is there for the next segment of the others.
        ended = [self.running[self._job_of_slot[slot]] for slot in self.streams.due(at)]
        for job in ended:
            assert job.segment is not None
            self._settle(job, job.segment.units)
        for job in ended:
            self._segment_ended(job)
        self._report(at)
        if self.driver.has_news or self.driver.next_due() <= at:
            self._turn()
        if self.streams.is_stale and at >= self._shared_at + self.world.tick_seconds:
            self._set_peers()
            self.streams.share(at)
            self._shared_at = at

    def _advance(self, at: float) -> None:
        self.account.meter.advance(
            at,
            self._gpus,
            is_pressed=bool(self.waiting),
            is_loaded=at <= self._last_submit,
            gang_idle=self._gang_idle,
        )
        self.heap.advance(at)
        if at >= self._next_picture:
            self._take_picture()
            self._next_picture = at + self._picture_seconds()

    def outcome(self) -> Outcome:
        """The figures of what happened until now."""
        self._take_picture()
        return outcome(self.world, self.policy.name, self.account, end=self.heap.now, price_per_gib=self._price)

    def next_at(self) -> float:
        """When the next thing happens by itself; inf: never."""
        now = self.heap.now
        due = min(self.heap.next_at(), self.streams.next_end())
        if self.waiting:
            due = min(due, max(now, self.driver.next_due()))
        if self.streams.is_stale:
            due = min(due, max(now, self._shared_at + self.world.tick_seconds))
        if self.cache.dirty and self.waiting:
            due = min(due, max(now, self._reported_at + self.world.report_seconds))
        return due

    def _report(self, at: float) -> None:
        if self.cache.dirty and at >= self._reported_at + self.world.report_seconds:
            self.driver.report(self.cache.dirty)
            self.cache.dirty.clear()
            self._reported_at = at

    def _turn(self) -> None:
        touched: dict[int, Attempt] = {}
        now = self.heap.now
        for uid, node, attempt in self.driver.turn(now):
            self.ledger.bind(uid, node, self._asks[attempt.job], now)
            touched[attempt.job] = attempt
        started: list[Running] = []
        for attempt in touched.values():
            check_gang(attempt, self.policy.gangs, now)
            if len(attempt.node_of) == attempt.spec.pods:
                started.append(self._start(attempt))
        self._begin(started)
        self.account.checks += len(touched)
        if self.policy.gangs is Gangs.PERMIT:
            self._permits.follow(self.waiting)
        self._gpus = self.ledger.gpus()
        if self.policy.gangs is not Gangs.WHOLE:
            self._gang_idle = sum(
                (len(attempt.node_of) + len(attempt.permits)) * attempt.spec.gpus for attempt in self.waiting.values()
            )
        self.check_reasons()

    def check_reasons(self, *, all_of_them: bool = False) -> None:
        """That what some waiting jobs, others each time, were told is so. Raises InvariantViolation."""
        waiting = list(self.waiting.values())
        held = held_by_permits(waiting, self.ledger) if self.policy.gangs is Gangs.PERMIT else None
        for offset in range(len(waiting) if all_of_them else min(A_TIME, len(waiting))):
            attempt = waiting[(self._checked + offset) % len(waiting)]
            told, is_resting = self.driver.reason_of(attempt)
            if is_resting:
                check_reason(attempt, told, self.policy.gangs, self.ledger, held=held, now=self.heap.now)
                self.account.reasons_checked += 1
        self._checked += A_TIME

    # ---- a job's life -----------------------------------------------------------------------

    def submit(self, number: int) -> None:
        """A job, or its next attempt, is there to be placed."""
        spec = self.world.jobs[number]
        self._starts[number] += 1
        attempt = self.waiting[number] = Attempt(number, self._starts[number], spec)
        held = {node: size for node, size in self.checkpoint_at[number].items() if self.ledger.is_up[node]}
        self.driver.submit(attempt, self.heap.now, held)

    def _permit_over(self, timer: tuple[int, int]) -> None:
        if self._permits.is_over(timer):
            self.driver.permit_is_over(self.waiting[timer[0]])

    def _start(self, attempt: Attempt) -> Running:
        number, now, spec = attempt.job, self.heap.now, attempt.spec
        del self.waiting[number]
        slot = self.streams.open()
        goal = goal_units(spec, self.world)
        job = Running(attempt, slot, now, pods_by_node(attempt), self._done[number], goal)
        if self._done[number] > 0 and spec.checkpoint_bytes:
            job.restore_bytes = spec.checkpoint_bytes
            job.restore_from = {
                node: size for node, size in self.checkpoint_at[number].items() if self.ledger.is_up[node]
            }
        self.running[number] = job
        self._job_of_slot[slot] = number
        kept = self.account.jobs[number]
        kept.starts += 1
        kept.first_started = now if kept.first_started is None else kept.first_started
        if spec.dataset is not None:
            self._readers[spec.dataset][number] = None
            for node in job.pods_on:
                self.cache.start_reading(node, spec.dataset, now)
        return job

    def _begin(self, started: list[Running]) -> None:
        """First segments of jobs that start together, and new ones of those that from now on share what they fetch."""
        for job in self._affected(started):
            assert job.segment is not None
            self._settle(job, job.segment.units - self.streams.left(job.slot, self.heap.now))
            self._next_segment(job)
        for job in started:
            self._next_segment(job)

    def _affected(self, started: list[Running]) -> list[Running]:
        """Running jobs that miss bytes which one of `started` may bring."""
        new: dict[int, set[int]] = {}
        for job in started:
            if job.spec.dataset is not None:
                new.setdefault(job.spec.dataset, set()).update(job.pods_on)
        return [
            job
            for dataset, nodes in new.items()
            for job in map(self.running.__getitem__, self._readers[dataset])
            if job.segment is not None and self.reading.gains(job, nodes)
        ]

    def _next_segment(self, job: Running) -> None:
        segment = job.segment = self.reading.next_segment(job)
        job.segment_started = self.heap.now
        self.streams.set(
            job.slot, segment.units, self.heap.now, cap=segment.cap, growth=segment.growth, use=segment.use
        )

    def _segment_ended(self, job: Running) -> None:
        """It is settled."""
        number = job.attempt.job
        if job.done < job.goal:
            self._next_segment(job)
            return
        self._close(job, Ending.FINISHED)
        self.account.jobs[number].finished = self.heap.now
        self.unfinished -= 1

    def _settle(self, job: Running, units: float) -> None:
        """Count what a segment did until now."""
        segment, spec, account = job.segment, job.spec, self.account
        assert segment is not None
        seconds = self.heap.now - job.segment_started
        came = self.reading.settle(job, units, self.heap.now)
        worked = 0.0 if segment.is_restore else units / full_speed(spec, self.world)
        stalled = max(0.0, seconds - worked)
        account.jobs[job.attempt.job].stalled += stalled
        account.stalled_gpu_seconds += stalled * spec.total_gpus
        account.worked_gpu_seconds += worked * spec.total_gpus
        if segment.is_restore:
            account.restored.add(came)
        elif spec.dataset is not None:
            account.bytes.add(came)

    def _close(self, job: Running, ending: Ending) -> None:
        number = job.attempt.job
        self.streams.close(job.slot)
        del self.running[number], self._job_of_slot[job.slot]
        if job.spec.dataset is not None:
            del self._readers[job.spec.dataset][number]
            for node in job.pods_on:
                self.cache.stop_reading(node, job.spec.dataset, self.heap.now)
        self._last_change = max(self._last_change, self.heap.now)
        self._release(job.attempt, ending)
        speed = full_speed(job.spec, self.world)
        if job.spec.checkpoint_bytes:
            before = self._done[number] / speed // job.spec.checkpoint_seconds
            written = max(0.0, job.done / speed // job.spec.checkpoint_seconds - before)
            self.account.checkpoint_bytes += written * job.spec.checkpoint_bytes

    def _release(self, attempt: Attempt, ending: Ending) -> None:
        spread = self.world.end_spread_seconds if ending is Ending.FINISHED and attempt.spec.pods > 1 else 0.0
        later = list(attempt.node_of) if spread else []
        for uid in attempt.node_of:
            if uid not in later:
                self.ledger.free_up(uid)
        self.driver.ended(attempt, ending, later)
        for uid in later:
            self.heap.push(self.heap.now + self._ends.uniform(0.0, spread), "gone", uid)
        self._gpus = self.ledger.gpus()

    def _gone(self, uid: str) -> None:
        self.ledger.free_up(uid)
        self.driver.gone(uid)
        self._gpus = self.ledger.gpus()

    def stop(self, number: int, *, saves: bool) -> None:
        """A job's pods end before it is done: it waits again and resumes from its newest checkpoint; with `saves` it
        wrote one just now. A job without checkpoints starts from nothing."""
        ending = Ending.PREEMPTED if saves else Ending.LOST
        attempt = self.waiting.pop(number, None)
        if attempt is not None:
            self._release(attempt, ending)
            self.submit(number)
            return
        job = self.running[number]
        assert job.segment is not None
        self._settle(job, job.segment.units - self.streams.left(job.slot, self.heap.now))
        self._close(job, ending)
        spec, speed = job.spec, full_speed(job.spec, self.world)
        kept = self._done[number]
        if spec.checkpoint_bytes:
            step = spec.checkpoint_seconds * speed
            kept = job.done if saves else max(kept, job.done // step * step)
            if kept > self._done[number]:
                self.checkpoint_at[number] = dict.fromkeys(job.pods_on, spec.checkpoint_bytes)
        lost = (job.done - kept) / speed
        self._done[number] = kept
        self.account.jobs[number].lost += lost
        self.account.lost_gpu_seconds += lost * spec.total_gpus
        self.account.worked_gpu_seconds -= lost * spec.total_gpus
        self.submit(number)

    def give_up_permits(self, node: int) -> None:
        """Gangs with a pod placed, not bound, on a node that goes: they are placed anew."""
        for attempt in self.waiting.values():
            if node in attempt.permits.values():
                self.driver.permit_is_over(attempt)

    def jobs_on(self, node: int) -> list[int]:
        """Jobs with a pod on a node."""
        found = [number for number, job in self.running.items() if node in job.pods_on]
        return found + [number for number, attempt in self.waiting.items() if node in attempt.node_of.values()]

    # ---- views ------------------------------------------------------------------------------

    def _set_peers(self) -> None:
        """What serves a dataset to peers grows with its homes."""
        self.links.capacity[self.links.peers(0) :] = self.cache.homes.width * self.world.speeds.nic

    def _picture_seconds(self) -> float:
        longest = max((job.compute_seconds for job in self.world.jobs), default=0.0)
        return max(1.0, (self._last_submit + longest) / PICTURES)

    def _take_picture(self) -> None:
        if len(self.account.pictures) > 2 * PICTURES:
            return
        datasets = self.world.datasets[:PICTURE_DATASETS]
        nodes = range(min(PICTURE_NODES, len(self.world.nodes)))
        shares = [
            [round(self.cache.local(node, number) / dataset.size_bytes, 4) for node in nodes]
            for number, dataset in enumerate(datasets)
        ]
        self.account.pictures.append(Picture(self.heap.now, shares))


def patience(world: World) -> float:
    """Seconds after which jobs that wait, while nothing runs or comes, will not start any more."""
    longest = max((job.max_wait_seconds for job in world.jobs), default=0.0)
    repairs = 0.0 if world.node_mtbf_seconds == NEVER else 2 * world.node_repair_seconds
    return STUCK_SECONDS + longest + repairs
