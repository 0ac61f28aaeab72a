"""Megatron-LM and DeepSpeed: one small file beside the checkpoints names the last one that was finished.

The tracker is overwritten after each save, so it vouches for one checkpoint: the one it names, if no file of that is
newer than the tracker (asynchronous saves have moved it too early). What it says of an older one is only that a newer
one was finished, and the program may have been killed while it saved the older one; so an older one is believed when it
has every file of the one named, none much smaller. A larger step than the one named was never finished. A tracker that
names nothing was cut off while it was written, which is after all files of a checkpoint: then the one with the most
files takes the place of the one named.

Known limit: when the number of processes changed, checkpoints of before have other files and count as incomplete; the
one named never suffers from that.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from metadata.core.entries import Entry
from metadata.core.formats.base import Candidate, Scene, Verdict, written_after
from metadata.core.formats.steps import step_at_end

MEGATRON: Final = "Megatron"
DEEPSPEED: Final = "DeepSpeed"
MEGATRON_TRACKER: Final = "latest_checkpointed_iteration.txt"
DEEPSPEED_TRACKER: Final = "latest"
MEGATRON_NAME: Final = re.compile(r"iter_[0-9]{7,}")
DEEPSPEED_NAME: Final = re.compile(r"global_step[0-9]+")
SIZE_RATIO_MIN: Final = 0.99
"""Counters in a file make its size differ by some bytes from step to step; a cut-off file lacks more."""


@dataclass(frozen=True, slots=True)
class TrackerFormat:
    """`tracker` is the file's name; its content ends in a step."""

    tracker: str

    def step_of(self, name: str) -> int | None:
        return step_at_end(name)

    def reads(self, scene: Scene) -> Iterable[Entry]:
        found = scene.beside.get(self.tracker)
        return () if found is None else (found,)

    def judge(self, scene: Scene) -> list[Verdict]:
        tracker = scene.beside.get(self.tracker)
        if tracker is None:
            problem = f"there is no {self.tracker}, so no save was ever finished"
            return [Verdict(False, problem=problem) for _ in scene.candidates]
        text = scene.contents.get(tracker.path, b"")[:4096].decode(errors="replace").strip()
        named = step_at_end(text)
        model = _reference(scene, named)
        return [self._verdict(candidate, tracker, named, model) for candidate in scene.candidates]

    def _verdict(self, candidate: Candidate, tracker: Entry, named: int | None, model: Mapping[str, Entry]) -> Verdict:
        if named is not None and candidate.step > named:
            return Verdict(False, problem=f"{self.tracker} names step {named}: this one was not finished")
        files = candidate.files()
        if not files:
            return Verdict(False, problem="it has no files")
        later = written_after(candidate, tracker)
        if later is not None:
            return Verdict(False, problem=f"its file {later} was written after {self.tracker}")
        if candidate.step == named:
            return Verdict(True, tracker.mtime_ns)
        problem = _lacks(files, model)
        if problem is not None:
            return Verdict(False, problem=problem)
        return Verdict(True, max(one.mtime_ns for one in files.values()))


def _reference(scene: Scene, named: int | None) -> Mapping[str, Entry]:
    """Files of the checkpoint the tracker names; the one with the most files and bytes if there is none."""

    def rank(one: Candidate) -> tuple[bool, int, int]:
        files = one.files()
        return one.step == named, len(files), sum(file.size_bytes for file in files.values())

    finished = [one for one in scene.candidates if named is None or one.step <= named]
    return max(finished, key=rank).files() if finished else {}


def _lacks(files: Mapping[str, Entry], wanted: Mapping[str, Entry]) -> str | None:
    for name, model in wanted.items():
        own = files.get(name)
        if own is None:
            return f"it lacks the file {name}, which a finished one has"
        if own.size_bytes < SIZE_RATIO_MIN * model.size_bytes:
            return f"its file {name} has {own.size_bytes} bytes, a finished one's {model.size_bytes}"
    return None


def megatron(marker: str) -> TrackerFormat:
    """`iter_0000100/` beside `latest_checkpointed_iteration.txt`."""
    return TrackerFormat(MEGATRON_TRACKER)


def deepspeed(marker: str) -> TrackerFormat:
    """`global_step100/` beside `latest`."""
    return TrackerFormat(DEEPSPEED_TRACKER)
