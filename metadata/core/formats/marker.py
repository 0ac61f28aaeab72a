"""Marker: a checkpoint is a directory whose name ends in its step and which holds a marker file when complete.

The writer puts the marker last, after every other file is durable; nothing else is believed. What is added later (an
evaluation's result) takes nothing away. A program that writes a step again removes its marker first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats.base import Candidate, Scene, Verdict
from metadata.core.formats.steps import step_at_end
from metadata.errors import InvalidRequest

NAME = "Marker"


@dataclass(frozen=True, slots=True)
class MarkerFormat:
    """`marker` is the name of the file that completes a checkpoint."""

    marker: str

    def step_of(self, name: str) -> int | None:
        return step_at_end(name)

    def reads(self, scene: Scene) -> Iterable[Entry]:
        return ()

    def judge(self, scene: Scene) -> list[Verdict]:
        return [self._verdict(candidate) for candidate in scene.candidates]

    def _verdict(self, candidate: Candidate) -> Verdict:
        found = candidate.file(self.marker)
        if found is None:
            return Verdict(False, problem=f"it has no file {self.marker}")
        return Verdict(True, found.mtime_ns, seal=found.path)


def marker_format(marker: str) -> MarkerFormat:
    """Check the options and return the format; InvalidRequest names the field."""
    if not marker or "/" in marker:
        raise InvalidRequest(f"marker {marker!r} is not a file name; name the file that completes a checkpoint.")
    paths.checked("marker", marker)
    return MarkerFormat(marker)
