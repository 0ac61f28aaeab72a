"""What the engine asks of whoever places pods: the scheduler's core in this process, or one behind an API server.

Owns the words between a simulation and a driver. Uids are `job.attempt.pod`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from simulations.engine.model import JobSpec


class Ending(StrEnum):
    """Why an attempt's pods end."""

    FINISHED = "finished"
    LOST = "lost"  # a node of theirs is gone
    PREEMPTED = "preempted"  # a node of theirs is taken away with notice


@dataclass(slots=True)
class Attempt:
    """One start of a job: its pods, and where they are to go."""

    job: int
    number: int
    spec: JobSpec
    node_of: dict[str, int] = field(default_factory=dict)  # bound pods
    permits: dict[str, int] = field(default_factory=dict)  # placed, waiting for the others
    uids: tuple[str, ...] = field(init=False)  # its pods

    def __post_init__(self) -> None:
        # Asked for in every turn of a gang that waits: made once.
        self.uids = tuple(f"{self.job}.{self.number}.{pod}" for pod in range(self.spec.pods))

    @property
    def group(self) -> str:
        """Its PodGroup's name."""
        return f"g{self.job}-{self.number}"


class Driver(Protocol):
    """Hears what happens, says what is bound."""

    @property
    def has_news(self) -> bool:
        """Whether a turn has something to do."""

    def submit(self, attempt: Attempt, now: float, checkpoint: dict[int, float]) -> None:
        """The pods of an attempt exist; `checkpoint`: bytes of it by node."""

    def ended(self, attempt: Attempt, ending: Ending, later: Sequence[str] = ()) -> None:
        """All pods of an attempt are gone, bound or not; those of `later` hold their room until `gone`."""

    def gone(self, uid: str) -> None:
        """A pod of an attempt that ended is gone now."""

    def node(self, index: int, *, is_up: bool, is_open: bool) -> None:
        """A node came, went, or was cordoned. Its pods are to be ended before it goes."""

    def report(self, nodes: Iterable[int]) -> None:
        """What these nodes' caches hold now."""

    def permit_is_over(self, attempt: Attempt) -> None:
        """Those placed waited long enough for the others: all give their room back."""

    def turn(self, now: float) -> list[tuple[str, int, Attempt]]:
        """What was bound, as (uid, node, attempt)."""

    def next_due(self) -> float:
        """When the driver has something to do without an event; inf: never."""

    def reason_of(self, attempt: Attempt) -> tuple[str, bool]:
        """What a waiting attempt was told, and whether it rests (is not about to be tried)."""
