"""In-memory peers of the FUSE core: a namespace and a worker that keep the contract of core/contracts.py.

Real semantics (versions, etags, NotFound, NotEmpty), no sockets; failures are switched on by attributes.
"""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fuse.core.contracts import Bytes, Committed, Dataset, Entry, Page, Restaged
from fuse.core.read_plan import ResidentBlocks
from fuse.errors import (
    AlreadyExists,
    BadHandle,
    Ended,
    FileSystemError,
    NotADirectory,
    NotEmpty,
    NotFound,
    Stale,
)


@dataclass
class Stored:
    """One committed file."""

    data: bytes
    entry: Entry


@dataclass
class FakeDataset:
    """Files and directories of one dataset."""

    info: Dataset
    files: dict[str, Stored] = field(default_factory=dict)
    directories: dict[str, Entry] = field(default_factory=lambda: {"": Entry(is_directory=True)})


class FakePeers:
    """Namespace and Worker at once."""

    def __init__(self) -> None:
        self.datasets: dict[str, FakeDataset] = {}
        self.calls: Counter[str] = Counter()
        #: Raised by the named call as long as it is there.
        self.failures: dict[str, FileSystemError] = {}
        self.pins_open = 0
        self.stagings_open = 0
        self._etags = itertools.count(1)
        self._stagings = itertools.count(1)
        #: Staging files by number, which a vault would keep over the daemon's death.
        self.kept: dict[int, FakeStaging] = {}
        #: How many commits may go on; None = all.
        self.commits: asyncio.Semaphore | None = None
        #: How many truncations may go on; None = all.
        self.cuts: asyncio.Semaphore | None = None
        #: How many directories may be read; None = all.
        self.listings: asyncio.Semaphore | None = None
        #: When what is staged was last written, as a restart finds it.
        self.staged_at_ns = 0

    def add_dataset(self, namespace: str, name: str, *, writable: bool = False, uid: str = "") -> FakeDataset:
        uid = uid or f"uid-{namespace}-{name}"
        info = Dataset(uid=uid, namespace=namespace, name=name, snapshot_version=1, writable=writable)
        self.datasets[uid] = FakeDataset(info)
        return self.datasets[uid]

    def put(self, dataset: FakeDataset, path: str, data: bytes, *, mtime_ns: int = 1, mode: int = 0) -> Entry:
        """Commit a file as another node would: a new snapshot version."""
        version = self._bump(dataset)
        for parent in _parents(path):
            dataset.directories.setdefault(parent, Entry(is_directory=True, version=version))
        entry = Entry(False, len(data), f"etag-{next(self._etags)}", mtime_ns, mode, version)
        dataset.files[path] = Stored(data, entry)
        return entry

    def load_tree(self, root: Path) -> None:
        """Add root/<namespace>/<dataset>/…; datasets whose name ends in -rw are writable."""
        for namespace in sorted(root.iterdir()):
            for directory in sorted(namespace.iterdir()):
                dataset = self.add_dataset(namespace.name, directory.name, writable=directory.name.endswith("-rw"))
                for each in sorted(directory.rglob("*")):
                    path = each.relative_to(directory).as_posix()
                    if each.is_dir():
                        dataset.directories[path] = Entry(is_directory=True)
                    else:
                        self.put(dataset, path, each.read_bytes(), mtime_ns=each.stat().st_mtime_ns)

    def _bump(self, dataset: FakeDataset) -> int:
        info = dataset.info
        dataset.info = Dataset(
            uid=info.uid,
            namespace=info.namespace,
            name=info.name,
            snapshot_version=info.snapshot_version + 1,
            writable=info.writable,
        )
        return dataset.info.snapshot_version

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.failures:
            raise self.failures[name]

    async def list_datasets(self, namespace: str = "") -> list[Dataset]:
        self._called("list_datasets")
        return [each.info for each in self.datasets.values() if namespace in ("", each.info.namespace)]

    async def get_dataset(self, namespace: str, name: str) -> Dataset:
        self._called("get_dataset")
        for each in self.datasets.values():
            if (each.info.namespace, each.info.name) == (namespace, name):
                return each.info
        raise NotFound(f"no dataset {namespace}/{name}")

    async def lookup(self, uid: str, path: str) -> Entry:
        self._called("lookup")
        dataset = self.datasets[uid]
        if path in dataset.files:
            return dataset.files[path].entry
        if path in dataset.directories:
            return dataset.directories[path]
        raise NotFound(path)

    async def read_directory(self, uid: str, path: str, after: str, limit: int) -> Page:
        self._called("read_directory")
        if self.listings is not None:
            await self.listings.acquire()
        dataset = self.datasets[uid]
        if path in dataset.files:
            raise NotADirectory(path)
        if path not in dataset.directories:
            raise NotFound(path)
        entries = dict(dataset.directories) | {each: stored.entry for each, stored in dataset.files.items()}
        prefix = path + "/" if path else ""
        names = sorted(
            each[len(prefix) :]
            for each in entries
            if each and each.startswith(prefix) and "/" not in each[len(prefix) :] and each != path
        )
        rest = [name for name in names if name > after]
        return Page(
            entries=[(name, entries[prefix + name]) for name in rest[:limit]],
            more=len(rest) > limit,
            snapshot_version=dataset.info.snapshot_version,
        )

    def pin(self, uid: str, path: str, etag: str, size_bytes: int) -> "FakePin":
        return FakePin(self, uid, path, etag, size_bytes)

    def stage(self, uid: str, path: str, base_etag: str, base_size_bytes: int) -> "FakeStaging":
        return FakeStaging(self, next(self._stagings), uid, path, base_etag, base_size_bytes)

    def restage(self, number: int, uid: str, path: str, base_etag: str, base_size_bytes: int) -> Restaged:
        left = self.kept.get(number)
        if left is None or left._data is None:
            return Restaged(staging=FakeStaging(self, number, uid, path, base_etag, base_size_bytes), is_kept=False)
        heir = left.left()
        return Restaged(staging=heir, is_kept=True, size_bytes=heir.size_bytes, mtime_ns=self.staged_at_ns)

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        self._called("remove")
        dataset = self.datasets[uid]
        if directory:
            if path not in dataset.directories:
                raise NotFound(path)
            if any(each.startswith(path + "/") for each in [*dataset.files, *dataset.directories]):
                raise NotEmpty(path)
            del dataset.directories[path]
        elif dataset.files.pop(path, None) is None:
            raise NotFound(path)
        return self._bump(dataset)

    async def rename(self, uid: str, source: str, target: str) -> tuple[int, str]:
        self._called("rename")
        dataset = self.datasets[uid]
        if source in dataset.files:
            stored = dataset.files.pop(source)
            return self.put(dataset, target, stored.data, mode=stored.entry.mode).version, dataset.files[
                target
            ].entry.etag
        if source not in dataset.directories:
            raise NotFound(source)
        if target in dataset.directories:
            raise AlreadyExists(target)
        for path in [each for each in dataset.directories if each == source or each.startswith(source + "/")]:
            dataset.directories[target + path[len(source) :]] = dataset.directories.pop(path)
        for path in [each for each in dataset.files if each.startswith(source + "/")]:
            dataset.files[target + path[len(source) :]] = dataset.files.pop(path)
        return self._bump(dataset), ""

    async def make_directory(self, uid: str, path: str, mode: int) -> int:
        self._called("make_directory")
        dataset = self.datasets[uid]
        version = self._bump(dataset)
        dataset.directories[path] = Entry(is_directory=True, mode=mode, version=version)
        return version

    async def set_mode(self, uid: str, path: str, mode: int) -> int:
        self._called("set_mode")
        dataset = self.datasets[uid]
        version = self._bump(dataset)
        if path in dataset.files:
            stored = dataset.files[path]
            entry = msgspec.structs.replace(stored.entry, mode=mode, version=version)
            dataset.files[path] = Stored(stored.data, entry)
        elif path in dataset.directories:
            dataset.directories[path] = msgspec.structs.replace(dataset.directories[path], mode=mode, version=version)
        else:
            raise NotFound(path)
        return version


class FakePin:
    """A version for reading; `lose` forgets residency as the worker's death does."""

    def __init__(self, peers: FakePeers, uid: str, path: str, etag: str, size_bytes: int) -> None:
        self._peers = peers
        self._key = (uid, path, etag)
        self._blocks = ResidentBlocks(size_bytes)
        self._data = b""
        self._is_open = False
        self.ensured: list[tuple[int, int]] = []

    def is_resident(self, offset_bytes: int, length_bytes: int) -> bool:
        return self._is_open and self._blocks.covers(offset_bytes, length_bytes)

    def lose(self) -> None:
        self._is_open = False
        self._blocks.clear()

    async def whole_file(self) -> int | None:
        return None

    async def bring_whole(self, seconds: float) -> int:
        return 0

    async def ensure(self, offset_bytes: int, length_bytes: int) -> None:
        self._peers._called("ensure")
        uid, path, etag = self._key
        stored = self._peers.datasets[uid].files.get(path)
        if stored is None or stored.entry.etag != etag:
            raise Stale(path)
        if not self._is_open:
            self._peers._called("open")
            self._peers.pins_open += 1
            self._is_open = True
            self._data = stored.data
        self.ensured.append((offset_bytes, length_bytes))
        self._blocks.add(offset_bytes, length_bytes)

    def ensure_soon(self, offset_bytes: int, length_bytes: int, *, in_order: bool = False) -> None:
        self._peers.calls["ensure_soon"] += 1

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        self._peers._called("read")
        return self._data[offset_bytes : offset_bytes + length_bytes]

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._peers.pins_open -= 1


class FakeStaging:
    """A file being written."""

    def __init__(
        self, peers: FakePeers, number: int, uid: str, path: str, base_etag: str, base_size_bytes: int
    ) -> None:
        self._peers = peers
        self.number = number
        self._uid = uid
        self.path = path
        self.base_etag = base_etag
        self.base_size_bytes = base_size_bytes
        self._data: bytearray | None = None
        self._committing = asyncio.Lock()
        self._is_closed = False

    async def open(self) -> None:
        if self._data is not None:
            return
        if self._is_closed:
            raise Ended(self.path)
        self._peers._called("create")
        self._peers.stagings_open += 1
        base = b""
        if self.base_etag:
            stored = self._peers.datasets[self._uid].files.get(self.path)
            if stored is None or stored.entry.etag != self.base_etag:
                self._peers.stagings_open -= 1
                raise Stale(self.path)
            base = stored.data
        self._data = bytearray(base)
        self._peers.kept[self.number] = self

    def left(self) -> "FakeStaging":
        """The same bytes for the next daemon."""
        assert self._data is not None
        heir = FakeStaging(self._peers, self.number, self._uid, self.path, "", 0)
        heir._data = self._data
        self._peers.kept[self.number] = heir
        return heir

    @property
    def size_bytes(self) -> int:
        return len(self._data or b"")

    async def _bytes(self) -> bytearray:
        await self.open()
        assert self._data is not None
        return self._data

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        return bytes((await self._bytes())[offset_bytes : offset_bytes + length_bytes])

    async def write(self, offset_bytes: int, data: Bytes) -> int:
        self._peers._called("write")
        own = await self._bytes()
        if offset_bytes > len(own):
            own.extend(bytes(offset_bytes - len(own)))
        own[offset_bytes : offset_bytes + len(data)] = data
        return len(data)

    async def truncate(self, size_bytes: int) -> None:
        self._peers._called("truncate")
        if self._peers.cuts is not None:
            self._peers.calls["cut"] += 1
            await self._peers.cuts.acquire()
        own = await self._bytes()
        del own[size_bytes:]
        own.extend(bytes(size_bytes - len(own)))

    async def commit(self, mode: int, mtime_ns: int) -> Committed:
        async with self._committing:
            return await self._commit(mode, mtime_ns)

    async def _commit(self, mode: int, mtime_ns: int) -> Committed:
        if self._is_closed:
            raise Ended(self.path)
        if self._peers.commits is not None:
            await self._peers.commits.acquire()
            if self._is_closed:
                raise BadHandle(self.path)  # the worker's word for it
        self._peers._called("commit")
        dataset = self._peers.datasets[self._uid]
        data = bytes(await self._bytes())
        entry = self._peers.put(dataset, self.path, data, mtime_ns=mtime_ns, mode=mode)
        return Committed(etag=entry.etag, size_bytes=len(data), snapshot_version=entry.version, mtime_ns=mtime_ns)

    async def settle(self) -> None:
        async with self._committing:
            return

    def moved(self, path: str, etag: str) -> None:
        self.path = path
        if self._data is None and self.base_etag:
            self.base_etag = etag

    def close(self) -> None:
        self._is_closed = True
        if self._data is not None:
            self._peers.stagings_open -= 1
            self._peers.kept.pop(self.number, None)
            self._data = None


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
