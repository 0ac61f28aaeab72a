"""Checkpoints below a directory: which steps there are and which of them are complete.

Owns turning entries into checkpoints; what complete means is the format's business. Pure. Invariant: a
directory whose name tells no step is not a checkpoint, whatever is in it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats.base import Format


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One step's directory; sizes count files only."""

    step: int
    path: str
    complete: bool
    files: int
    bytes: int
    completed_at_ns: int


def checkpoints(
    children: Iterable[Entry], entries_below: Callable[[str], Sequence[Entry]], kind: Format
) -> list[Checkpoint]:
    """Checkpoints among `children` of one directory, newest step first."""
    found: list[Checkpoint] = []
    for child in children:
        step = kind.step_of(paths.split(child.path)[1])
        if step is None or not child.is_directory:
            continue
        entries = entries_below(child.path)
        verdict = kind.judge(child.path, entries)
        files = [entry for entry in entries if not entry.is_directory]
        found.append(
            Checkpoint(
                step,
                child.path,
                verdict.complete,
                len(files),
                sum(entry.size_bytes for entry in files),
                verdict.completed_at_ns,
            )
        )
    return sorted(found, key=lambda checkpoint: (-checkpoint.step, checkpoint.path))
