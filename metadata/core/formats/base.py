"""What a checkpoint format has to answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from metadata.core.entries import Entry


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a checkpoint is complete, and since when."""

    complete: bool
    completed_at_ns: int = 0


class Format(Protocol):
    """One checkpoint format. Pure."""

    def step_of(self, name: str) -> int | None:
        """The step number a directory's name tells, or None when it is no checkpoint of this format."""
        ...

    def judge(self, directory: str, entries: Sequence[Entry]) -> Verdict:
        """Look at all entries below `directory`."""
        ...
