"""`python -m tests.kills.failpoints`: a worker or a metadata service ended by SIGKILL at every failpoint it passes,
under writers and readers; its last line is
`N kills at P failpoints, F faults, reopened in M s in the middle, P s of 99 %, W s at most`.

Owns the choice of points (those seen so far, the least visited first; where a process passes none of them, any), the
proof that each kill took place where it should, and the restarts. What must hold is writers.py's business. Failpoints
are victim.py's.
"""

import argparse
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.data_plane import DataPlane, DataPlaneError, Process
from tests.kills.writers import Lister, Reader, Writer

VICTIMS: Final = ("worker", "metadata")
MODULES: Final = {"metadata": "metadata", "cacheruntime": "worker"}
PASSAGES: Final = (1, 1, 1, 2, 3, 8)
"""Which passing of a point ends the process: mostly the first of its life."""
REACH_SECONDS: Final = 3.0
"""Of serving: points that are not passed by then are passed while the process stops, or not this time."""
LIVES: Final = 0.25
"""So many processes live until then whatever they pass: of those that end while they start no writer gets on."""
STOPS: Final = 0.25
"""Of the processes that passed none of theirs, so many are stopped; the others end at the next point they pass."""
LOOK_SECONDS: Final = 1.5
END_SECONDS: Final = 60.0
BOOKS: Final = 30
BOOK_BYTES: Final = 150_000
BLOCK_BYTES: Final = 64 << 10
WRITERS: Final = 3
GIVEN_UP: Final = 3


@dataclass
class Outcome:
    """What a campaign showed."""

    kills: Counter[str] = field(default_factory=Counter)
    """By failpoint."""
    missed: Counter[str] = field(default_factory=Counter)
    """Points that were not passed in time."""
    seen: set[str] = field(default_factory=set)
    reopen_seconds: list[float] = field(default_factory=list)
    """From the start of the process after a kill to its serving."""
    acknowledged: int = 0
    """Changes writers were told are done."""
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the line a campaign ends with."""
        return (
            f"{self.kills.total()} kills at {len(self.kills)} failpoints, {len(self.faults)} faults, reopened in"
            f" {self.reopened(0.5):.1f} s in the middle, {self.reopened(0.99):.1f} s of 99 %,"
            f" {self.reopened(1):.1f} s at most"
        )

    def reopened(self, part: float) -> float:
        """Return the seconds within which this part (0 to 1) of the victims served again; 0.0 when none did."""
        times = sorted(self.reopen_seconds)
        return times[max(0, math.ceil(part * len(times)) - 1)] if times else 0.0


class ArmedPlane(DataPlane):
    """Its metadata service and workers are victims."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.armed: dict[str, tuple[Set[str], int]] = {}
        """What the next process of a kind ends at: the points, and which passing of one."""
        self.last: dict[str, Process] = {}
        """The process of a kind that was started last."""

    def record(self, kind: str) -> Path:
        """Where victims of a kind write down what they pass."""
        return self.directory / f"{kind}.points"

    def spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """As DataPlane; what may be a victim is started as one."""
        kind = MODULES.get(arguments[1])
        if kind is not None:
            arguments = ["-m", "tests.kills.victim", *arguments[1:]]
            points, passage = self.armed.pop(kind, (frozenset(), 1))
            told = {"FAILPOINTS": "\n".join(sorted(points)), "FAILPOINT_PASSAGE": str(passage)}
            environment = {**(environment or {}), **told, "FAILPOINT_RECORD": str(self.record(kind))}
        process = super().spawn(name, arguments, environment)
        if kind is not None:
            self.last[kind] = process
        return process

    def start(self, kind: str) -> None:
        """Start a process of a kind where the last one was; DataPlaneError when it ended before it served."""
        if kind == "metadata":
            self.start_metadata()
            return
        tiers = [f"MEM:{self.directory}/mem:1Mi", f"SSD:{self.directory}/ssd:3Mi"]
        self.start_worker("n1", {"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK_BYTES)}, tiers=tiers)


def run(
    directory: Path,
    victim: str,
    kills: int,
    seed: int,
    *,
    seconds: float = math.inf,
    told: Callable[[str], None] = print,
) -> Outcome:
    """Kill so many processes of a kind, or fewer when the time is over. Says how it goes by `told`."""
    return _Campaign(directory, victim, seed, told).run(kills, seconds)


class _Campaign:
    def __init__(self, directory: Path, victim: str, seed: int, told: Callable[[str], None]) -> None:
        self._directory = directory
        self._victim = victim
        self._seed = seed
        self._chance = random.Random(seed)
        self._told = told
        self._outcome = Outcome()
        self._born: set[str] = set()
        """Points at which a process with nothing before it was told to end."""

    def run(self, kills: int, seconds: float) -> Outcome:
        outcome, end = self._outcome, time.monotonic() + seconds
        books, work = self._directory / "books", self._directory / "work"
        books.mkdir(parents=True)
        work.mkdir()
        contents = {f"{number}.bin": self._chance.randbytes(BOOK_BYTES) for number in range(BOOKS)}
        for name, content in contents.items():
            (books / name).write_bytes(content)
        with ArmedPlane(self._directory / "plane") as plane:
            plane.start("worker")
            plane.sync("work", f"file://{work}", writable=True)
            plane.sync("books", f"file://{books}")
            socket, entries = plane.socket("n1"), plane.entries("uid-bench-books")
            writers = [Writer(socket, work, self._seed + number, f"w{number}") for number in range(WRITERS)]
            threads = [*writers, Reader(socket, contents, entries, self._seed), Lister(plane, books)]
            for thread in threads:
                thread.start()
            try:
                time.sleep(LOOK_SECONDS)
                self._end(plane)
                while outcome.kills.total() < kills and time.monotonic() < end:
                    if any(thread.faults for thread in threads):
                        break
                    self._kill(plane)
                self._start(plane)
            except DataPlaneError as error:
                outcome.faults.append(str(error))
            finally:
                for thread in threads:
                    thread.is_stopping = True
                for thread in threads:
                    thread.join(END_SECONDS)
            outcome.acknowledged = sum(writer.acknowledged for writer in writers)
            outcome.faults += [fault for thread in threads for fault in thread.faults]
            outcome.faults += [f"{thread.name} hangs" for thread in threads if thread.is_alive()]
            outcome.faults += _defects(plane)
        return outcome

    def _end(self, plane: ArmedPlane) -> None:
        """End the victim anywhere: what it passed until then is known now."""
        plane.last[self._victim].stop(signal.SIGKILL)
        self._look(plane)

    def _look(self, plane: ArmedPlane) -> str:
        """Take note of what was passed; return the last line, "" of a process that passed nothing."""
        lines = plane.record(self._victim).read_text().splitlines()
        self._outcome.seen.update(line.removeprefix("passed ") for line in lines if line.startswith("passed "))
        return lines[-1] if lines else ""

    def _choose(self) -> tuple[frozenset[str], int]:
        """Return the points that were visited least, and which passing of one is the last."""
        outcome = self._outcome
        # One that is never passed in time must not keep the others waiting for ever.
        visits = {point: outcome.kills[point] + outcome.missed[point] / GIVEN_UP for point in outcome.seen}
        least = min(visits.values())
        points = frozenset(point for point, times in visits.items() if times < least + 1)
        return points, self._chance.choice(PASSAGES)

    def _kill(self, plane: ArmedPlane) -> None:
        points, passage = (frozenset[str](), 1) if self._chance.random() < LIVES else self._choose()
        never = {point for point in points if self._outcome.missed[point] and not self._outcome.kills[point]}
        if never - self._born:
            self._kill_at_birth(frozenset(never))
            return
        plane.armed[self._victim] = (points, passage)
        is_serving = self._start(plane)
        process, is_any = plane.last[self._victim], False
        if is_serving:
            try:
                process.popen.wait(REACH_SECONDS)
            except subprocess.TimeoutExpired:
                is_any = not points or self._chance.random() >= STOPS
                process.stop(signal.SIGUSR1 if is_any else signal.SIGTERM)
        self._judge(plane, points, is_any=is_any)

    def _kill_at_birth(self, points: frozenset[str]) -> None:
        """Of a process that finds nothing of an earlier one; the next finds what it left and serves."""
        self._born |= points
        directory = self._directory / f"birth-{len(self._born)}"
        plane = ArmedPlane(directory)
        plane.armed[self._victim] = (points, 1)
        with suppress(DataPlaneError), plane:
            plane.start("worker")
        self._judge(plane, points)
        with ArmedPlane(directory) as after:
            after.start("worker")
            (directory / "origin").mkdir()
            after.sync("born", f"file://{directory / 'origin'}")

    def _judge(self, plane: ArmedPlane, points: frozenset[str], *, is_any: bool = False) -> None:
        """The victim has ended: where it should, elsewhere, or not by a kill."""
        outcome, process = self._outcome, plane.last[self._victim]
        last = self._look(plane)
        point = last.removeprefix("killed ")
        was_killed = process.popen.returncode == -signal.SIGKILL
        if not was_killed or point not in points:
            outcome.missed.update(points)
        if not was_killed:
            if process.popen.returncode != 0:
                outcome.faults.append(f"{process.name} ended with {process.popen.returncode}: {process.tail()}")
            return
        if point == last or not (is_any or point in points):
            outcome.faults.append(f"{process.name} was killed, but not where it should: its last word is {last!r}")
            return
        outcome.seen.add(point)
        outcome.kills[point] += 1
        if outcome.kills.total() % 10 == 0:
            self._told(f"{outcome.kills.total()} kills at {len(outcome.kills)} of {len(outcome.seen)} failpoints")

    def _start(self, plane: ArmedPlane) -> bool:
        """Start the victim again; return whether it lived to serve."""
        began = time.monotonic()
        try:
            plane.start(self._victim)
        except DataPlaneError:
            if plane.last[self._victim].popen.poll() is None:
                raise
            return False
        self._outcome.reopen_seconds.append(time.monotonic() - began)
        return True


def _defects(plane: ArmedPlane) -> list[str]:
    """Return what processes logged that nobody expected."""
    return [
        f"{process.name}: {event['event']}: {event['exception'][-600:]}"
        for process in plane.processes
        for event in process.events()
        if "exception" in event
    ]


def main() -> int:
    """0 when nothing was lost, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills.failpoints", description=__doc__)
    parser.add_argument("--victim", choices=VICTIMS, default="worker", help="whom to kill (worker)")
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="how often (500)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, metavar="S", help="a random one")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="end earlier, after M minutes")
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="headrace-failpoints-") as directory:
        outcome = run(
            Path(directory),
            options.victim,
            options.kills,
            options.seed,
            seconds=options.minutes * 60,
            told=lambda text: print(text, file=sys.stderr),
        )
    for point in sorted(outcome.seen):
        print(f"{outcome.kills[point]:>4} kills {outcome.missed[point]:>4} missed  {point}")
    for fault in outcome.faults:
        print(f"    {fault}")
    print(f"{outcome.acknowledged} acknowledged changes in {time.monotonic() - began:.0f} s")
    print(outcome.line())
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
