"""What a checkpoint format has to answer, and what it is shown.

Owns the views. Contents of files come in as bytes: a format names the few it needs (`reads`), the shell reads them, and
`judge` is pure. Versions tell what was written after what, without any clock: each change of a namespace has one of its
own. Files of one listing share theirs, so nothing is known of their order, and nothing is concluded from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from metadata.core import paths
from metadata.core.entries import Entry

CONTENT_BYTES_MAX: Final = 8 << 20
"""Of a file that is read to judge a checkpoint; of a larger one its presence has to do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a checkpoint is complete, and since when; else why not, as a clause."""

    complete: bool
    completed_at_ns: int = 0
    problem: str = ""
    #: path of the file that made it complete, if that lies inside it: the first to go when it is removed
    seal: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A directory whose name tells a step, with everything below it."""

    step: int
    directory: str
    entries: Sequence[Entry]

    def file(self, name: str) -> Entry | None:
        """The file of that relative name."""
        wanted = paths.join(self.directory, name)
        return next((one for one in self.entries if one.path == wanted and not one.is_directory), None)

    def files(self) -> dict[str, Entry]:
        """Files by relative name."""
        return {one.path[len(self.directory) + 1 :]: one for one in self.entries if not one.is_directory}


@dataclass(frozen=True, slots=True)
class Scene:
    """One directory of checkpoints."""

    candidates: Sequence[Candidate]
    #: files in the directory itself, by name
    beside: Mapping[str, Entry] = field(default_factory=dict)
    #: bytes by path, of what `Format.reads` asked for and is not too large
    contents: Mapping[str, bytes] = field(default_factory=dict)


class Format(Protocol):
    """One checkpoint format. Pure."""

    def step_of(self, name: str) -> int | None:
        """The step number a directory's name tells, or None when it is no checkpoint of this format."""
        ...

    def reads(self, scene: Scene) -> Iterable[Entry]:
        """Files whose content `judge` has to know; the scene has no contents yet."""
        ...

    def judge(self, scene: Scene) -> list[Verdict]:
        """Whether the scene's candidates are complete, in their order."""
        ...


def written_after(candidate: Candidate, seal: Entry) -> str | None:
    """Return the relative name of a file that was written after `seal`; None when none was."""
    return next((name for name, one in candidate.files().items() if one.version > seal.version), None)
