"""The driver of a simulation whose pods are placed behind an API server. Pure: writes out, pods seen in.

Owns what was asked of the API server and has not been seen yet, and what each pod was told. Decides nothing about
placement. Invariants: a gang's binds are handed on when all its members have one; a bind to a node that went meanwhile
breaks its attempt, which is then to be started anew, as a job controller would.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from kube.objects import Pod
from simulations.engine.cache import Cache
from simulations.engine.clock import NEVER
from simulations.engine.driver import Attempt, Ending
from simulations.engine.invariants import WAITS_FOR_DATA, asks_of, pods_needed
from simulations.engine.ledger import Ledger
from simulations.engine.model import World
from simulations.engine.objects import CacheTeller
from simulations.engine.policy import Gangs
from simulations.kwok import objects
from simulations.kwok.invariants import is_over, reason
from simulations.kwok.objects import Shape, Write


class Busy(StrEnum):
    """Why time must not be skipped."""

    UNSEEN = "the watch has not shown all that was written"
    PARTIAL = "a gang is bound in part"
    UNTOLD = "a pod is neither bound nor told why"
    FITS = "a job waits whose pods would fit"


@dataclass(slots=True)
class _Placed:
    """A pod of an attempt that has not ended."""

    uid: str
    name: str
    attempt: Attempt
    is_over: bool = False
    node: int | None = None
    told: str = ""


@dataclass(slots=True)
class _Outbox:
    """What is to be written, in the order it must be: room goes before pods that could take it come."""

    nodes: dict[int, None] = field(default_factory=dict)
    caches: dict[int, None] = field(default_factory=dict)
    endings: list[Write] = field(default_factory=list)
    gangs: list[Write] = field(default_factory=list)
    pods: list[Write] = field(default_factory=list)


class KwokDriver:
    """See the module's docstring; implements engine/driver.py's Driver."""

    def __init__(
        self,
        world: World,
        cache: Cache,
        *,
        scheduler: str,
        gangs: Gangs,
        dataset_uids: Mapping[str, str],
        shape: Shape = Shape.PODS,
    ) -> None:
        """`scheduler`: spec.schedulerName of the pods; `dataset_uids`: those the API server gave."""
        self._world, self._teller = world, CacheTeller(world, cache, dataset_uids)
        self._scheduler, self._gangs, self._shape = scheduler, gangs, shape
        self._number = {node.name: index for index, node in enumerate(world.nodes)}
        self._is_up = [True] * len(world.nodes)
        self._is_open = [True] * len(world.nodes)
        self._out = _Outbox()
        self._pods: dict[str, _Placed] = {}
        self._members: dict[int, list[_Placed]] = {}
        self._unseen: set[str] = set()
        self._leaving: set[str] = set()
        self._partial: dict[int, Attempt] = {}
        self._bound: list[tuple[_Placed, int]] = []
        self.broken: dict[int, str] = {}
        """Jobs whose attempt cannot start, and why; for who follows to stop them."""
        self.rests = False
        """Whether nothing happens before the next event; who follows sets it while it asks for reasons."""

    # ---- Driver -----------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether binds wait for the next turn."""
        return bool(self._bound)

    def submit(self, attempt: Attempt, now: float, checkpoint: dict[int, float]) -> None:
        """Pods are to be created, with a PodGroup when they are several."""
        del now  # creation timestamps are the API server's
        names = objects.pod_names(attempt, self._shape)
        members = [_Placed(uid, name, attempt) for uid, name in zip(attempt.uids, names, strict=True)]
        self._members[attempt.job] = members
        self._pods |= {placed.name: placed for placed in members}
        self._unseen |= set(names)
        if self._shape is Shape.TRAINING_JOBS:
            # Later attempts are the job controller's to start.
            if attempt.number == 1:
                self._out.pods.append(objects.training_job(self._world, attempt, self._scheduler))
            return
        is_gang = attempt.spec.pods > 1 and self._gangs is Gangs.WHOLE
        if is_gang:
            self._out.gangs.append(objects.gang(attempt))
        self._out.pods += objects.pods(self._world, attempt, self._scheduler, checkpoint, is_gang=is_gang)

    def ended(self, attempt: Attempt, ending: Ending, later: Sequence[str] = ()) -> None:
        """kwok ends bound pods, others are deleted."""
        assert not later, "here pods leave when kwok ends them"
        members = self._members.pop(attempt.job)
        unwritten = {write.name for write in self._out.pods}
        for placed in members:
            del self._pods[placed.name]
            self._unseen.discard(placed.name)
            if placed.is_over or placed.name in unwritten:
                continue
            self._leaving.add(placed.name)
            is_bound = placed.node is not None
            self._out.endings.append(
                objects.pod_ends(placed.name, ending) if is_bound else objects.pod_goes(placed.name)
            )
        ended = {placed.name for placed in members}
        self._out.pods = [write for write in self._out.pods if write.name not in ended]
        self._partial.pop(attempt.job, None)
        self.broken.pop(attempt.job, None)

    def gone(self, uid: str) -> None:
        """Never told: see `ended`."""

    def node(self, index: int, *, is_up: bool, is_open: bool) -> None:
        """A node came, went or was cordoned."""
        self._is_up[index], self._is_open[index] = is_up, is_open
        self._out.nodes[index] = None
        self._out.caches[index] = None

    def report(self, nodes: Iterable[int]) -> None:
        """NodeCaches are to be written."""
        self._out.caches |= dict.fromkeys(sorted(nodes))

    def permit_is_over(self, attempt: Attempt) -> None:
        """Permit is the scheduler process's own affair: nothing here ever waits in it."""

    def turn(self, now: float) -> list[tuple[str, int, Attempt]]:
        """Binds seen since the last turn, gangs whole."""
        # Attempts may have ended since.
        bound = [item for item in self._bound if self._pods.get(item[0].name) is item[0]]
        self._bound = []
        for placed, node in bound:
            if not (self._is_up[node] and self._is_open[node]):
                self.broken[placed.attempt.job] = f"bound to {self._world.nodes[node].name}, which went meanwhile"
        fresh = [(at.uid, node, at.attempt) for at, node in bound if at.attempt.job not in self.broken]
        for uid, node, attempt in fresh:
            attempt.node_of[uid] = node
        return fresh

    def next_due(self) -> float:
        """Never: what is seen comes from outside."""
        return NEVER

    def reason_of(self, attempt: Attempt) -> tuple[str, bool]:
        """What any of its pods was told; it rests when the cluster does."""
        return self._told(attempt), self.rests

    # ---- the API server's side --------------------------------------------------------------

    def seen(self, pod: Pod, *, is_gone: bool) -> None:
        """A pod as the watch shows it."""
        name = pod.metadata.name
        if is_over(pod, is_gone=is_gone):
            self._leaving.discard(name)
            placed = self._pods.get(name)
            if placed is not None:
                cause = "was deleted" if is_gone else f"is {pod.status.phase}"
                placed.is_over = True
                self._unseen.discard(name)
                self.broken[placed.attempt.job] = f"pod {name} {cause}, and nobody here asked for it"
            return
        placed = self._pods.get(name)
        if placed is None:
            return
        self._unseen.discard(name)
        placed.told = reason(pod)
        if pod.spec.node_name and placed.node is None:
            placed.node = self._number[pod.spec.node_name]
            self._hand_on(placed)

    def _hand_on(self, placed: _Placed) -> None:
        attempt, members = placed.attempt, [placed]
        if self._gangs is Gangs.WHOLE:
            members = self._members[attempt.job]
            if any(member.node is None for member in members):
                self._partial[attempt.job] = attempt
                return
            self._partial.pop(attempt.job, None)
        self._bound += [(member, member.node) for member in members if member.node is not None]

    def take_writes(self) -> list[list[Write]]:
        """What is to be written: lists in order, each in any order."""
        out, self._out = self._out, _Outbox()
        nodes = [
            objects.node_state(self._world, index, is_up=self._is_up[index], is_open=self._is_open[index])
            for index in out.nodes
        ]
        caches = [
            objects.node_cache_status(self._teller.node_cache(index), is_served=self._is_up[index])
            for index in out.caches
        ]
        return [writes for writes in (nodes, caches, out.endings, out.gangs, out.pods) if writes]

    # ---- may time be skipped ----------------------------------------------------------------

    def busy(self, waiting: Mapping[int, Attempt], ledger: Ledger) -> Busy | None:
        """Why time must go as it goes; None: nothing happens before the next event."""
        if self._out.pods or self._out.endings or self._unseen or self._leaving or self._bound or self.broken:
            return Busy.UNSEEN
        if self._partial:
            return Busy.PARTIAL
        if any(not self._told(attempt) for attempt in waiting.values()):
            return Busy.UNTOLD
        return Busy.FITS if self._some_fit(waiting, ledger) else None

    def _some_fit(self, waiting: Mapping[int, Attempt], ledger: Ledger) -> bool:
        least: dict[tuple[int, ...], int] = {}
        for attempt in waiting.values():
            if WAITS_FOR_DATA in self._told(attempt):
                continue
            asks = tuple(asks_of(attempt.spec).tolist())
            needed = pods_needed(attempt, self._gangs)
            least[asks] = min(needed, least.get(asks, needed))
        return any(int(ledger.fits(np.array(asks, dtype=np.int64)).sum()) >= needed for asks, needed in least.items())

    def _told(self, attempt: Attempt) -> str:
        return next((placed.told for placed in self._members[attempt.job] if placed.told), "")
