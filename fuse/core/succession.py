"""Who serves a mount: one daemon at a time, and one that waits to take its place.

Owns the keeper's decisions. Told of what happened and of the time, it says what to do; node/keeper.py does it.

    spawned ──warm──▶ standby ──go──▶ serving ──died, hung, stopped, left──▶ (the standby goes)
                                        │
                                        └──ended by itself: unmounted, or told to stop──▶ the keeper ends too

Invariants: at most one daemon has been told to go and is not known to be dead; while the keeper lives and has not
given up, some daemon serves, was told to go, or is being started.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

LEFT_STATUS: Final = 75
"""Exit status of a daemon that made room for its successor (EX_TEMPFAIL of sysexits.h)."""
STOPPED_SECONDS: Final = 0.2
"""So long a stopped daemon (SIGSTOP) is waited for: long enough for a debugger's attach, short for a reader."""
DEATHS_MAX: Final = 5
"""So many daemons in a row that die before they serve will not be followed by one that lives."""
CRASHES_MAX: Final = 3
"""After so many crashes in a row, each soon after serving began, a request that was in work at each is taken to be the
cause."""
SOON_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 0.125
"""So often a daemon that serves says that its loop goes round."""
SILENT_SECONDS: Final = 0.3
"""After so long without a word it is looked whether a daemon is dead. One that has a thread in the kernel which cannot
be killed is noticed no other way, and its requests must not wait for a second in all."""
LEAVE_SECONDS: Final = 3.0
STOP_SECONDS: Final = 20.0
"""A daemon told to stop drains its requests (10 s), then it is killed."""
START_SECONDS: Final = 60.0
RETRY_MAX_SECONDS: Final = 60.0


class Reason(Enum):
    """Why another daemon serves."""

    FIRST = "first"
    KILLED = "killed"
    CRASHED = "crashed"
    STOPPED = "stopped"
    HUNG = "hung"
    UPGRADED = "upgraded"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a daemon that waits."""


@dataclass(frozen=True, slots=True)
class Go:
    """Let a waiting daemon serve."""

    child: int
    reason: Reason
    refuses_resent: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL a daemon."""

    child: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Ask the serving daemon to make room without unmounting."""

    child: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the serving daemon to unmount and end (SIGTERM)."""

    child: int


@dataclass(frozen=True, slots=True)
class Finish:
    """End the keeper, and the mount if it is there still."""

    status: int
    why: str


Action = Spawn | Go | Kill | Leave | Stop | Finish


@dataclass(slots=True)
class _Child:
    spawned_at: float
    is_warm: bool = False
    gone_at: float | None = None
    """When it was told to go; None while it waits."""
    serving_since: float | None = None
    beat_at: float = 0.0
    stopped_at: float | None = None
    left_at: float | None = None
    ending: Reason | None = None
    """Why it was killed by us."""
    is_old: bool = False
    """It waits since before an upgrade was asked for: it goes only when nobody else can yet."""


@dataclass(slots=True)
class Succession:
    """The daemons of one mount. All times are monotonic seconds."""

    watchdog_seconds: float
    """A serving daemon that says nothing for so long is taken to hang."""
    has_standby: bool = True
    """Whether a daemon waits in advance; without one each take-over waits for a start."""
    _children: dict[int, _Child] = field(default_factory=dict)
    _active: int | None = None
    _next: Reason | None = Reason.FIRST
    """Why a waiting daemon shall go as soon as one is warm; None while one serves."""
    _is_spawning: bool = False
    _deaths: int = 0
    """Daemons in a row that died before they served."""
    _crashes: int = 0
    _stopping_since: float | None = None
    _is_upgrading: bool = False
    _retry_at: float | None = None
    """When to start a waiting daemon again after some died."""

    def begin(self) -> list[Action]:
        """The mount was made."""
        return self._spawn()

    def spawned(self, child: int, now: float) -> list[Action]:
        """A daemon is being started."""
        self._is_spawning = False
        self._children[child] = _Child(spawned_at=now)
        return []

    def warm(self, child: int, now: float) -> list[Action]:
        """A daemon has everything loaded and waits."""
        state = self._children[child]
        state.is_warm = True
        if not self._is_upgrading or self._active is None:
            return self._succeed(now)
        active = self._children[self._active]
        if state.is_old or active.left_at is not None:
            return []
        active.left_at = now
        return [*self._end_old(), Leave(self._active)]

    def serving(self, child: int, now: float) -> list[Action]:
        """A daemon answers the kernel."""
        state = self._children[child]
        state.serving_since = state.beat_at = now
        self._deaths = 0
        return self._spawn() if self.has_standby else []

    def beat(self, child: int, now: float) -> list[Action]:
        """The serving daemon's loop goes round."""
        self._children[child].beat_at = now
        return []

    def looked_away(self, now: float) -> None:
        """The keeper itself was stopped, or waited: nobody was silent that it did not hear meanwhile."""
        for state in self._children.values():
            state.beat_at = now

    def stopped(self, child: int, now: float) -> list[Action]:
        """A daemon was stopped by a signal, and not killed."""
        self._children[child].stopped_at = now
        return []

    def continued(self, child: int, now: float) -> list[Action]:
        """A stopped daemon goes on."""
        state = self._children[child]
        state.stopped_at, state.beat_at = None, now
        return []

    def died(self, child: int, status: int, now: float) -> list[Action]:
        """A daemon ended: an exit status ≥ 0, or minus the signal."""
        state = self._children.pop(child)
        if child != self._active:
            return self._waiting_one_died(state, now)
        self._active = None
        if self._stopping_since is not None:
            return [Finish(0, "told to stop")]
        if status == 0:
            return [Finish(0, "unmounted from outside")]
        self._next = state.ending or _reason(status)
        if state.serving_since is None:
            self._deaths += 1
        if self._next is Reason.CRASHED and now - (state.serving_since or now) < SOON_SECONDS:
            self._crashes += 1
        else:
            self._crashes = 0
        return self._give_up_or(self._succeed(now))

    def hangup(self, now: float) -> list[Action]:
        """SIGHUP: another version is installed, let it serve. What waits is of the old one, and goes on waiting until
        one of the new version does: who serves may die meanwhile."""
        del now
        self._is_upgrading = True
        for child in self.waiting:
            self._children[child].is_old = True
        return self._spawn()

    def _end_old(self) -> list[Action]:
        old = [child for child in self.waiting if self._children[child].is_old]
        for child in old:
            self._children[child].ending = Reason.UPGRADED
        return [Kill(child) for child in old]

    def terminate(self, now: float) -> list[Action]:
        """SIGTERM: unmount and end."""
        if self._stopping_since is not None:
            return []
        self._stopping_since = now
        return [Stop(self._active)] if self._active is not None else [Finish(0, "told to stop")]

    def tick(self, now: float) -> list[Action]:
        """Time went by."""
        actions: list[Action] = []
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            actions += self._spawn()
        for child, state in self._children.items():
            reason = self._overdue(child, state, now)
            if reason is not None and state.ending is None:
                state.ending = reason
                actions.append(Kill(child))
        return actions

    def _overdue(self, child: int, state: _Child, now: float) -> Reason | None:
        if state.stopped_at is not None and now - state.stopped_at >= STOPPED_SECONDS:
            return Reason.STOPPED
        if not state.is_warm:
            return Reason.HUNG if now - state.spawned_at >= START_SECONDS else None
        if child != self._active:
            return None
        if self._stopping_since is not None:
            return Reason.HUNG if now - self._stopping_since >= STOP_SECONDS else None
        if state.left_at is not None and now - state.left_at >= LEAVE_SECONDS:
            return Reason.UPGRADED
        if state.serving_since is None:
            return Reason.HUNG if state.gone_at is not None and now - state.gone_at >= START_SECONDS else None
        return Reason.HUNG if now - state.beat_at >= self.watchdog_seconds else None

    def silent(self, now: float) -> list[int]:
        """Return the daemons whose loop did not go round lately: busy, hung, or dead and not known to be."""
        return [
            child
            for child, state in self._children.items()
            if state.ending is not None or (state.serving_since is not None and now - state.beat_at >= SILENT_SECONDS)
        ]

    def next_tick_seconds(self) -> float:
        """How long until `tick` may have something to do."""
        if any(state.stopped_at is not None for state in self._children.values()):
            return STOPPED_SECONDS / 4
        return SILENT_SECONDS / 2

    @property
    def waiting(self) -> Sequence[int]:
        """The daemons that may be told to go."""
        return [child for child, state in self._children.items() if child != self._active and state.ending is None]

    def _waiting_one_died(self, state: _Child, now: float) -> list[Action]:
        if not state.is_warm and state.ending is not Reason.UPGRADED:
            self._deaths += 1
        if self._active is None:
            return self._give_up_or(self._succeed(now))
        if self._deaths:
            # Somebody serves, so there is time.
            self._retry_at = now + min(RETRY_MAX_SECONDS, 0.1 * 2**self._deaths)
            return []
        return self._spawn() if self.has_standby or self._is_upgrading else []

    def _succeed(self, now: float) -> list[Action]:
        """Let a waiting daemon go if none serves, and start one if none waits."""
        if self._next is None or self._active is not None:
            return []
        warm = [child for child in self.waiting if self._children[child].is_warm]
        if not warm:
            return self._spawn()
        child = min(warm, key=lambda each: self._children[each].is_old)
        reason, self._next = self._next, None
        self._active = child
        self._children[child].gone_at = now
        go = Go(child, reason, self._crashes >= CRASHES_MAX)
        if self._children[child].is_old:
            return [go]
        self._is_upgrading = False
        return [go, *self._end_old()]

    def _spawn(self) -> list[Action]:
        is_awaited = any(not self._children[child].is_old for child in self.waiting)
        if self._is_spawning or self._stopping_since is not None or is_awaited:
            return []
        self._is_spawning = True
        return [Spawn()]

    def _give_up_or(self, actions: list[Action]) -> list[Action]:
        if self._deaths < DEATHS_MAX or self._active is not None:
            return actions
        return [Finish(1, f"{self._deaths} daemons in a row died before they served")]


def _reason(status: int) -> Reason:
    if status == LEFT_STATUS:
        return Reason.UPGRADED
    return Reason.KILLED if status == -9 else Reason.CRASHED
