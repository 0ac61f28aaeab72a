"""`python -m tests.kills.modes`: random opens, reads, mappings and closes of files that become whole and are evicted
meanwhile; its last line is `N steps, E errors`.

The kernel refuses with EIO what core/open_modes.py must never do: passthrough beside cached mode, another backing file.
"""

import argparse
import json
import mmap
import os
import random
import re
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from api.gen import worker_pb2, worker_pb2_grpc
from benchmarks.data_plane import DataPlane
from tests.builders.cache_cluster import free_port
from tests.kills.campaign import end_daemon

FILES: Final = 6
FILE_BYTES: Final = (1 << 20, 5 << 20)
PROCESSES: Final = 3
OPEN_MAX: Final = 24
EVICT_SECONDS: Final = (0.02, 0.4)
STEPS_A_LINE: Final = 1000


@dataclass
class Outcome:
    """What a campaign showed."""

    steps: int
    errors: list[str]
    evictions: int
    kills: int
    passthrough_opens: int
    """Of the last daemon."""

    def line(self) -> str:
        """Return the line a campaign ends with."""
        return f"{self.steps} steps, {len(self.errors)} errors"


def act(top: Path, origin: Path, seed: int, steps: int) -> None:
    """Take so many steps, a line of JSON for each thousand; every byte is compared."""
    chance = random.Random(seed)
    contents = {path.name: path.read_bytes() for path in sorted(origin.iterdir())}
    files: list[tuple[str, int]] = []
    maps: list[tuple[str, mmap.mmap]] = []
    errors: list[str] = []
    for step in range(1, steps + 1):
        name = chance.choice(list(contents))
        try:
            what = chance.randrange(10)
            if what < 3 and len(files) < OPEN_MAX:
                files.append((name, os.open(top / name, os.O_RDONLY)))
            elif what < 6 and files:
                name, descriptor = chance.choice(files)
                at, length = chance.randrange(len(contents[name])), chance.choice([1, 4096, 200_000])
                if os.pread(descriptor, length, at) != contents[name][at : at + length]:
                    errors.append(f"{name} reads other bytes at {at}")
            elif what == 6 and files and len(maps) < OPEN_MAX:
                name, descriptor = chance.choice(files)
                maps.append((name, mmap.mmap(descriptor, len(contents[name]), prot=mmap.PROT_READ)))
            elif what == 7 and maps:
                name, view = chance.choice(maps)
                at = chance.randrange(len(contents[name]))
                if view[at : at + 4096] != contents[name][at : at + 4096]:
                    errors.append(f"{name} maps other bytes at {at}")
            elif what == 8 and maps:
                maps.pop(chance.randrange(len(maps)))[1].close()
            elif files:
                os.close(files.pop(chance.randrange(len(files)))[1])
        except OSError as error:
            errors.append(f"{type(error).__name__}: {error} ({name})")
        if step % STEPS_A_LINE == 0 or step == steps:
            print(json.dumps({"steps": step, "errors": errors[:20]}), flush=True)


def run(directory: Path, steps: int, seed: int, *, kill_seconds: float) -> Outcome:
    """Take about so many steps in several processes, while files are evicted and a daemon is killed now and then."""
    chance = random.Random(seed)
    origin = directory / "books"
    origin.mkdir(parents=True)
    for number in range(FILES):
        (origin / f"{number}.bin").write_bytes(chance.randbytes(chance.randrange(*FILE_BYTES)))
    each = -(-steps // PROCESSES)
    with DataPlane(directory / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("books", f"file://{origin}")
        port = free_port()
        top = plane.start_mount("n1", "--backend", "raw", "--metrics", f"127.0.0.1:{port}") / "bench" / "books"
        command = [sys.executable, "-m", "tests.kills.modes", "--act", str(top), str(origin)]
        actors = [
            subprocess.Popen([*command, str(seed + index), str(each)], stdout=subprocess.PIPE, text=True)
            for index in range(PROCESSES)
        ]
        last: dict[int, dict[str, object]] = {}
        reading = {actor.stdout: index for index, actor in enumerate(actors) if actor.stdout is not None}
        evictions, kills, opens, killed_at = 0, 0, 0, time.monotonic()
        with grpc.insecure_channel(plane.live()["n1"].control_endpoint) as channel:
            stub = worker_pb2_grpc.WorkerControlStub(channel)
            while reading:
                ready, _, _ = select.select(list(reading), [], [], chance.uniform(*EVICT_SECONDS))
                for stream in ready:
                    line = stream.readline()
                    if line:
                        last[reading[stream]] = json.loads(line)
                    else:
                        stream.close()
                        del reading[stream]
                evicted = worker_pb2.EvictRequest(uid="uid-bench-books", paths=[f"{chance.randrange(FILES)}.bin"])
                evictions += stub.Evict(evicted, timeout=10).freed_bytes > 0
                if time.monotonic() - killed_at > kill_seconds:
                    opens += _passthrough_opens(port)
                    killed_at, kills = time.monotonic(), kills + 1
                    end_daemon(plane.daemons["n1"], "kill")
        errors = [str(error) for report in last.values() for error in report["errors"]]  # type: ignore[attr-defined]
        errors += [f"an actor ended with {actor.wait()}" for actor in actors if actor.wait()]
        opens += _passthrough_opens(port)
    return Outcome(sum(int(str(report["steps"])) for report in last.values()), errors, evictions, kills, opens)


def _passthrough_opens(port: int) -> int:
    """Of the daemon that serves; one that was just killed has taken its count with it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                found = re.search(r'passthrough_opens_total{result="opened"} (\S+)', response.read().decode())
        except OSError:
            # It was killed with our question in its queue, or its successor does not listen yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return int(float(found[1])) if found is not None else 0


def main() -> int:
    """0 when there was no error, else 1."""
    if sys.argv[1:2] == ["--act"]:
        act(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.kills.modes", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, metavar="N", help="steps in all (100000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other steps (0)")
    parser.add_argument("--kill-seconds", type=float, default=5.0, metavar="T", help="a daemon dies so often (5)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-modes-") as directory:
        outcome = run(Path(directory), options.steps, options.seed, kill_seconds=options.kill_seconds)
    for error in outcome.errors:
        print(f"    {error}")
    print(f"{outcome.evictions} evictions, {outcome.kills} daemons killed; {time.monotonic() - began:.0f} s")
    print(f"{outcome.passthrough_opens} opens by passthrough at the last daemon")
    print(outcome.line())
    return 1 if outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
