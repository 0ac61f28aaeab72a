"""`auto`: each checkpoint is judged by the format its own files show.

A marker is the program's explicit word and counts first: where one checkpoint of the directory has it, all are judged
by it. A program that goes on writing after its framework's save (a data loader's state) and does not use the marker
should name its format.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats import orbax, torch_dcp, tracker
from metadata.core.formats.base import Candidate, Format, Scene, Verdict
from metadata.core.formats.marker import MarkerFormat, marker_format
from metadata.core.formats.steps import step_at_end

NAME: Final = "auto"
_MEGATRON = tracker.megatron("")
_DEEPSPEED = tracker.deepspeed("")
_TORCH_DCP = torch_dcp.torch_dcp("")
_ORBAX = orbax.orbax("")


@dataclass(frozen=True, slots=True)
class AutoFormat:
    """`marker` is the format of what shows no other."""

    marker: MarkerFormat

    def step_of(self, name: str) -> int | None:
        return step_at_end(name)

    def reads(self, scene: Scene) -> Iterable[Entry]:
        kinds = self._kinds(scene)
        found: list[Entry] = []
        for kind in (_MEGATRON, _DEEPSPEED, _TORCH_DCP):
            own = [one for one, its in zip(scene.candidates, kinds, strict=True) if its is kind]
            found += kind.reads(replace(scene, candidates=own)) if own else ()
        return found

    def judge(self, scene: Scene) -> list[Verdict]:
        kinds = self._kinds(scene)
        verdicts: dict[str, Verdict] = {}
        for kind in {id(one): one for one in kinds}.values():
            own = [one for one, its in zip(scene.candidates, kinds, strict=True) if its is kind]
            found = kind.judge(replace(scene, candidates=own))
            verdicts |= {one.directory: verdict for one, verdict in zip(own, found, strict=True)}
        return [verdicts[one.directory] for one in scene.candidates]

    def _kinds(self, scene: Scene) -> list[Format]:
        if any(one.file(self.marker.marker) is not None for one in scene.candidates):
            return [self.marker for _ in scene.candidates]
        return [self._kind(one, scene) for one in scene.candidates]

    def _kind(self, candidate: Candidate, scene: Scene) -> Format:
        name = paths.split(candidate.directory)[1]
        if tracker.MEGATRON_TRACKER in scene.beside or tracker.MEGATRON_NAME.fullmatch(name):
            return _MEGATRON
        if tracker.DEEPSPEED_TRACKER in scene.beside or tracker.DEEPSPEED_NAME.fullmatch(name):
            return _DEEPSPEED
        if any(one.path.endswith((".distcp", f"/{torch_dcp.METADATA}")) for one in candidate.entries):
            return _TORCH_DCP
        if candidate.file(orbax.METADATA) is not None or candidate.file(orbax.COMMIT) is not None:
            return _ORBAX
        return self.marker


def auto(marker: str) -> AutoFormat:
    """Check the marker's name and return the format; InvalidRequest names the field."""
    return AutoFormat(marker_format(marker))
