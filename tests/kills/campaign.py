"""Kills the daemons of one mount while applications use it, and counts what the applications notice.

Owns the order of a campaign. Real metadata service, worker, keeper and kernel; origins are file:// directories, so
that what is in the store can be looked at.
"""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.data_plane import DataPlane, Process
from fuse.core.succession import CRASHES_MAX
from tests.kills.actors import ACTORS, PLAIN
from tests.kills.stalls import Call, Death, Row, rows

LARGE_BYTES: Final = 96 << 20
WHOLE_BYTES: Final = 24 << 20
SMALL_FILES: Final = 300
MANY_FILES: Final = 12_000
SETTLE_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = (0.1, 2.0)
"""From one daemon's first answer to its end: often before another waits."""
WAYS: Final = {"kill": 6, "stop": 1, "crash": 2, "upgrade": 1}
"""How a daemon ends, and how often: SIGKILL, SIGSTOP (the watchdog's business), SIGSEGV, SIGHUP to the keeper."""
WORKER: Final = "worker"
"""No daemon ends but the worker, by SIGKILL, and its keeper lets another one follow."""


_UNKNOWN: Final = {
    **{"actor": "?", "calls": {}, "errors": 0, "worst_seconds": SETTLE_SECONDS, "in": "?"},
    **{"told": [], "long": []},
}
"""The report of an actor that gave none."""


@dataclass
class Outcome:
    """What a campaign showed."""

    kills: Counter[str] = field(default_factory=Counter)
    reports: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is wrong besides what applications saw."""
    deaths: list[Death] = field(default_factory=list)
    worker_deaths: list[Death] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Errors applications saw, and faults."""
        return sum(int(each["errors"]) for each in self.reports) + len(self.faults)

    @property
    def worst(self) -> dict[str, Any]:
        """The report with the longest call on the mount."""
        on_mount = (each for each in self.reports if each["actor"] != PLAIN)
        return max(on_mount, key=lambda each: float(each["worst_seconds"]))

    def rows(self) -> list[Row]:
        """Return how long calls took, by what was called; without those that met a worker's death."""
        counts: Counter[str] = Counter()
        for report in self.reports:
            counts.update(report["calls"])
        return rows(counts, [call for call in self.calls() if not self._met_worker(call)], self.deaths)

    def worker_rows(self) -> list[Row]:
        """Return how long calls took that met a worker's death, by what was called."""
        met = [call for call in self.calls() if self._met_worker(call)]
        return rows(Counter(call.what for call in met), met, self.worker_deaths)

    def calls(self) -> list[Call]:
        """Return the calls that took long enough to be told of."""
        return [Call(*each) for report in self.reports for each in report["long"]]

    def worker_stall(self) -> float:
        """Return the longest call that met a worker's death, in seconds."""
        return max((call.seconds for call in self.calls() if self._met_worker(call)), default=0.0)

    def _met_worker(self, call: Call) -> bool:
        return any(death.met(call) for death in self.worker_deaths)

    def line(self) -> str:
        """Return the line a campaign ends with."""
        worst = self.worst["worst_seconds"]
        return f"{self.kills.total()} kills, {self.errors} application errors, worst stall {worst:.2f} s"


def run(
    directory: Path, kills: int, seed: int, *, ways: dict[str, int] | None = None, told: Callable[[str], None] = print
) -> Outcome:
    """Kill so many daemons. Says how it goes by `told`."""
    chance = random.Random(seed)
    origin = directory / "origin"
    _fill(origin, chance)
    outcome = Outcome()
    with DataPlane(directory / "plane") as plane:
        plane.start_worker("n1", more=["--keeper"])
        plane.sync("books", f"file://{origin / 'books'}")
        plane.sync("work", f"file://{origin / 'work'}", writable=True)
        mount = plane.start_mount("n1", "--backend", "raw")
        keeper = plane.daemons["n1"]
        # Whole on the worker, so that it is opened by passthrough.
        (mount / "bench" / "books" / "whole.bin").read_bytes()
        (mount / "bench" / "work" / "written").mkdir()
        (mount / "bench" / "work" / "names").mkdir()
        (mount / "bench" / "work" / "shards").mkdir()
        actors = [_start(name, mount, origin, seed + index) for index, name in enumerate(ACTORS)]
        try:
            before: _Held | None = None
            last: list[str] = []
            _await_serving(keeper, served := 1)
            for number in range(kills):
                before = before or _held(keeper, mount)
                time.sleep(chance.uniform(*PAUSE_SECONDS))
                way = chance.choices(list(ways or WAYS), list((ways or WAYS).values()))[0]
                # What is in work in one crash too many is refused, as it should be.
                way = "kill" if last == ["crash"] * (CRASHES_MAX - 1) else way
                last = [*last, way][1 - CRASHES_MAX :]
                began = time.monotonic()
                if way == WORKER:
                    _end_worker(plane.workers["n1"])
                    outcome.worker_deaths.append(Death(way, began, time.monotonic()))
                    continue
                served += 1
                end_daemon(keeper, way)
                _await_serving(keeper, served)
                if way == "upgrade":
                    began = max(began, time.monotonic() - _seconds_since(keeper, "leaves"))
                outcome.deaths.append(Death(way, began, time.monotonic()))
                outcome.kills[way] += 1
                if (number + 1) % 10 == 0:
                    told(f"{number + 1} of {kills} daemons ended")
            time.sleep(1.0)
        finally:
            outcome.reports = [_finish(each, outcome) for each in actors]
        if before is not None:
            outcome.faults += _differences(before, keeper, mount)
        outcome.faults += _unlike_origin(mount, origin)
        if keeper.popen.poll() is not None:
            outcome.faults.append(f"the keeper ended with {keeper.popen.returncode}")
    return outcome


def _fill(origin: Path, chance: random.Random) -> None:
    books = origin / "books"
    for name in ("small", "many"):
        (books / name).mkdir(parents=True)
    (origin / "work").mkdir()
    (books / "large.bin").write_bytes(chance.randbytes(LARGE_BYTES))
    (books / "whole.bin").write_bytes(chance.randbytes(WHOLE_BYTES))
    for number in range(SMALL_FILES):
        (books / "small" / f"{number}.txt").write_bytes(chance.randbytes(chance.randrange(1, 30_000)))
    for number in range(MANY_FILES):
        name = f"file-{number:05}-{'x' * chance.randrange(40)}"
        (books / "many" / name).write_text("y" * len(name))


def _start(name: str, mount: Path, origin: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.kills.actors", name, str(mount), str(origin), str(seed)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _finish(actor: subprocess.Popen[bytes], outcome: Outcome) -> dict[str, Any]:
    try:
        output, _ = actor.communicate(timeout=SETTLE_SECONDS)
        report: dict[str, Any] = json.loads(output)
    except (subprocess.TimeoutExpired, ValueError) as error:
        actor.kill()
        actor.wait()
        outcome.faults.append(f"{actor.args!r} did not end: {error}")
        return _UNKNOWN
    return report


def serving_pids(keeper: Process) -> list[int]:
    """Return the daemons that were ready, in their order."""
    return [each["pid"] for each in keeper.events() if each["event"] == "ready"]


def _await_serving(keeper: Process, count: int) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(serving_pids(keeper)) < count:
        if time.monotonic() > deadline or keeper.popen.poll() is not None:
            raise RuntimeError(f"no daemon follows: {keeper.tail()}")
        time.sleep(0.01)


def _seconds_since(keeper: Process, event: str) -> float:
    told = next((each for each in reversed(keeper.events()) if each["event"] == event), None)
    return (datetime.now(UTC) - datetime.fromisoformat(told["timestamp"])).total_seconds() if told else math.inf


def end_daemon(keeper: Process, way: str) -> None:
    """End the daemon that serves, in one of WAYS."""
    if way == "upgrade":
        keeper.popen.send_signal(signal.SIGHUP)
        return
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "crash": signal.SIGSEGV}[way]
    os.kill(serving_pids(keeper)[-1], number)


def _end_worker(keeper: Process) -> None:
    """Kill the worker; return when another one serves."""

    def ready() -> list[int]:
        return [each["pid"] for each in keeper.events() if each["event"] == "worker_ready"]

    before = ready()
    os.kill(before[-1], signal.SIGKILL)
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(ready()) == len(before):
        if time.monotonic() > deadline or keeper.popen.poll() is not None:
            raise RuntimeError(f"no worker follows: {keeper.tail()}")
        time.sleep(0.01)


@dataclass(frozen=True)
class _Held:
    mounts: int
    descriptors: int


def _held(keeper: Process, mount: Path) -> _Held:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    own = Path(f"/proc/{keeper.popen.pid}/fd")
    return _Held(sum(str(mount) in line for line in lines), len(list(own.iterdir())))


def _differences(before: _Held, keeper: Process, mount: Path) -> list[str]:
    """Return what is held now and was not; the keeper's descriptors fall back once nothing is written."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (after := _held(keeper, mount)) != before and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            (mount / "bench" / "work" / "names" / "nothing").stat()
        time.sleep(0.1)
    if after.mounts != before.mounts or after.descriptors > before.descriptors:
        return [f"held before: {before}, after: {after}"]
    return []


def _unlike_origin(mount: Path, origin: Path) -> list[str]:
    """Return the files that read otherwise on the mount than in the store, and those that only the store has."""
    wrong = []
    for dataset in ("books", "work"):
        for path in sorted((origin / dataset).rglob("*")):
            if path.is_file() and "many" not in path.parts:
                name = path.relative_to(origin / dataset)
                try:
                    if (mount / "bench" / dataset / name).read_bytes() != path.read_bytes():
                        wrong.append(f"{dataset}/{name} reads otherwise than it is stored")
                except FileNotFoundError:
                    wrong.append(f"{dataset}/{name} is stored and not on the mount")
    return wrong
