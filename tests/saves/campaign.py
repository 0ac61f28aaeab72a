"""Kills a training program in the middle of its saves, again and again, on a real mount, worker and metadata service.

Owns the order of a campaign and its counts. What a successor resumes from is asked and chosen by the job controller's
own code, and handed over in the variables the controller sets. Some checkpoints are damaged after they were complete.

What must hold after each kill: the successor resumes from a whole checkpoint, and from none older than the last save
that was finished. From damage nobody can see without reading the file the program ends with an error, and the one
before comes after so many of these (core/checkpoints.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from benchmarks.data_plane import DataPlane
from jobcontroller.core import checkpoints
from jobcontroller.core.observed import CheckpointView
from jobcontroller.core.reconcile import ASK_AGAIN_SECONDS
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.shell.checkpoint_client import CheckpointClient
from tests.saves.protocols import MARKER, SAVES, format_of, shard_files
from tests.saves.trainer import NOT_WHOLE

SHARD_BYTES: Final = 48_000
SAVES_BEFORE_KILL: Final = (1, 3)
SLACK: Final = 1.25
"""A kill comes within so many times the length of a save: before its end, mostly."""
DAMAGE_EVERY: Final = 12
PATIENCE_SECONDS: Final = 60.0
ASKS: Final = 5
NODE: Final = "n1"


@dataclass
class Outcome:
    """What a campaign showed."""

    kills: int = 0
    in_save: int = 0
    """Kills between the begin and the end of a save."""
    torn_seen: int = 0
    """Successors whose choice passed over a newer, incomplete checkpoint."""
    damaged: Counter[str] = field(default_factory=Counter)
    lost_saves: int = 0
    """Finished saves that were not resumed from; those after damage are not counted."""
    errors: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take another's counts in."""
        self.kills += other.kills
        self.in_save += other.in_save
        self.torn_seen += other.torn_seen
        self.damaged += other.damaged
        self.lost_saves += other.lost_saves
        self.errors += other.errors

    def line(self) -> str:
        """Return the line a campaign ends with."""
        return (
            f"{self.kills} kills ({self.in_save} in a save, {self.torn_seen} torn checkpoints passed over, "
            f"{self.damaged.total()} damaged), {self.lost_saves} finished saves lost, {len(self.errors)} errors"
        )


def run(
    directory: Path,
    kills: int,
    seed: int,
    *,
    protocols: list[str] | None = None,
    side_by_side: int = 2,
    told: Callable[[str], None] = print,
) -> Outcome:
    """Kill so many programs, spread over the protocols; says how it goes by `told`."""
    chosen, total = protocols or list(SAVES), Outcome()
    (directory / "origin").mkdir(parents=True)
    with DataPlane(directory / "plane") as plane:
        plane.start_worker(NODE)
        plane.sync("ckpt", f"file://{directory / 'origin'}", writable=True)
        mount = plane.start_mount(NODE, "--backend", "raw") / "bench" / "ckpt"

        def of_one(index: int) -> Outcome:
            share = kills // len(chosen) + (index < kills % len(chosen))
            outcome = _Series(plane.metadata_address, mount, chosen[index], seed + index).run(share)
            told(f"{chosen[index]}: {outcome.line()}")
            return outcome

        with ThreadPoolExecutor(side_by_side) as threads:
            for outcome in threads.map(of_one, range(len(chosen))):
                total.add(outcome)
    return total


class _Series:
    """The lives of one program, in one directory."""

    def __init__(self, address: str, mount: Path, protocol: str, seed: int) -> None:
        self._address = address
        self._mount = mount
        self._protocol = protocol
        self._chance = random.Random(seed)
        self._outcome = Outcome()
        self._save_seconds = 0.2
        self._finished = 0  # the newest step whose save the program said was finished
        self._damaged: set[int] = set()
        body = {
            "metadata": {"name": "saves", "namespace": "bench", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {
                "replicaSpecs": {"Worker": {"template": {}}},
                "datasets": [{"name": "ckpt", "mountPath": str(mount), "readOnly": False}],
                "checkpoint": {
                    "dataset": "ckpt",
                    "path": protocol,
                    # Half of them have to be found out.
                    "format": self._chance.choice(["auto", format_of(protocol)]),
                    "marker": MARKER,
                },
            },
        }
        self._job = TrainingJob.model_validate(body)
        self._status = TrainingJobStatus()

    def run(self, kills: int) -> Outcome:
        """Live until so many kills are done."""
        (self._mount / self._protocol).mkdir(exist_ok=True)
        with asyncio.Runner() as runner:
            client = runner.run(self._client())
            try:
                while self._outcome.kills < kills and len(self._outcome.errors) < 10:
                    found = runner.run(self._ask(client))
                    self._live(found)
                    if self._chance.randrange(DAMAGE_EVERY) == 0:
                        self._damage(runner.run(self._ask(client)))
            finally:
                runner.run(client.close())
        return self._outcome

    async def _client(self) -> CheckpointClient:
        return CheckpointClient(self._address, PATIENCE_SECONDS)

    async def _ask(self, client: CheckpointClient) -> tuple[CheckpointView, ...]:
        assert self._job.spec.checkpoint is not None
        for _ in range(ASKS - 1):
            try:
                return await client.newest_first("bench", self._job.spec.checkpoint)
            except MetadataUnavailable:
                # The controller waits too, and starts nothing meanwhile.
                await asyncio.sleep(ASK_AGAIN_SECONDS)
        return await client.newest_first("bench", self._job.spec.checkpoint)

    def _live(self, found: tuple[CheckpointView, ...]) -> None:
        """One attempt: from the checkpoint the controller would choose, to a kill."""
        status = self._status
        chosen = checkpoints.newest_complete(found, 0.0, status)
        status.resume_step = chosen.step if chosen else None
        status.resume_path = chosen.path if chosen else None
        self._outcome.torn_seen += checkpoints.newest_torn(found, chosen, status) is not None
        best = max((step for step in range(self._finished + 1) if step not in self._damaged), default=0)
        if (chosen.step if chosen else 0) < best:
            self._outcome.lost_saves += 1
            self._outcome.errors.append(f"{self._protocol}: step {best} was saved, resumed {status.resume_step}")
        program = self._start()
        try:
            ended = self._watch(program)
        finally:
            program.kill()
            program.wait(PATIENCE_SECONDS)
            assert program.stdout is not None
            program.stdout.close()
        if ended is None:
            return
        resumed = status.resume_step or 0
        if ended != NOT_WHOLE or resumed not in self._damaged:
            self._outcome.errors.append(f"{self._protocol}: the program ended with {ended} from step {resumed}")
        checkpoints.note_failed_resume(status, found, 0.0)

    def _start(self) -> subprocess.Popen[str]:
        environment = checkpoints.environment(self._job.spec, self._status, {})
        command = [sys.executable, "-m", "tests.saves.trainer", self._protocol, str(SHARD_BYTES)]
        return subprocess.Popen(
            [*command, str(self._chance.randrange(1 << 30))],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )

    def _watch(self, program: subprocess.Popen[str]) -> int | None:
        """Kill the program in one of its saves; its exit code when it ended before."""
        saves = self._chance.randint(*SAVES_BEFORE_KILL)
        while True:
            line = self._line(program)
            if line is None:
                return program.wait(PATIENCE_SECONDS)
            self._note(line)
            saves -= "saving" in line
            if saves == 0:
                break
        time.sleep(self._chance.uniform(0.0, SLACK * self._save_seconds))
        program.kill()
        program.wait(PATIENCE_SECONDS)
        self._outcome.kills += 1
        last: dict[str, Any] = {"saving": 0}
        while (line := self._line(program)) is not None:
            self._note(line)
            last = line
        self._outcome.in_save += "saving" in last
        return None

    @staticmethod
    def _line(program: subprocess.Popen[str]) -> dict[str, Any] | None:
        assert program.stdout is not None
        text = program.stdout.readline()
        # A last line may be cut off by the kill.
        return dict(json.loads(text)) if text.endswith("\n") else None

    def _note(self, line: dict[str, Any]) -> None:
        if line.get("problem") and self._status.resume_step not in self._damaged:
            self._outcome.errors.append(f"{self._protocol}: resumed from {line['resumed']}, but {line['problem']}")
        if "saving" in line:
            # Written anew from here on.
            self._damaged.discard(line["saving"])
            self._finished = min(self._finished, line["saving"] - 1)
        if "saved" in line:
            self._finished = line["saved"]
            self._save_seconds = 0.8 * self._save_seconds + 0.2 * line["seconds"]

    def _damage(self, found: tuple[CheckpointView, ...]) -> None:
        """Cut a shard of the newest complete checkpoint off, spoil it, or remove it."""
        newest = checkpoints.newest_complete(found, 0.0, self._status)
        if newest is None or newest.step in self._damaged:
            return
        name = self._chance.choice(shard_files(self._protocol, newest.step))
        path = self._mount / newest.path / name
        way = self._chance.choice(["cut off", "spoilt", "removed"])
        match way:
            case "cut off":
                os.truncate(path, self._chance.randrange(SHARD_BYTES))
            case "spoilt":
                # By the same number of other bytes, as a disk does.
                data = bytearray(path.read_bytes())
                data[self._chance.randrange(len(data))] ^= 0x5A
                path.write_bytes(data)
            case _:
                path.unlink()
        self._outcome.damaged[way] += 1
        self._damaged.add(newest.step)
