"""Faults made real: nodes that crash, are reclaimed, upgraded or taken away, and an origin that slows down.

Owns what each fault does to jobs, caches, links and the scheduler's nodes. The kinds are those of model.Fault, and
random crashes by the mean time between failures. Invariant: every fault that happened is counted by kind, with the
jobs it hit, so that a scenario can prove it took place.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from simulations.engine.cache import Disk
from simulations.engine.model import Fault

if TYPE_CHECKING:
    from simulations.engine.simulation import Simulation


COUNTED = {"crash": "crashes", "upgrade": "upgrades", "remove": "removals"}


class Faults:
    """See the module's docstring."""

    def __init__(self, simulation: "Simulation", random: Random) -> None:
        self._sim, self._random = simulation, random
        self._disks: dict[int, Disk] = {}
        world = simulation.world
        for fault in world.faults:
            simulation.heap.push(fault.at, "fault", fault)
        if world.node_mtbf_seconds != float("inf"):
            for node in range(len(world.nodes)):
                self._next_failure(node)

    def happen(self, kind: str, payload: Any) -> None:
        """An event of ours is due."""
        if kind == "fault":
            self._start(payload)
        elif kind == "failure":
            if self._sim.ledger.is_up[payload]:
                self._down(payload, keeps_disk=True, saves=False, kind="failures")
                self._sim.heap.push(self._sim.heap.now + self._sim.world.node_repair_seconds, "back", payload)
            self._next_failure(payload)
        elif kind == "reclaim":
            node, seconds = payload
            if self._sim.ledger.is_up[node]:
                self._down(node, keeps_disk=False, saves=True, kind="reclaims")
                if seconds > 0:
                    self._sim.heap.push(self._sim.heap.now + seconds, "back", node)
        elif kind == "back":
            self._up(payload)
        elif kind == "origin":
            self._set_origin(payload)
        else:
            raise ValueError(f"event {kind!r} is of no kind the engine knows")

    def _next_failure(self, node: int) -> None:
        delay = self._random.expovariate(1.0 / self._sim.world.node_mtbf_seconds)
        self._sim.heap.push(self._sim.heap.now + delay, "failure", node)

    def _start(self, fault: Fault) -> None:
        sim = self._sim
        if fault.kind == "brownout":
            sim.account.faults["brownouts"] += 1
            self._set_origin(fault.share)
            sim.heap.push(sim.heap.now + fault.seconds, "origin", 1.0)
            return
        for node in fault.nodes:
            if not sim.ledger.is_up[node]:
                continue
            if fault.kind == "spot":
                sim.account.faults["notices"] += 1
                self._cordon(node)
                sim.heap.push(sim.heap.now + fault.notice_seconds, "reclaim", (node, fault.seconds))
                continue
            is_drained = fault.kind in ("upgrade", "remove")
            self._down(node, keeps_disk=fault.kind != "remove", saves=is_drained, kind=COUNTED[fault.kind])
            if fault.kind != "remove":
                sim.heap.push(sim.heap.now + fault.seconds, "back", node)

    def _cordon(self, node: int) -> None:
        self._sim.ledger.is_open[node] = False
        self._sim.give_up_permits(node)
        self._sim.driver.node(node, is_up=True, is_open=False)

    def _down(self, node: int, *, keeps_disk: bool, saves: bool, kind: str) -> None:
        sim = self._sim
        sim.account.faults[kind] += 1
        sim.give_up_permits(node)
        # Away before its jobs wait again, so that none of them can be put back here.
        sim.ledger.set_up(node, is_up=False)
        for number in sim.jobs_on(node):
            sim.account.faults["jobs_stopped"] += 1
            sim.stop(number, saves=saves)
        disk = sim.cache.take_away(node)
        if keeps_disk:
            self._disks[node] = disk
        sim.driver.node(node, is_up=False, is_open=True)

    def _up(self, node: int) -> None:
        sim = self._sim
        if sim.ledger.is_up[node]:
            return
        sim.ledger.set_up(node, is_up=True)
        sim.ledger.is_open[node] = True
        sim.cache.bring_back(node, self._disks.pop(node, Disk()), sim.heap.now)
        sim.driver.node(node, is_up=True, is_open=True)

    def _set_origin(self, share: float) -> None:
        sim = self._sim
        sim.links.capacity[sim.links.origin] = sim.world.speeds.origin * share
        sim.streams.is_stale = True
