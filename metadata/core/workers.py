"""Workers: who they are, whether they live, and which of their reports count.

Owns epochs, report sequences and leases. Pure: the time comes in, in seconds of one monotonic clock. Life of a
worker, by what it last did:

    unknown ──register──▶ live ──lease over──▶ dead ──report or register──▶ live

Invariants: an epoch never goes back, reports of an older one are refused; residency is only built from reports
without gaps since the last full one; time in which this process stood still ends no lease: what
workers said meanwhile has not been read yet.
"""

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from metadata.errors import InvalidRequest, Precondition


@dataclass(frozen=True, slots=True)
class Tier:
    """One medium of a worker: MEM, SSD or HDD; bytes, and bytes per second as measured."""

    medium: str
    capacity_bytes: int = 0
    used_bytes: int = 0
    read_bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class ReadCounters:
    """Bytes handed to readers since the worker's start, by where they came from."""

    local_bytes: int = 0
    peer_bytes: int = 0
    origin_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker says of itself when it starts; durable, so that epochs outlive a restart of ours."""

    node: str
    epoch: int
    data_endpoint: str
    control_endpoint: str
    tiers: tuple[Tier, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReadings:
    """What each report says anew of the worker itself."""

    tiers: tuple[Tier, ...] = ()
    network_read_bytes_per_second: int = 0
    origin_read_bytes_per_second: int = 0
    counters: ReadCounters = field(default_factory=ReadCounters)
    reads: dict[str, ReadCounters] = field(default_factory=dict)
    """Bytes lately handed to readers of each dataset, by uid."""
    is_leaving: bool = False
    """It hands its blocks over and is nobody's home any more."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as others see it."""

    registration: Registration
    readings: WorkerReadings
    is_alive: bool


class Use(Enum):
    """What to do with a report's files."""

    REPLACE = auto()
    """A full report: forget what the worker held, take these."""
    APPLY = auto()
    IGNORE = auto()
    """Seen before; a retry."""
    NEED_FULL = auto()
    """Something between was missed: nothing of it counts until a full report comes."""


@dataclass(slots=True)
class _State:
    registration: Registration
    readings: WorkerReadings
    last_seen_seconds: float | None
    sequence: int | None  # of the last report taken; None = a full report is needed first


class Workers:
    """The table of workers. Not safe for threads: one event loop owns it."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._states: dict[str, _State] = {}
        self._changed: set[str] = set()

    def take_changed(self) -> set[str]:
        """Return the datasets of which `reads_of` may say something else than at the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def restore(self, registration: Registration) -> None:
        """After a restart of ours: the worker is known, and dead until it reports."""
        readings = WorkerReadings(tiers=registration.tiers)
        self._states[registration.node] = _State(registration, readings, None, None)

    def check_registration(self, registration: Registration) -> None:
        """Raise what `register` would raise; changes nothing."""
        for name in ("node", "data_endpoint", "control_endpoint"):
            if not getattr(registration, name):
                raise InvalidRequest(f"{name} is empty; a worker names its node and both its endpoints.")
        if registration.epoch < 1:
            raise InvalidRequest(f"epoch is {registration.epoch}; it must be 1 or more and grow with each start.")
        known = self._states.get(registration.node)
        if known is not None and registration.epoch < known.registration.epoch:
            raise Precondition(_too_old(registration.node, registration.epoch, known.registration.epoch))

    def register(self, registration: Registration, now: float) -> bool:
        """A worker started. True when what it held before is to be forgotten (it is a new incarnation).

        The same epoch again is a retry and forgets nothing.
        """
        self.check_registration(registration)
        known = self._states.get(registration.node)
        if known is not None and known.registration.epoch == registration.epoch:
            if known.last_seen_seconds is None:
                self._changed.update(known.readings.reads)
            known.registration = registration
            known.last_seen_seconds = now
            return False
        readings = WorkerReadings(tiers=registration.tiers)
        if known is not None:
            self._changed.update(known.readings.reads)
        self._states[registration.node] = _State(registration, readings, now, 0)
        return True

    def report(self, node: str, epoch: int, sequence: int, *, full: bool, readings: WorkerReadings, now: float) -> Use:
        """A sign of life, and what its files are good for; Precondition from an unknown or older worker."""
        state = self._states.get(node)
        if state is None:
            raise Precondition(f"worker {node!r} is not registered; register before the first report.")
        if epoch < state.registration.epoch:
            raise Precondition(_too_old(node, epoch, state.registration.epoch))
        if epoch > state.registration.epoch:
            raise Precondition(f"epoch {epoch} of worker {node!r} is not registered; register before reporting.")
        if sequence < 1:
            raise InvalidRequest(f"sequence is {sequence}; reports of an epoch are numbered 1, 2, 3 and so on.")
        before, after = state.readings.reads, readings.reads
        is_back = state.last_seen_seconds is None
        self._changed.update(uid for uid in before.keys() | after if is_back or before.get(uid) != after.get(uid))
        state.last_seen_seconds = now
        state.readings = replace(readings, tiers=readings.tiers or state.readings.tiers)
        if full:
            state.sequence = sequence
            return Use.REPLACE
        if state.sequence is None or sequence > state.sequence + 1:
            state.sequence = None
            return Use.NEED_FULL
        if sequence <= state.sequence:
            return Use.IGNORE
        state.sequence = sequence
        return Use.APPLY

    def missed(self, node: str) -> None:
        """A report that was accepted was not counted to its end: a full one is needed, whatever is sent again."""
        if (state := self._states.get(node)) is not None:
            state.sequence = None

    def stood_still(self, seconds: float, now: float) -> None:
        """Nobody could be heard for so long until now, because this process did not run: it counts for no lease."""
        for state in self._states.values():
            if state.last_seen_seconds is not None:
                state.last_seen_seconds = min(now, state.last_seen_seconds + seconds)

    def expire(self, now: float) -> list[str]:
        """Nodes whose lease ended since the last call; what they held is to be forgotten, each is named once."""
        dead = [
            node
            for node, state in self._states.items()
            if state.last_seen_seconds is not None and now - state.last_seen_seconds > self._lease_seconds
        ]
        for node in dead:
            self._changed.update(self._states[node].readings.reads)
            self._states[node].last_seen_seconds = None
            self._states[node].sequence = None
        return dead

    def is_alive(self, node: str) -> bool:
        """Whether the worker of `node` has a lease."""
        state = self._states.get(node)
        return state is not None and state.last_seen_seconds is not None

    def reads_of(self, uid: str) -> ReadCounters | None:
        """Of the bytes live workers lately handed to readers of a dataset, how many of a thousand came from where;
        None = there were none. A thousand: small changes tell nobody anything, and each goes to the API server."""
        found = [
            state.readings.reads[uid]
            for state in self._states.values()
            if state.last_seen_seconds is not None and uid in state.readings.reads
        ]
        local, peer, origin = (
            sum(getattr(one, name) for one in found) for name in ("local_bytes", "peer_bytes", "origin_bytes")
        )
        total = local + peer + origin
        if not total:
            return None
        local, peer = round(1000 * local / total), round(1000 * peer / total)
        return ReadCounters(local, peer, 1000 - local - peer)

    def all(self) -> list[Worker]:
        """Every worker ever registered, by node name."""
        return [
            Worker(state.registration, state.readings, state.last_seen_seconds is not None)
            for _, state in sorted(self._states.items())
        ]


def _too_old(node: str, epoch: int, current: int) -> str:
    return f"epoch {epoch} of worker {node!r} is over; epoch {current} has registered since."
