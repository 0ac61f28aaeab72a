"""Marker: a checkpoint is a directory whose name ends in its step and which holds a marker file when complete.

The writer puts the marker last, after every other file is durable; nothing else is believed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats.base import Verdict
from metadata.errors import InvalidRequest

NAME = "Marker"
# 18 digits always fit 64 bits; a longer number is a time or a hash, not a step.
_STEP = re.compile(r"(?<![0-9])([0-9]{1,18})$")


@dataclass(frozen=True, slots=True)
class MarkerFormat:
    """`marker` is the name of the file that completes a checkpoint."""

    marker: str

    def step_of(self, name: str) -> int | None:
        match = _STEP.search(name)
        return int(match[1]) if match else None

    def judge(self, directory: str, entries: Sequence[Entry]) -> Verdict:
        wanted = paths.join(directory, self.marker)
        for entry in entries:
            if entry.path == wanted and not entry.is_directory:
                return Verdict(True, entry.mtime_ns)
        return Verdict(False)


def marker_format(marker: str) -> MarkerFormat:
    """Check the options and return the format; InvalidRequest names the field."""
    if not marker or "/" in marker:
        raise InvalidRequest(f"marker {marker!r} is not a file name; name the file that completes a checkpoint.")
    paths.checked("marker", marker)
    return MarkerFormat(marker)
