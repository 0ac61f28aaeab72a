"""What the demo saw: figures, events of the training processes, placements, and the claims they support or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from api.decision import Decision


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing the demo says, and whether it held."""

    text: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Span:
    """A pod's time on a node; seconds since 1970."""

    job: str
    attempt: int
    pod: str
    node: str
    began: float
    ended: float


@dataclass(slots=True)
class JobRecord:
    """One job as it went: events by pod, what was decided, where its bytes came from."""

    name: str
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    bytes_by_source: dict[str, int] = field(default_factory=dict)
    killed_at: float | None = None

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of that kind, of every pod, by time."""
        found = [{**one, "pod": pod} for pod, events in self.events.items() for one in events if one["event"] == event]
        return sorted(found, key=lambda one: one["at"])

    def losses(self, attempt: int) -> dict[int, float]:
        """Loss by step of one attempt, as its first process printed it."""
        return {one["step"]: one["loss"] for one in self.of("step") if one["pod"].endswith(f"worker-0-a{attempt}")}

    def read_seconds(self) -> float:
        """Seconds of the first pass over the files: the slower process decides."""
        return max(float(one["seconds"]) for one in self.of("read") if one["pod"].endswith("-a0"))

    def read_bytes(self) -> int:
        """Bytes of that pass, over both processes."""
        return sum(int(one["bytes"]) for one in self.of("read") if one["pod"].endswith("-a0"))


@dataclass(slots=True)
class Story:
    """The whole demo."""

    jobs: list[JobRecord] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def claim(self, text: str, held: bool, seen: str) -> None:
        """Note whether a thing held."""
        self.claims.append(Claim(text, held, seen))

    @property
    def all_held(self) -> bool:
        """Whether everything held."""
        return bool(self.claims) and all(one.held for one in self.claims)
