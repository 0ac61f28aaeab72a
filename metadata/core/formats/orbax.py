"""Orbax: a step is saved under a temporary name and renamed as a whole when it is finished.

On stores without a rename Orbax writes in place and adds `commit_success.txt` last. Either is asked for, with the
`_CHECKPOINT_METADATA` every save since 2024 has: a numbered directory alone may be anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from metadata.core.entries import Entry
from metadata.core.formats.base import Candidate, Scene, Verdict
from metadata.core.formats.steps import step_at_end

NAME: Final = "Orbax"
COMMIT: Final = "commit_success.txt"
METADATA: Final = "_CHECKPOINT_METADATA"


@dataclass(frozen=True, slots=True)
class OrbaxFormat:
    """Directories `100` or `prefix_100`; those with a temporary name are no checkpoints."""

    def step_of(self, name: str) -> int | None:
        return step_at_end(name)

    def reads(self, scene: Scene) -> Iterable[Entry]:
        return ()

    def judge(self, scene: Scene) -> list[Verdict]:
        return [self._verdict(candidate) for candidate in scene.candidates]

    def _verdict(self, candidate: Candidate) -> Verdict:
        seal = candidate.file(COMMIT) or candidate.file(METADATA)
        if seal is None:
            return Verdict(False, problem=f"it has neither {METADATA} nor {COMMIT}")
        if not any(one.size_bytes for name, one in candidate.files().items() if name not in (COMMIT, METADATA)):
            return Verdict(False, problem="it has no data")
        return Verdict(True, seal.mtime_ns, seal=seal.path)


def orbax(marker: str) -> OrbaxFormat:
    """No options."""
    return OrbaxFormat()
