"""A program that is killed anywhere in a save, again and again: the newest complete checkpoint is always a whole one.

The saves are those of the frameworks (tests/saves/protocols.py), on a model of what a namespace shows: a file appears
with its close, a killed program's open files as far as they were written, each change has a version of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from metadata.core import paths
from metadata.core.checkpoints import Checkpoint, contents_wanted, judged, scene
from metadata.core.entries import Entry, Kind
from metadata.core.formats.registry import checkpoint_format
from metadata.core.formats.torch_dcp import listed_bytes
from tests.saves.protocols import MARKER, SAVES, Operation, dcp_metadata, format_of, is_whole, shard_files

SHARD_BYTES = 600


@dataclass
class Namespace:
    """What the metadata service knows, and the bytes in the under store."""

    entries: dict[str, Entry] = field(default_factory=dict)
    bytes_of: dict[str, bytes] = field(default_factory=dict)
    open_files: dict[str, bytes] = field(default_factory=dict)
    version: int = 1

    def perform(self, operation: Operation) -> None:
        match operation.verb:
            case "open":
                self.open_files[operation.path] = b""
            case "write":
                self.open_files[operation.path] += operation.data
            case "close":
                self._commit(operation.path)
            case "mkdir":
                self._directories(operation.path + "/x")
            case "rename":
                self._rename(operation.path, operation.target)

    def die(self) -> None:
        """The kernel closes what a killed process had open."""
        for path in list(self.open_files):
            self._commit(path)

    def _commit(self, path: str) -> None:
        data = self.open_files.pop(path)
        self.version += 1
        self._directories(path)
        self.entries[path] = Entry(path, Kind.FILE, len(data), f"e{self.version}", self.version, version=self.version)
        self.bytes_of[path] = data

    def _directories(self, path: str) -> None:
        for above in paths.ancestors(path):
            self.entries.setdefault(above, Entry(above, Kind.MADE, version=self.version))

    def _rename(self, source: str, target: str) -> None:
        self.version += 1
        for path in [one for one in self.entries if paths.is_at_or_below(one, source)]:
            moved = target + path[len(source) :]
            self.entries[moved] = structs.replace(self.entries.pop(path), path=moved, version=self.version)
            if path in self.bytes_of:
                self.bytes_of[moved] = self.bytes_of.pop(path)

    def checkpoints(self, kind: str) -> list[Checkpoint]:
        rules = checkpoint_format(kind, MARKER)
        children = [one for path, one in self.entries.items() if paths.split(path)[0] == ""]

        def below(top: str) -> list[Entry]:
            return [one for path, one in self.entries.items() if path != top and paths.is_at_or_below(path, top)]

        seen = scene(children, below, rules)
        return judged(seen, rules, {one.path: self.bytes_of[one.path] for one in contents_wanted(seen, rules)})

    def is_whole(self, protocol: str, checkpoint: Checkpoint) -> bool:
        files = enumerate(shard_files(protocol, checkpoint.step))
        return all(
            is_whole(self.bytes_of.get(f"{checkpoint.path}/{name}", b""), checkpoint.step, rank) for rank, name in files
        )


def newest(found: list[Checkpoint]) -> Checkpoint | None:
    return next((one for one in found if one.complete), None)


@pytest.mark.parametrize("protocol", SAVES)
@pytest.mark.parametrize("is_named", [True, False])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), lives=st.lists(st.integers(0, 70), min_size=1, max_size=8))
def test_whenever_it_is_killed_the_newest_complete_one_is_whole(
    protocol: str, is_named: bool, seed: int, lives: list[int]
) -> None:
    """Each life performs so many operations, saves at its own interval, and its successor goes on from the newest."""
    chance, namespace = random.Random(seed), Namespace()
    kind = format_of(protocol) if is_named else "auto"
    for operations in lives:
        before = newest(namespace.checkpoints(kind))
        step, interval = before.step if before else 0, chance.randrange(1, 4)
        saved = step
        left = operations
        while left > 0:
            step += interval
            for operation in SAVES[protocol](step, SHARD_BYTES, chance):
                if left == 0:
                    break
                namespace.perform(operation)
                left -= 1
            else:
                saved = step
        namespace.die()
        found = newest(namespace.checkpoints(kind))
        assert (found.step if found else 0) >= saved, "a finished save is never lost"
        assert found is None or namespace.is_whole(protocol, found)
        for one in namespace.checkpoints(kind):
            assert not one.complete or namespace.is_whole(protocol, one), (
                "an older one that is called complete is whole"
            )
            assert one.complete or one.problem


@pytest.mark.parametrize("protocol", ["Marker", "TorchDCP", "Megatron", "DeepSpeed", "Orbax"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(protocol: str) -> None:
    """Damage the entries show: its last file is gone."""
    namespace = Namespace()
    for step in (1, 2):
        for operation in SAVES[protocol](step, SHARD_BYTES, random.Random(step)):
            namespace.perform(operation)
    last = newest(namespace.checkpoints("auto"))
    assert last is not None
    assert last.step == 2
    seal = last.seal or {"Megatron": "latest_checkpointed_iteration.txt", "DeepSpeed": "latest"}[protocol]
    del namespace.entries[seal]
    before = newest(namespace.checkpoints("auto"))
    assert before is None if protocol in ("Megatron", "DeepSpeed") else before is not None and before.step == 1


def test_a_dcp_checkpoint_whose_shard_is_cut_off_or_gone_is_not_complete() -> None:
    namespace = Namespace()
    for operation in SAVES["TorchDCP"](5, SHARD_BYTES, random.Random(0)):
        namespace.perform(operation)
    shard = "step-5/__1_0.distcp"
    whole = namespace.entries[shard]
    namespace.entries[shard] = structs.replace(whole, size_bytes=SHARD_BYTES - 1)
    (found,) = namespace.checkpoints("auto")
    assert (found.complete, found.problem) == (
        False,
        f"its file __1_0.distcp has {SHARD_BYTES - 1} bytes of {SHARD_BYTES} that .metadata lists",
    )
    del namespace.entries[shard]
    (found,) = namespace.checkpoints("TorchDCP")
    assert (found.complete, found.problem) == (False, "it lacks the file __1_0.distcp, which .metadata lists")
    namespace.entries[shard] = structs.replace(whole, version=namespace.version + 1)
    (found,) = namespace.checkpoints("TorchDCP")
    assert (found.complete, found.problem) == (False, "its file __1_0.distcp was written after .metadata")


SIZES = st.dictionaries(st.text("ab_0.", min_size=1, max_size=8), st.integers(2, 1 << 40), max_size=3)


@settings(deadline=None, max_examples=20)
@given(protocol=st.sampled_from([2, 3, 4, 5]), sizes=SIZES)
def test_the_records_of_a_dcp_metadata_are_read_without_loading_it(protocol: int, sizes: dict[str, int]) -> None:
    content = dcp_metadata(sizes, protocol)
    assert listed_bytes(content) == sizes
    for at in range(0, len(content), 7):
        assert listed_bytes(content[:at]) is None


@given(data=st.binary(max_size=200))
def test_no_bytes_upset_the_scan(data: bytes) -> None:
    listed_bytes(data)
