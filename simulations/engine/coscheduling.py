"""What coscheduling's plugin does around the core, which tries a gang's pods one by one: Permit, PostFilter, and again.

Owns its rules, as scheduler-plugins has them: placed pods hold their room until the gang is complete; the first of them
wakes its siblings; when one finds no node the whole gang gives its room back at once, unless no more than a tenth of it
is missing. A gang that gave up is set aside until room comes and its backoff (1 to 10 s) is over; then one of its pods
is tried. Knows no nodes' room.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core import events
from scheduler.core.engine import Engine
from scheduler.core.queue import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, Pool
from simulations.engine.clock import NEVER
from simulations.engine.driver import Attempt

REJECT_GAP = 0.1
REFUSED = (Pool.UNSCHEDULABLE, Pool.BACKOFF)


@dataclass(slots=True)
class _Aside:
    """A gang that gave up. `turn`: the number of that; `has_room`: some came since."""

    attempt: Attempt
    until: float
    turn: int
    has_room: bool = False


class Coscheduling:
    """See the module's docstring."""

    def __init__(self, engine: Engine, names: Sequence[str]) -> None:
        """`names`: of nodes."""
        self._engine, self._names = engine, names
        self._trying: dict[int, Attempt] = {}  # new, or woken, or holding room
        self._first: dict[int, int] = {}  # of those that hold room: the number of their first placed pod
        self._aside: dict[int, _Aside] = {}
        self._tries: dict[int, int] = {}
        self._over: dict[int, Attempt] = {}
        self._turns = 0

    def submitted(self, attempt: Attempt) -> None:
        """The pods of a gang are about to be tried."""
        self._trying[attempt.job] = attempt

    def place(self, uid: str, node: int, attempt: Attempt) -> list[tuple[str, int]]:
        """A pod of a gang has a node; returns where all go once they have one each."""
        if not attempt.permits:
            self._turns += 1
            self._first[attempt.job] = self._turns
            for sibling in attempt.uids:
                self._activate(sibling)
        attempt.permits[uid] = node
        if len(attempt.permits) < attempt.spec.pods:
            return []
        placed = list(attempt.permits.items())
        self.ended(attempt)
        return placed

    def _activate(self, uid: str) -> None:
        state = self._engine.state
        if state.queue.pool_of(uid) is Pool.GATED:
            state.enqueue_pod(state.pods[uid].request)
        else:
            state.queue.activate(uid)

    def post_filter(self, now: float) -> None:
        """Gangs with a pod that was refused since their first one was placed give up."""
        queue, is_given_back = self._engine.state.queue, False
        for attempt in list(self._trying.values()):
            pods = attempt.spec.pods
            if (pods - len(attempt.permits)) / pods > REJECT_GAP and any(
                queue.pool_of(uid) in REFUSED for uid in attempt.uids if uid not in attempt.permits
            ):
                is_holding = bool(attempt.permits)
                # Who was refused beside one that gives up now may have lacked just that.
                self._set_aside(attempt, now, has_room=is_given_back)
                is_given_back |= is_holding

    def is_over(self, attempt: Attempt) -> None:
        """What a gang holds it has held for too long, or a node of it goes: it gives up in the next turn."""
        self._over[attempt.job] = attempt

    @property
    def has_news(self) -> bool:
        """Whether one is to give up."""
        return bool(self._over)

    def give_up(self, now: float) -> None:
        """Those of `is_over`, before anything else is heard. Others may take the room first."""
        over, self._over = self._over, {}
        for attempt in over.values():
            self._set_aside(attempt, now, has_room=True)
        if over:
            self.room_came()

    def _set_aside(self, attempt: Attempt, now: float, *, has_room: bool) -> None:
        job, state = attempt.job, self._engine.state
        first = self._first.get(job)
        if first is not None:
            cause = "the gang was not complete"
            back = [events.BindFailed(uid, self._names[node], cause) for uid, node in attempt.permits.items()]
            attempt.permits.clear()
            del self._first[job]
            self._engine.handle(back, now)
            for aside in self._aside.values():
                # What this one held may be what that one lacked.
                aside.has_room |= aside.turn > first
        for uid in attempt.uids:
            pod = state.pods[uid].request
            state.queue.gate(uid, priority=pod.priority, since=pod.waiting_since)
        self._turns += 1
        tries = self._tries[job] = self._tries.get(job, 0) + 1
        backoff = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries - 1, 16))
        self._aside[job] = _Aside(attempt, now + backoff, self._turns, has_room)
        del self._trying[job]

    def ended(self, attempt: Attempt) -> None:
        """Its pods are bound, or gone."""
        attempt.permits.clear()
        for known in (self._trying, self._first, self._aside, self._tries, self._over):
            known.pop(attempt.job, None)

    def room_came(self) -> None:
        """Pods ended, or a node came: whoever is set aside may be tried again."""
        for aside in self._aside.values():
            aside.has_room = True

    def wake(self, now: float) -> None:
        """Let one pod of those be tried for whom room came, and whose backoff is over."""
        for job, aside in list(self._aside.items()):
            if aside.has_room and aside.until <= now:
                del self._aside[job]
                self._trying[job] = aside.attempt
                self._activate(aside.attempt.uids[0])

    def next_due(self) -> float:
        """When `wake` has something to do; inf: never."""
        return min((aside.until for aside in self._aside.values() if aside.has_room), default=NEVER)

    def rests(self, attempt: Attempt) -> bool:
        """Whether a gang is set aside and nothing came that may help it."""
        aside = self._aside.get(attempt.job)
        return aside is not None and not aside.has_room
