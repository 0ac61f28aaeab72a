"""A mount without a kernel: the operations of fuse/core over in-memory peers, called by path."""

import os
from collections.abc import AsyncIterator

from fuse.core.attrs import Attributes
from fuse.core.handles import FileHandle
from fuse.core.inodes import ROOT_INODE
from fuse.core.journal import Image, replay
from fuse.core.open_modes import Choice
from fuse.core.operations import Operations
from fuse.core.recorder import Recorder
from fuse.core.restore import restore
from fuse.errors import NotFound
from tests.builders.fuse_peers import FakeDataset, FakePeers


class Clock:
    """Both clocks of a mount, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ns(self) -> int:
        return int(self.seconds * 1e9)


class KernelLessMount:
    """One dataset `ns/data`, and the calls the kernel would make."""

    def __init__(self, *, writable: bool, watching: bool = True) -> None:
        self.peers = FakePeers()
        self.clock = Clock()
        self.operations = Operations(self.peers, self.peers, monotonic=self.clock.monotonic, wall_ns=self.clock.wall_ns)
        self.dataset: FakeDataset = self.peers.add_dataset("ns", "data", writable=writable)
        if watching:
            self.watch()

    def watch(self) -> None:
        """The watch comes up and tells of all datasets."""
        for each in self.peers.datasets.values():
            self.operations.dataset_changed(each.info)
        self.operations.watching(is_watching=True)

    def published(self) -> list[tuple[int, bytes]]:
        """The watch tells of the dataset's current version."""
        return self.operations.dataset_changed(self.dataset.info)

    async def inode(self, path: str) -> int:
        attributes = await self.stat(path)
        return attributes.inode

    async def stat(self, path: str) -> Attributes:
        """Walk to `path` inside the dataset; NotFound as the kernel would say it."""
        attributes: Attributes | None = None
        inode = ROOT_INODE
        for name in ["ns", "data", *filter(None, path.split("/"))]:
            attributes = await self.operations.names.lookup(inode, name.encode())
            if not attributes.inode:
                raise NotFound(path)
            inode = attributes.inode
        assert attributes is not None
        return attributes

    async def create(self, path: str, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
        directory, _, name = path.rpartition("/")
        parent = await self.inode(directory)
        number, _, _ = await self.operations.changes.create(parent, name.encode(), mode, flags)
        return number

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        number, _ = await self.open_cached(path, flags)
        return number

    async def open_cached(self, path: str, flags: int = os.O_RDONLY) -> tuple[int, bool]:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        return await self.operations.open(await self.inode(path), flags, writes=writes)

    async def read(self, number: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        return bytes(await self.operations.reads.read(number, offset, length))

    async def close(self, number: int) -> None:
        try:
            await self.operations.changes.flush(number)
        finally:
            await self.operations.changes.release(number)

    async def write_file(self, path: str, data: bytes) -> None:
        number = await self.create(path)
        await self.operations.changes.write(number, 0, data)
        await self.close(number)

    async def rename(self, source: str, target: str, flags: int = 0) -> None:
        old, new = source.rpartition("/"), target.rpartition("/")
        await self.operations.moves.rename(
            await self.inode(old[0]), old[2].encode(), await self.inode(new[0]), new[2].encode(), flags
        )

    async def unlink(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        await self.operations.moves.unlink(await self.inode(directory), name.encode())

    async def names(self, path: str) -> list[str]:
        number = await self.operations.names.open_directory(await self.inode(path))
        try:
            return [name async for name in _names(self.operations, number)]
        finally:
            self.operations.names.release_directory(number)

    def origin(self) -> dict[str, bytes]:
        """What the under store holds."""
        return {path: stored.data for path, stored in self.dataset.files.items()}


async def _names(operations: Operations, number: int) -> AsyncIterator[str]:
    position = 0
    while True:
        _, entries = await operations.names.directory_page(number, position)
        if position >= len(entries):
            return
        for name, _ in entries[position:]:
            yield name
        position = len(entries)


class MortalMount(KernelLessMount):
    """A mount whose daemon dies: what it wrote down is all its successor has."""

    def __init__(self, *, writable: bool) -> None:
        super().__init__(writable=writable)
        self.journal = bytearray()
        self.deaths = 0
        self.recorder = Recorder(self.operations.state, Image())

    def record(self) -> None:
        """An answer leaves."""
        handles = self.operations.state.handles
        for number in handles.numbers():
            handle = handles.find(number)
            if isinstance(handle, FileHandle) and handle.choice is None:
                handle.choice = Choice.CACHED
                handles.note(number)
        self.journal += self.recorder.news()

    def die(self, *, lost_bytes: int = 0) -> None:
        """The daemon dies, perhaps in the middle of its last record; another goes on."""
        if lost_bytes:
            del self.journal[-lost_bytes:]
        image = replay(self.journal)
        del self.journal[image.end :]
        self.peers.pins_open = 0
        old = self.operations
        self.operations = Operations(self.peers, self.peers, monotonic=self.clock.monotonic, wall_ns=self.clock.wall_ns)
        self.watch()
        self.peers.staged_at_ns = self.clock.wall_ns()
        restore(self.operations.state, image)
        self.recorder = Recorder(self.operations.state, image)
        assert old.state is not self.operations.state
        self.deaths += 1

    def begin_anew(self) -> None:
        """Replace the journal by a whole new one."""
        self.journal = bytearray(b"".join(self.recorder.everything()))


def known_to_kernel(operations: Operations) -> dict[int, tuple[object, ...]]:
    """What must be the same after a death, by inode."""
    inodes = operations.state.inodes
    return {
        inode: (node.kind, node.path, node.lookups, node.is_detached, node.handles, node.entry, node.writing is None)
        for inode, node in ((inode, inodes.get(inode)) for inode in inodes.numbers())
    }
