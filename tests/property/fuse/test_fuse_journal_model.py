"""Daemons that die at any moment: the kernel's inodes and handles, and every byte, are as before.

A model of one directory of files, and of what is open, is held against a mount whose daemon is replaced now and then by
one that has only the journal and the kept staging files.
"""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fuse.core.inodes import ROOT_INODE
from fuse.errors import NotFound
from tests.builders.fuse_mount import MortalMount, known_to_kernel

T = TypeVar("T")
NAMES = st.sampled_from(["a", "b", "c", "deep/a", "deep/b"])
BYTES = st.binary(max_size=40)


class Mortal(RuleBasedStateMachine):
    """Every rule is what an application does; `die` may come between any two."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.mount = MortalMount(writable=True)
        self.run(self.mount.operations.moves.mkdir(self.run(self.mount.inode("")), b"deep", 0o755))
        #: Committed bytes by path.
        self.files: dict[str, bytes] = {}
        #: Bytes by handle number, shared by the handles of one inode.
        self.open: dict[int, tuple[int, bytearray, bool]] = {}
        self.lookups: dict[int, int] = {}

    handles = Bundle("handles")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self.loop.run_until_complete(work)
        finally:
            self.mount.record()

    def teardown(self) -> None:
        self.loop.close()

    def _inode(self, path: str) -> int | None:
        try:
            return self.run(self.mount.inode(path))
        except NotFound:
            return None

    @rule(target=handles, path=NAMES)
    def create(self, path: str) -> int:
        inode = self._inode(path)
        same = next((data for at, data, _ in self.open.values() if at == inode), None)
        number = self.run(self.mount.create(path, os.O_RDWR))
        content = same if same is not None else bytearray(self.files.get(path, b""))
        node = self.mount.operations.state.handles.file(number).node
        self.open[number] = (node.inode, content, True)
        return number

    @rule(target=handles, path=NAMES)
    def open_to_read(self, path: str) -> int:
        if path not in self.files:
            return 0
        number = self.run(self.mount.open(path))
        node = self.mount.operations.state.handles.file(number).node
        same = next((data for at, data, _ in self.open.values() if at == node.inode), None)
        self.open[number] = (node.inode, same if same is not None else bytearray(self.files[path]), False)
        return number

    @rule(number=handles, data=BYTES, at=st.integers(0, 50))
    def write(self, number: int, data: bytes, at: int) -> None:
        _, content, writes = self.open.get(number, (0, bytearray(), False))
        if not writes or not data:
            return
        self.mount.clock.seconds += 1
        self.run(self.mount.operations.changes.write(number, at, data))
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data

    @rule(number=handles)
    def sync(self, number: int) -> None:
        if number in self.open and self.open[number][2]:
            self.run(self.mount.operations.changes.fsync(number))
            self._committed(number)

    @rule(number=consumes(handles))
    def close(self, number: int) -> None:
        if number not in self.open:
            return
        self.run(self.mount.operations.changes.flush(number))
        if self.open[number][2]:
            self._committed(number)
        self.run(self.mount.operations.changes.release(number))
        del self.open[number]

    def _committed(self, number: int) -> None:
        node = self.mount.operations.state.handles.file(number).node
        if not node.is_detached:
            self.files[node.path] = bytes(self.open[number][1])

    @rule(source=NAMES, new_name=NAMES)
    def rename(self, source: str, new_name: str) -> None:
        inode = self._inode(source)
        if inode is None or source == new_name:
            return
        content = next((bytes(data) for at, data, writes in self.open.values() if at == inode and writes), None)
        self._removed(self._inode(new_name))
        self.run(self.mount.rename(source, new_name))
        self.files[new_name] = content if content is not None else self.files[source]
        self.files.pop(source, None)

    @rule(path=NAMES)
    def unlink(self, path: str) -> None:
        inode = self._inode(path)
        if inode is None:
            return
        self._removed(inode)
        self.run(self.mount.unlink(path))
        self.files.pop(path, None)

    def _removed(self, inode: int | None) -> None:
        """The store will not have the file's bytes any more: only what is staged is sure to be read on."""
        node = self.mount.operations.state.inodes.find(inode) if inode is not None else None
        if node is None or (node.writing is not None and node.writing.has_staged_bytes):
            return
        self.open = {number: each for number, each in self.open.items() if each[0] != inode}

    @rule(path=NAMES)
    def forget(self, path: str) -> None:
        inode = self._inode(path)
        if inode is not None:
            self.mount.operations.names.forget(inode, 1)
            self.mount.record()

    @rule(begins_anew=st.booleans())
    def die(self, begins_anew: bool) -> None:
        if begins_anew:
            self.mount.begin_anew()
        before = known_to_kernel(self.mount.operations)
        numbers = set(self.mount.operations.state.handles.numbers())
        tables = self.mount.operations.state
        nexts = tables.inodes.next_inode, tables.handles.next_number
        self.mount.die()
        after = self.mount.operations.state
        assert known_to_kernel(self.mount.operations) == before
        assert set(after.handles.numbers()) == numbers
        # Nodes the kernel was never told of took numbers too; those may be given again.
        assert after.inodes.next_inode <= nexts[0]
        assert after.inodes.next_inode > max(before, default=ROOT_INODE)
        assert after.handles.next_number >= nexts[1]

    @invariant()
    def every_handle_reads_its_bytes(self) -> None:
        for number, (inode, content, _) in self.open.items():
            node = self.mount.operations.state.handles.file(number).node
            assert node.inode == inode
            assert self.run(self.mount.read(number)) == bytes(content)

    @invariant()
    def the_store_has_what_was_committed(self) -> None:
        assert self.mount.origin() == self.files


TestMortal = Mortal.TestCase
TestMortal.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class MortalLong(Mortal):
    """The same for longer."""


TestMortalLong = pytest.mark.nightly(MortalLong.TestCase)
TestMortalLong.settings = settings(
    max_examples=4000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
