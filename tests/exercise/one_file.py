"""`python -m tests.exercise.one_file FILE`: random reads, writes, cuts and mappings of one file, compared byte for byte
with a model in memory, as fsx does; its last line is `N operations, seed S`.

Owns the choice of operations, all from one seed: the same seed and the same count are the same operations. On a
difference the last operations are told, those that touched the wrong bytes marked.
"""

import argparse
import mmap
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

TOLD: Final = 400
BYTES_MAX: Final = 300_000
"""Several blocks of the smallest size, and little enough to be compared whole at every opening."""


class Differs(AssertionError):
    """The file has other bytes than it was given; the message has the seed and the operations before."""


class OneFile:
    """A file, the bytes it must have, and what was done to it."""

    def __init__(self, path: Path, seed: int, *, bytes_max: int = BYTES_MAX) -> None:
        self.path = path
        self.seed = seed
        self.chance = random.Random(seed)
        self.bytes_max = bytes_max
        self.model = bytearray()
        self.log: deque[tuple[int, str, int, int]] = deque(maxlen=TOLD)
        self.done: Counter[str] = Counter()
        self.number = 0
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.renamed = False

    def run(self, operations: int) -> None:
        """Do so many; Differs."""
        weighted: dict[Callable[[], None], int] = {
            self.read: 300,
            self.read_mapped: 150,
            self.write: 300,
            self.write_mapped: 40,
            self.append: 40,
            self.cut: 40,
            self.size: 60,
            self.sync: 6,
            self.cut_by_name: 3,
            self.close_and_open: 10,
            self.look_beside: 10,
            self.rename: 3,
        }
        choices = self.chance.choices
        acts, weights = list(weighted), list(weighted.values())
        while self.number < operations:
            self.number += 1
            act = choices(acts, weights)[0]
            self.done[act.__name__] += 1
            act()
        self.close_and_open()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

    def read(self) -> None:
        """pread anywhere, also across and behind the end."""
        at, length = self._range(self.bytes_max)
        self._note("read", at, length)
        self._compare("read", at, os.pread(self.descriptor, length, at), length)

    def read_mapped(self) -> None:
        """A new shared mapping, of what the file has now."""
        if not self.model:
            return
        at, length = self._range(len(self.model))
        self._note("read mapped", at, length)
        with mmap.mmap(self.descriptor, len(self.model), prot=mmap.PROT_READ) as view:
            self._compare("mapping", at, view[at : at + length], length)

    def write(self) -> None:
        """pwrite anywhere below the most; a gap is zeros."""
        at, length = self._range(self.bytes_max)
        self._note("write", at, length)
        self._write(at, self.chance.randbytes(min(length, self.bytes_max - at)))

    def append(self) -> None:
        """Write at the end by another descriptor, with O_APPEND."""
        data = self.chance.randbytes(self.chance.choice([1, 100, 5000]))
        if len(self.model) + len(data) > self.bytes_max:
            return
        self._note("append", len(self.model), len(data))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        self.model += data

    def write_mapped(self) -> None:
        """Change bytes through a shared mapping, and msync it."""
        if not self.model:
            return
        at, length = self._range(len(self.model))
        data = self.chance.randbytes(min(length, len(self.model) - at))
        self._note("write mapped", at, len(data))
        with mmap.mmap(self.descriptor, len(self.model)) as view:
            view[at : at + len(data)] = data
            view.flush()
        self.model[at : at + len(data)] = data

    def cut(self) -> None:
        """ftruncate, shorter or longer."""
        self._cut("ftruncate", lambda size: os.ftruncate(self.descriptor, size))

    def cut_by_name(self) -> None:
        """truncate(2)."""
        self._cut("truncate", lambda size: os.truncate(self.path, size))

    def size(self) -> None:
        """fstat and stat."""
        for found in (os.fstat(self.descriptor).st_size, self.path.stat().st_size):
            if found != len(self.model):
                raise self._differs(f"the file has {found} bytes, not {len(self.model)}", None)

    def sync(self) -> None:
        """fsync."""
        self._note("fsync", 0, 0)
        os.fsync(self.descriptor)

    def close_and_open(self) -> None:
        """Close, open again, now and then for appending only or with nothing cached, and compare every byte."""
        self._note("close, open", 0, 0)
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        if self.chance.random() < 0.5:
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._compare("file", 0, os.pread(self.descriptor, self.bytes_max + 1, 0), self.bytes_max + 1)

    def look_beside(self) -> None:
        """Read through a second descriptor, opened for reading only."""
        at, length = self._range(self.bytes_max)
        self._note("read beside", at, length)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._compare("read beside", at, os.pread(descriptor, length, at), length)
        finally:
            os.close(descriptor)

    def rename(self) -> None:
        """Give the open file another name, and back the next time."""
        self._note("rename", 0, 0)
        name = self.path.name.removesuffix("~") if self.renamed else f"{self.path.name}~"
        self.path = self.path.rename(self.path.with_name(name))
        self.renamed = not self.renamed

    def _cut(self, what: str, cut: Callable[[int], None]) -> None:
        size = self.chance.randrange(self.bytes_max) if self.chance.random() < 0.8 else len(self.model)
        self._note(what, size, 0)
        cut(size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def _range(self, end: int) -> tuple[int, int]:
        chance = self.chance
        at = chance.randrange(end)
        if chance.random() < 0.3:
            at -= at % 4096
        return at, chance.choice([1, 17, 512, 4096, 4096, chance.randrange(1, 70_000)])

    def _write(self, at: int, data: bytes) -> None:
        written = os.pwrite(self.descriptor, data, at)
        if written != len(data):
            raise self._differs(f"{written} of {len(data)} bytes were taken", None)
        self.model.extend(bytes(max(0, at - len(self.model))))
        self.model[at : at + len(data)] = data

    def _note(self, what: str, at: int, length: int) -> None:
        self.log.append((self.number, what, at, length))

    def _compare(self, what: str, at: int, found: bytes, length: int) -> None:
        wanted = self.model[at : at + length]
        if found == wanted:
            return
        if len(found) != len(wanted):
            raise self._differs(f"{what} at {at} has {len(found)} bytes, not {len(wanted)}", None)
        wrong = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
        count = sum(one != other for one, other in zip(found, wanted, strict=True))
        raise self._differs(f"{what} at {at} has {count} wrong bytes, the first at {at + wrong}", at + wrong)

    def _differs(self, what: str, wrong: int | None) -> Differs:
        lines = [f"{self.path} after {self.number} operations with seed {self.seed}: {what}"]
        for number, name, at, length in self.log:
            mark = "*" if wrong is not None and length and at <= wrong < at + length else " "
            lines.append(f"  {mark} {number} {name} {at} {length}")
        return Differs("\n".join(lines))


def main() -> int:
    """0 when every byte was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.exercise.one_file", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="made or overwritten; its folder must be there")
    parser.add_argument("--operations", type=int, default=1_000_000, metavar="N", help="how many (1000000)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, metavar="S", help="a random one")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    one = OneFile(options.file, options.seed)
    try:
        one.run(options.operations)
    except Differs as difference:
        print(difference)
        return 1
    finally:
        one.close()
    print(", ".join(f"{count} × {name}" for name, count in one.done.most_common()))
    print(f"{one.number} operations, seed {one.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
