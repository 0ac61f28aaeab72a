"""Clients of a worker that is killed, or whose metadata service is: what they were told is done must stay done.

Each owns a directory and a model of it. A change that was answered is in the model; one that was cut off may be done or
not, or be half way where SEMANTICS of an under store without renames leave it: a version that is overwritten in the
store and not yet in the namespace answers ESTALE until the change is made again, which must succeed.
"""

import errno
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from api import byteplane as bp
from api.byteplane import Op
from api.gen import metadata_pb2
from benchmarks.data_plane import DataPlane, DataPlaneError
from tests.builders.cache_cluster import LocalClient, WorkerRefused

UID: Final = "uid-bench-work"
BOOKS_UID: Final = "uid-bench-books"
PATIENCE_SECONDS: Final = 300.0
"""A process that is born and killed elsewhere meanwhile comes back after several starts of a busy machine."""
SIZES: Final = (0, 1, 4096, 70_000, 200_000)
NAMES: Final = tuple("abcdef")
UNREACHED: Final = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTUNREACH})
"""What a worker says that does not reach its metadata service: the change may be done or not."""

Content = bytes | None
"""None: nothing is there."""
STALE: Final = b"the under store has another version than the namespace"


class Client(threading.Thread):
    """A thread with a connection that comes back after its worker."""

    def __init__(self, name: str, socket: Path, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.chance = random.Random(seed)
        self.is_stopping = False
        self.faults: list[str] = []
        self._socket = socket
        self._client: LocalClient | None = None

    def run(self) -> None:
        """Step until told to stop, or until something is wrong."""
        while not self.is_stopping and not self.faults:
            try:
                self.step()
            except Exception as error:  # noqa: BLE001  # told by whoever started the thread
                self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
        try:
            if not self.faults:
                self.end()
        except Exception as error:  # noqa: BLE001
            self.faults.append(f"{self.name} at its end: {type(error).__name__}: {error}")
        self.lost()

    def step(self) -> None:
        """Do one thing."""
        raise NotImplementedError

    def end(self) -> None:
        """Look once more at everything."""

    def client(self) -> LocalClient:
        """Return a connection, waiting for a worker that comes back."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._client is None:
            try:
                self._client = LocalClient(self._socket)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        return self._client

    def lost(self) -> None:
        """The connection is of no use any more."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def insist(self, act: Callable[[LocalClient], bytes | None]) -> bytes | None:
        """Act until it is answered; WorkerRefused, with what is neither lost nor out of reach."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return act(self.client())
            except WorkerRefused as refused:
                if refused.errno not in UNREACHED or time.monotonic() > deadline:
                    raise
            except OSError:
                self.lost()
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)


@dataclass(frozen=True)
class Change:
    """A request, what is there after it, and the errno that says it had been done before."""

    what: str
    ask: Callable[[LocalClient], object]
    after: dict[str, Content]
    done_before: int


class Writer(Client):
    """Writes, removes and renames files of its own directory."""

    def __init__(self, socket: Path, origin: Path, seed: int, name: str) -> None:
        super().__init__(name, socket, seed)
        self.acknowledged = 0
        self._origin = origin
        self._model: dict[str, Content] = dict.fromkeys(NAMES)
        self._left: set[str] = set()
        """Paths under which a change that was cut off may have left an object that no name leads to."""
        self._has_directory = False

    def step(self) -> None:
        """Change something; look at everything now and then, and whenever a change was cut off."""
        if not self._has_directory:
            self._insist_on(self._make_directory())
            self._has_directory = True
        change = self._choose()
        try:
            change.ask(self.client())
        except WorkerRefused as refused:
            if refused.errno in UNREACHED:
                self._cut_off(change)
            elif refused.errno in {errno.ESTALE, errno.ENOENT} and change.after.keys() & self._left:
                # ENOENT: a removal that was cut off, and not made again, took the object away and not the name.
                for name in sorted(change.after.keys() & self._left):
                    self._write_again(name)
            else:
                raise AssertionError(f"{change.what}: {refused}") from refused
        except OSError:
            self.lost()
            self._cut_off(change)
        else:
            self._model.update(change.after)
            self._left -= set(change.after)
            self.acknowledged += 1
            if self.chance.random() < 0.05:
                self.end()

    def end(self) -> None:
        """Everything is as it was told, in the namespace, through the worker, and in the under store."""
        for name in NAMES:
            found = self._content(name, may_be_stale=name in self._left)
            if found is STALE:
                self._write_again(name)
                continue
            wanted = self._model[name]
            self._check(name, found, wanted)
            path = self._origin / self.name / name
            if name not in self._left:
                self._check(f"{name} in the under store", path.read_bytes() if path.exists() else None, wanted)
        self._check(
            "names", self._names(), sorted(name for name, content in self._model.items() if content is not None)
        )

    def _choose(self) -> Change:
        name, other = self.chance.sample(NAMES, 2)
        there = self._model[name]
        what = self.chance.choice(["write", "write", "write", "rename", "rename", "remove"])
        path = f"{self.name}/{name}"
        if what == "write" or there is None:
            return self._write(name)
        if what == "rename":
            meta = bp.Rename(uid=UID, source=path, target=f"{self.name}/{other}")
            after = {name: None, other: there}
            return Change(
                f"rename {name} {other}", lambda client: client.call(Op.RENAME, meta, bp.Mutated), after, errno.ENOENT
            )
        remove = bp.Remove(uid=UID, path=path)
        return Change(
            f"remove {name}", lambda client: client.call(Op.REMOVE, remove, bp.Mutated), {name: None}, errno.ENOENT
        )

    def _write(self, name: str) -> Change:
        path, data = f"{self.name}/{name}", self.chance.randbytes(self.chance.choice(SIZES))
        return Change(f"write {name}", lambda client: client.write(UID, path, data), {name: data}, 0)

    def _make_directory(self) -> Change:
        meta = bp.MakeDirectory(uid=UID, path=self.name, mode=0o755)
        return Change("mkdir", lambda client: client.call(Op.MAKE_DIRECTORY, meta, bp.Mutated), {}, errno.EEXIST)

    def _cut_off(self, change: Change) -> None:
        """Nobody said whether it was done: made again, or looked at."""
        self._left |= set(change.after)
        stale = set()
        if self.chance.random() < 0.5:
            for name, after in change.after.items():
                found = self._content(name, may_be_stale=True)
                if found is STALE:
                    stale.add(name)
                elif found not in (self._model[name], after):
                    self._wrong(f"{name} after {change.what} was cut off", found, self._model[name])
                else:
                    self._model[name] = found
            if not stale:
                self.end()
                return
        self._insist_on(change)
        self._model.update(change.after)
        self.end()

    def _write_again(self, name: str) -> None:
        """A change that was cut off, and not made again, has overwritten a file in the under store, which the namespace
        does not know: only what nobody was told is done may be lost, and writing heals it."""
        again = self._write(name)
        self._insist_on(again)
        self._model.update(again.after)
        self._left.discard(name)

    def _insist_on(self, change: Change) -> None:
        def ask(client: LocalClient) -> None:
            change.ask(client)

        try:
            self.insist(ask)
        except WorkerRefused as refused:
            if refused.errno != change.done_before:
                raise AssertionError(f"{change.what}, made again: {refused}") from refused

    def _content(self, name: str, *, may_be_stale: bool = False) -> Content:
        def look(client: LocalClient) -> None:
            lookup = bp.Lookup(uid=UID, path=f"{self.name}/{name}")
            looked_up[0], _, _ = client.call(Op.LOOKUP, lookup, bp.FoundEntry)

        looked_up = [bp.FoundEntry(path="")]
        try:
            self.insist(look)
        except WorkerRefused as refused:
            if refused.errno == errno.ENOENT:
                return None
            raise
        found = looked_up[0]
        entry = metadata_pb2.Entry(path=found.path, etag=found.etag, size_bytes=found.size_bytes)
        try:
            return self.insist(lambda client: client.read(UID, entry)[0])
        except WorkerRefused as refused:
            if refused.errno in {errno.ESTALE, errno.ENOENT} and may_be_stale:
                return STALE
            raise AssertionError(f"reading {name}: {refused}") from refused

    def _names(self) -> list[str]:
        names: list[str] = []

        def ask(client: LocalClient) -> None:
            meta = bp.List(uid=UID, path=self.name)
            listed, _, _ = client.call(Op.LIST, meta, bp.Listed)
            names[:] = [entry.path.rpartition("/")[2] for entry in listed.entries]

        self.insist(ask)
        return names

    def _check(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self._wrong(what, found, wanted)

    def _wrong(self, what: str, found: object, wanted: object) -> None:
        raise AssertionError(f"{what}: found {_short(found)}, should be {_short(wanted)}")


class Reader(Client):
    """Reads files of a data set larger than the cache: blocks are filled, moved and dropped."""

    def __init__(
        self, socket: Path, contents: dict[str, bytes], entries: dict[str, metadata_pb2.Entry], seed: int
    ) -> None:
        super().__init__("reader", socket, seed)
        self._contents = contents
        self._entries = entries

    def step(self) -> None:
        """Read one whole."""
        name = self.chance.choice(list(self._contents))
        found = self.insist(lambda client: client.read(BOOKS_UID, self._entries[name])[0])
        if found != self._contents[name]:
            raise AssertionError(f"{name} has other bytes")
        time.sleep(0.02)


class Lister(Client):
    """Has the data set listed again and again, with one file more each time."""

    def __init__(self, plane: DataPlane, origin: Path) -> None:
        super().__init__("lister", Path(), 0)
        self._plane = plane
        self._origin = origin
        self._added = 0

    def step(self) -> None:
        """Add a file and list; a service that is killed meanwhile lists the next time."""
        self._added += 1
        (self._origin / f"added-{self._added:05}").write_bytes(b"x" * self._added)
        try:
            self._plane.sync("books", f"file://{self._origin}")
        except (grpc.RpcError, DataPlaneError):
            time.sleep(0.2)
        time.sleep(0.3)

    def end(self) -> None:
        """All of them are there."""
        self._plane.sync("books", f"file://{self._origin}")
        found = {path for path in self._plane.entries(BOOKS_UID) if path.startswith("added-")}
        if len(found) != self._added:
            raise AssertionError(f"{len(found)} of {self._added} added files are listed")


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:8]!r}"
    return repr(value)
