"""`python -m tests.exercise.crowd DIRECTORY`: many processes at once on one mount; its last line is `N processes,
C calls, E errors`.

Each has files of its own that nobody else touches, where every byte is known, and a few names that all fight for, where
only the errnos of a lost race are allowed. Owns the proof that none is stuck: all must come to their end within a
deadline, and the calls of those who do not are told.
"""

import argparse
import errno
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SETTLE_SECONDS: Final = 60.0
LOST_RACES: Final = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.EBUSY}
)
"""What a name that others change at the same time may answer."""


@dataclass
class Report:
    """What one process met."""

    calls: int = 0
    errors: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """Fights for a name that ended with an errno no disk gives for a lost race."""


@dataclass
class Outcome:
    """What all of them met."""

    processes: int
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    idle: int = 0
    """Processes that did not get one call through."""

    def line(self) -> str:
        """Return the line it ends with."""
        return f"{self.processes} processes, {self.calls} calls, {len(self.errors) + len(self.stuck)} errors"


def run(directory: Path, *, processes: int, seconds: float, seed: int) -> Outcome:
    """Run so many for so long in `directory`, which must be empty."""
    (directory / "shared").mkdir()
    outcome = Outcome(processes)
    pipes: dict[int, int] = {}
    end = time.monotonic() + seconds
    for number in range(processes):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _be_one(directory, number, seed + number, end, writing)
        os.close(writing)
        pipes[child] = reading
    deadline = end + SETTLE_SECONDS
    for child, pipe in pipes.items():
        if not _ended(child, deadline):
            outcome.stuck.append(f"process {child} is stuck in {_stack(child)}")
            os.kill(child, signal.SIGKILL)
            continue
        with os.fdopen(pipe) as stream:
            report = Report(**json.loads(stream.read() or '{"errors": ["it ended without a word"]}'))
        outcome.calls += report.calls
        outcome.errors += report.errors
        outcome.odd += report.odd
        outcome.idle += not report.calls
    return outcome


def _ended(child: int, deadline: float) -> bool:
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _stack(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/stack").read_text() + Path(f"/proc/{process}/syscall").read_text()
    return "an unknown place"


def _be_one(directory: Path, number: int, seed: int, end: float, pipe: int) -> None:
    report = Report()
    try:
        one = _One(directory, number, seed, report)
        while time.monotonic() < end and len(report.errors) < 5:
            one.step()
    except Exception as error:  # noqa: BLE001  # told by the parent
        report.errors.append(f"process {number}: {type(error).__name__}: {error}")
    finally:
        os.write(pipe, json.dumps({"calls": report.calls, "errors": report.errors, "odd": report.odd[:5]}).encode())
        os._exit(0)


class _One:
    def __init__(self, directory: Path, number: int, seed: int, report: Report) -> None:
        self.chance = random.Random(seed)
        self.own = directory / f"own-{number:03}"
        self.shared = directory / "shared"
        self.report = report
        self.files: dict[str, bytes] = {}
        self.own.mkdir()

    def step(self) -> None:
        chance = self.chance
        act = chance.choice(
            [self.write, self.read, self.read, self.rename, self.remove, self.look, self.fight, self.fight]
        )
        self.report.calls += 1
        act()

    def write(self) -> None:
        name, data = f"{self.chance.randrange(4)}", self.chance.randbytes(self.chance.choice([0, 100, 9000, 80_000]))
        with (self.own / name).open("wb") as file:
            file.write(data)
        self.files[name] = data

    def read(self) -> None:
        if self.files:
            name = self.chance.choice(list(self.files))
            self._check((self.own / name).read_bytes() == self.files[name], f"{name} has other bytes")

    def rename(self) -> None:
        if self.files:
            name, other = self.chance.choice(list(self.files)), f"{self.chance.randrange(4)}"
            (self.own / name).rename(self.own / other)
            self.files[other] = self.files.pop(name)

    def remove(self) -> None:
        if len(self.files) > 2:
            name = self.chance.choice(list(self.files))
            (self.own / name).unlink()
            del self.files[name]

    def look(self) -> None:
        found = sorted(path.name for path in self.own.iterdir())
        self._check(found == sorted(self.files), f"{found} are listed instead of {sorted(self.files)}")
        for name, data in self.files.items():
            self._check((self.own / name).stat().st_size == len(data), f"{name} has another size")

    def fight(self) -> None:
        """Something about a name that others change too: any order of events is right, a hang is not."""
        chance = self.chance
        one, other = (self.shared / chance.choice("abc") for _ in range(2))
        try:
            match chance.randrange(8):
                case 0:
                    one.write_bytes(bytes(chance.randrange(10_000)))
                case 1:
                    one.read_bytes()
                case 2:
                    one.rename(other)
                case 3:
                    one.unlink()
                case 4:
                    one.mkdir()
                case 5:
                    one.rmdir()
                case 6:
                    list(self.shared.iterdir())
                case 7:
                    with one.open("ab") as file:
                        file.write(b"line\n")
        except OSError as error:
            if error.errno not in LOST_RACES:
                self.report.odd.append(f"{self.own.name}: a fight for a name ended with {error}")

    def _check(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.report.errors.append(f"{self.own.name}: {what}")


def main() -> int:
    """0 when all went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.exercise.crowd", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="an empty directory of the mount")
    parser.add_argument("--processes", type=int, default=64, metavar="N", help="how many (64)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="T", help="for how long (60)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other calls (0)")
    parser.add_argument("--strict", action="store_true", help="a fight may end as a lost race does only")
    options = parser.parse_args()
    outcome = run(options.directory, processes=options.processes, seconds=options.seconds, seed=options.seed)
    for error in [*outcome.errors, *outcome.stuck, *outcome.odd]:
        print(f"    {error}")
    print(outcome.line())
    return 1 if outcome.errors or outcome.stuck or (options.strict and outcome.odd) else 0


if __name__ == "__main__":
    sys.exit(main())
