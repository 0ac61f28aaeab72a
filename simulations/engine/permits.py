"""Permit's time: how long the placed pods of a gang hold their room while the others have none.

Owns one timer for each hold of a gang, from its first placed pod on. A hold that ended (started, given up, stopped)
leaves a timer that means nothing: the next hold has all its time. Times are the simulation's.
"""

from collections.abc import Mapping

from simulations.engine.clock import EventHeap
from simulations.engine.driver import Attempt

PERMIT_SECONDS = 60.0


class PermitTimers:
    """Timers by job and number of its hold."""

    def __init__(self, heap: EventHeap) -> None:
        self._heap = heap
        self._holds: dict[int, int] = {}
        self._made = 0

    def follow(self, waiting: Mapping[int, Attempt]) -> None:
        """After a turn: start timers of gangs that hold room since then, forget those of gangs that do not any more."""
        holding = {job for job, attempt in waiting.items() if attempt.permits}
        self._holds = {job: hold for job, hold in self._holds.items() if job in holding}
        for job in waiting:
            if job in holding and job not in self._holds:
                self._made += 1
                self._holds[job] = self._made
                self._heap.push(self._heap.now + PERMIT_SECONDS, "permit", (job, self._made))

    def is_over(self, timer: tuple[int, int]) -> bool:
        """Whether an event "permit" is that of a hold that lasts, which then is over."""
        job, hold = timer
        if self._holds.get(job) != hold:
            return False
        del self._holds[job]
        return True
