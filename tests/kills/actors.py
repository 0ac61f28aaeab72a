"""What applications do on a mount while its daemons are killed: each a process of its own, until its stdin ends.

Each checks every byte and every errno it meets, times each call, and prints one line of JSON at its end: calls by kind,
errors (the first few in words), the longest call in seconds, and each that took long enough to be told of.
"""

import errno
import hashlib
import json
import mmap
import os
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 1 << 20
ERRORS_TOLD: Final = 5
TOLD_SECONDS: Final = 0.02
"""Calls that took longer are told of one by one."""
PLAIN: Final = "plain"
"""Whose calls are not on the mount."""


class Actor:
    """Counts and times what one application does."""

    def __init__(self, mount: Path, origin: Path, seed: int) -> None:
        self.books = mount / "bench" / "books"
        self.work = mount / "bench" / "work"
        self.origin = origin
        self.random = random.Random(seed)
        self.calls: Counter[str] = Counter()
        self.errors: list[str] = []
        self.worst = ("", 0.0)
        self.long: list[tuple[str, float, float]] = []

    @contextmanager
    def call(self, what: str) -> Iterator[None]:
        """Time one system call or two."""
        self.calls[what] += 1
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            if took > self.worst[1]:
                self.worst = (what, took)
            if took > TOLD_SECONDS:
                self.long.append((what, began, took))

    def check(self, is_right: bool, what: str) -> None:
        """Count what must not be."""
        if not is_right:
            self.errors.append(what)

    def wanted(self) -> bytes:
        return (self.origin / "books" / "large.bin").read_bytes()


def sequential(actor: Actor) -> Iterator[None]:
    """One descriptor, opened before the file was whole, read from front to end again and again, cold each time."""
    path, wanted = actor.books / "large.bin", actor.wanted()
    descriptor = os.open(path, os.O_RDONLY)
    while True:
        for at in range(0, len(wanted), PIECE_BYTES):
            with actor.call("pread"):
                data = os.pread(descriptor, PIECE_BYTES, at)
            actor.check(data == wanted[at : at + PIECE_BYTES], f"other bytes at {at}")
            yield
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def mapped(actor: Actor) -> Iterator[None]:
    """One mapping, kept over every kill, its pages dropped now and then."""
    wanted = actor.wanted()
    with (actor.books / "large.bin").open("rb") as file:
        view = mmap.mmap(file.fileno(), len(wanted), prot=mmap.PROT_READ)
        while True:
            for _ in range(50):
                at = actor.random.randrange(len(wanted) // 4096) * 4096
                with actor.call("mmap read"):
                    data = view[at : at + 4096]
                actor.check(data == wanted[at : at + 4096], f"other mapped bytes at {at}")
            view.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield


def small(actor: Actor) -> Iterator[None]:
    """Opens small files, reads and closes them."""
    names = sorted(path.name for path in (actor.origin / "books" / "small").iterdir())
    contents = {name: (actor.origin / "books" / "small" / name).read_bytes() for name in names}
    while True:
        name = actor.random.choice(names)
        with actor.call("open, read, close"):
            data = (actor.books / "small" / name).read_bytes()
        actor.check(data == contents[name], f"other bytes in {name}")
        yield


def whole(actor: Actor) -> Iterator[None]:
    """Opens a whole file anew each time: by passthrough."""
    wanted = (actor.origin / "books" / "whole.bin").read_bytes()
    while True:
        with actor.call("open"):
            descriptor = os.open(actor.books / "whole.bin", os.O_RDONLY)
        for _ in range(20):
            at = actor.random.randrange(len(wanted) - 65536)
            with actor.call("pread of a whole file"):
                data = os.pread(descriptor, 65536, at)
            actor.check(data == wanted[at : at + 65536], f"other bytes of the whole file at {at}")
            yield
        with actor.call("close"):
            os.close(descriptor)


def listing(actor: Actor) -> Iterator[None]:
    """Lists a directory slowly, so that kills come in the middle of it; stats what it finds."""
    wanted = sorted(path.name for path in (actor.origin / "books" / "many").iterdir())
    while True:
        found: list[str] = []
        with os.scandir(actor.books / "many") as entries:
            while True:
                with actor.call("readdir"):
                    entry = next(entries, None)
                if entry is None:
                    break
                found.append(entry.name)
                if len(found) % 100 == 0:
                    with actor.call("stat"):
                        status = entry.stat(follow_symlinks=False)
                    actor.check(status.st_size == len(entry.name), f"{entry.name} has {status.st_size} bytes")
                    yield
        actor.check(sorted(found) == wanted, f"{len(found)} names instead of {len(wanted)}")


def writing(actor: Actor) -> Iterator[None]:
    """Writes a file in pieces, over kills: some twice, one fsync, a truncate; then closes, and reads it back."""
    number = 0
    while True:
        number += 1
        path = actor.work / "written" / f"{actor.random.randrange(8)}.bin"
        expected = bytearray()
        with actor.call("create"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        for _ in range(actor.random.randrange(4, 40)):
            at = actor.random.randrange(len(expected) + 1)
            data = actor.random.randbytes(actor.random.randrange(1, 200_000))
            with actor.call("pwrite"):
                done = os.pwrite(descriptor, data, at)
            actor.check(done == len(data), f"{done} of {len(data)} bytes written")
            expected[at : at + len(data)] = data
            yield
        if number % 3 == 0:
            del expected[len(expected) // 2 :]
            with actor.call("ftruncate"):
                os.ftruncate(descriptor, len(expected))
        if number % 2 == 0:
            with actor.call("fsync"):
                os.fsync(descriptor)
        with actor.call("pread of what was written"):
            data = os.pread(descriptor, len(expected), 0)
        actor.check(data == bytes(expected), f"{path.name} reads other bytes before close")
        yield
        with actor.call("close"):
            os.close(descriptor)
        with actor.call("read back"):
            data = path.read_bytes()
        actor.check(data == bytes(expected), f"{path.name} reads other bytes after close")
        stored = (actor.origin / "work" / "written" / path.name).read_bytes()
        actor.check(stored == bytes(expected), f"the store has other bytes of {path.name} after close")
        yield


def appending(actor: Actor) -> Iterator[None]:
    """A log, as a trainer writes it: opened once for appending, closed and opened anew now and then."""
    path = actor.work / "log.txt"
    expected = hashlib.sha256()
    line = 0
    while True:
        with actor.call("open for appending"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for _ in range(50):
            line += 1
            data = f"line {line} {actor.random.random()}\n".encode()
            with actor.call("append"):
                os.write(descriptor, data)
            expected.update(data)
            yield
        with actor.call("close"):
            os.close(descriptor)
        stored = (actor.origin / "work" / "log.txt").read_bytes()
        actor.check(hashlib.sha256(stored).digest() == expected.digest(), "the log is another one")


def names(actor: Actor) -> Iterator[None]:
    """Names that come and go, each with the one right result: what must not be done twice."""
    place = actor.work / "names"
    number = 0
    while True:
        number += 1
        directory = place / f"d{number}"
        with actor.call("mkdir"):
            directory.mkdir()
        yield
        with actor.call("create with O_EXCL"):
            descriptor = os.open(directory / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, b"%d" % number)
        with actor.call("close"):
            os.close(descriptor)
        yield
        with actor.call("rename"):
            (directory / "new").rename(place / "current")
        yield
        with actor.call("read"):
            actor.check((place / "current").read_bytes() == b"%d" % number, "the renamed file has other bytes")
        _refused(actor, errno.ENOENT, (directory / "new").stat)
        _refused(actor, errno.EEXIST, directory.mkdir)
        with actor.call("rmdir"):
            directory.rmdir()
        yield
        if number % 2 == 0:
            with actor.call("unlink"):
                (place / "current").unlink()
            _refused(actor, errno.ENOENT, (place / "current").stat)
        yield


def shards(actor: Actor) -> Iterator[None]:
    """Small files, each written under another name and renamed over the one before, as shards of a checkpoint are."""
    place = actor.work / "shards"
    while True:
        name = f"{actor.random.randrange(50)}"
        data = actor.random.randbytes(actor.random.randrange(1, 20_000))
        with actor.call("create a small file"):
            descriptor = os.open(place / f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with actor.call("write a small file"):
            os.write(descriptor, data)
        with actor.call("close a small file"):
            os.close(descriptor)
        with actor.call("rename a small file"):
            (place / f"{name}.new").rename(place / name)
        stored = (actor.origin / "work" / "shards" / name).read_bytes()
        actor.check(stored == data, f"the store has other bytes of shard {name}")
        yield


def plain(actor: Actor) -> Iterator[None]:
    """The disk below the store, without the mount: what it is busy with is nobody else's doing."""
    with (actor.origin / "plain").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
            with actor.call(f"{PLAIN} fsync"):
                os.fsync(file.fileno())
            yield
            time.sleep(0.1)


def _refused(actor: Actor, number: int, action: Callable[[], object]) -> None:
    try:
        with actor.call("refused call"):
            action()
    except OSError as error:
        actor.check(error.errno == number, f"{error} instead of {errno.errorcode[number]}")
    else:
        actor.check(False, f"no error instead of {errno.errorcode[number]}")


_ACTORS: Final = (sequential, mapped, small, whole, listing, writing, appending, names, shards, plain)
ACTORS: Final = {each.__name__: each for each in _ACTORS}


def main() -> int:
    """Act until stdin ends: NAME MOUNT ORIGIN SEED."""
    name, mount, origin, seed = sys.argv[1:5]
    actor = Actor(Path(mount), Path(origin), int(seed))
    steps: Iterator[None] | None = None
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            steps = steps or ACTORS[name](actor)
            next(steps)
        except OSError as error:
            actor.errors.append(f"{type(error).__name__}: {error}")
            if len(actor.errors) > 100:
                break
            # What an application that gives up and is started again would do.
            steps = None
            os.closerange(3, 64)
            with suppress(OSError):
                time.sleep(0.1)
    what, worst = actor.worst
    report = {"actor": name, "calls": actor.calls, "errors": len(actor.errors), "worst_seconds": worst, "in": what}
    print(json.dumps({**report, "told": actor.errors[:ERRORS_TOLD], "long": actor.long}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
