"""Checkpoints below a directory: which steps there are and which of them are complete.

Owns turning entries into checkpoints; what complete means is the format's business. Pure. Invariant: a
directory whose name tells no step is not a checkpoint, whatever is in it; none is complete before all of it is in the
under store.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from api.held import is_held
from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats.base import CONTENT_BYTES_MAX, Candidate, Format, Scene, Verdict


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One step's directory; sizes count files only. `problem`: why it is not complete; `seal`: what made it so."""

    step: int
    path: str
    complete: bool
    files: int
    bytes: int
    completed_at_ns: int
    problem: str = ""
    seal: str = ""


def scene(children: Iterable[Entry], entries_below: Callable[[str], Sequence[Entry]], kind: Format) -> Scene:
    """Return what there is to judge among `children` of one directory, without contents."""
    candidates, beside = [], {}
    for child in children:
        name = paths.split(child.path)[1]
        if not child.is_directory:
            beside[name] = child
            continue
        step = kind.step_of(name)
        if step is not None:
            candidates.append(Candidate(step, child.path, entries_below(child.path)))
    return Scene(candidates, beside)


def contents_wanted(seen: Scene, kind: Format) -> list[Entry]:
    """Return the files whose bytes `judged` has to be given, of those that are in the under store."""
    return [one for one in kind.reads(seen) if one.size_bytes <= CONTENT_BYTES_MAX and not is_held(one.etag)]


def judged(seen: Scene, kind: Format, contents: Mapping[str, bytes]) -> list[Checkpoint]:
    """Return the scene's checkpoints, newest step first; `contents` by path."""
    whole = replace(seen, contents=contents)
    found = [_checkpoint(*one) for one in zip(whole.candidates, kind.judge(whole), strict=True)]
    return sorted(found, key=lambda checkpoint: (-checkpoint.step, checkpoint.path))


def checkpoints(
    children: Iterable[Entry],
    entries_below: Callable[[str], Sequence[Entry]],
    kind: Format,
    contents: Mapping[str, bytes] | None = None,
) -> list[Checkpoint]:
    """Checkpoints among `children` of one directory, newest step first."""
    return judged(scene(children, entries_below, kind), kind, contents or {})


def _checkpoint(candidate: Candidate, verdict: Verdict) -> Checkpoint:
    files = [entry for entry in candidate.entries if not entry.is_directory]
    held = sum(is_held(entry.etag) for entry in files)
    if held:
        # Two disks have them: enough to read them, and not what a job should count on after the loss of a rack.
        verdict = Verdict(False, problem=f"{held} of its {len(files)} files are not in the under store yet")
    return Checkpoint(
        candidate.step,
        candidate.directory,
        verdict.complete,
        len(files),
        sum(entry.size_bytes for entry in files),
        verdict.completed_at_ns,
        verdict.problem,
        verdict.seal,
    )
