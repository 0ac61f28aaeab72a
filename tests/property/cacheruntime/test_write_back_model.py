"""Any history of closes, renames, removals, listings, outages and deaths: what was acknowledged is always read back,
byte for byte one version, and in the end the under store has the newest of everything and nothing else."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cacheruntime.errors import CacheError
from tests.builders.held_cluster import UID, Plane

NODES: Final = ("a", "b", "c")
PATHS: Final = ("p", "q", "r")
SIZES: Final = (0, 1, 1024, 2500)
KILLS: Final = st.tuples(st.sampled_from(NODES), st.integers(-30, 30))


class WriteBack(RuleBasedStateMachine):
    """`may_be`: the contents a path may have; None = it is not there. One: it is that."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.runner = asyncio.Runner()
        self.may_be: dict[str, set[bytes | None]] = {path: {None} for path in PATHS}
        self.has_rest: set[str] = set()
        """Paths at which a change was cut off: the under store may have an object nobody sees, as ever."""
        self.number = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(work, 60))

    @initialize()
    def begin(self) -> None:
        async def begin() -> Plane:
            plane = Plane(self.folder)
            await plane.begin(*NODES)
            return plane

        self.plane = self.run(begin())

    def teardown(self) -> None:
        if hasattr(self, "plane"):
            self.run(self.end())
        self.runner.close()
        shutil.rmtree(self.folder)

    async def end(self) -> None:
        plane = self.plane
        plane.under.is_away = False
        plane.under.go_on()
        for name in NODES:
            if plane.nodes[name].is_dead:
                await plane.start(name)
        await plane.rest()
        await plane.upload_all()
        await plane.compare()
        await self.check()
        objects = {key: data for key, (data, _) in plane.under.objects.items()}
        for path in PATHS:
            if path not in self.has_rest or self.may_be[path] != {None}:
                assert {objects.get(path)} == self.may_be[path], path
        dataset = plane.database.read(lambda reader: reader.dataset(UID))
        assert (await dataset).held.files == 0
        await plane.close()

    def change(
        self, name: str, after: dict[str, bytes | None], work: Coroutine[Any, Any, Any], kill: tuple[str, int]
    ) -> None:
        """One change by a client of a node; a victim is killed so many steps later, 0 = none is."""
        victim, kill_after = kill

        async def change() -> bool:
            node = self.plane.nodes[name]
            task = asyncio.ensure_future(node.do(work))
            # One at a time is dead, so that every held file has a holder.
            if kill_after > 0 and len(self.plane.live()) == len(NODES):
                for _ in range(kill_after):
                    await asyncio.sleep(0.0001)
                await self.plane.nodes[victim].kill()
            try:
                await task
            except (CacheError, asyncio.CancelledError):
                return False
            return True

        is_done = self.run(change())
        for path, content in after.items():
            self.may_be[path] = {content} if is_done else self.may_be[path] | {content}
            if is_done:
                self.has_rest.discard(path)
            else:
                self.has_rest.add(path)

    @property
    def is_standing(self) -> bool:
        return bool(self.plane.under.is_still)

    @rule(name=st.sampled_from(NODES), path=st.sampled_from(PATHS), size=st.sampled_from(SIZES), kill=KILLS)
    def write(self, name: str, path: str, size: int, kill: tuple[str, int]) -> None:
        if self.plane.nodes[name].is_dead:
            return
        self.number += 1
        data = (b"%06d" % self.number + b"x" * size)[:size]
        work = self.plane.nodes[name].write(path, data)
        self.change(name, {path: data}, work, kill)

    @precondition(lambda self: not self.is_standing)  # else it would wait for an upload
    @rule(name=st.sampled_from(NODES), path=st.sampled_from(PATHS), kill=KILLS)
    def remove(self, name: str, path: str, kill: tuple[str, int]) -> None:
        if self.plane.nodes[name].is_dead or self.may_be[path] == {None}:
            return
        work = self.plane.nodes[name].writes.remove(UID, path, directory=False)
        self.change(name, {path: None}, work, kill)

    @precondition(lambda self: not self.is_standing)
    @rule(
        name=st.sampled_from(NODES),
        names=st.sampled_from([(one, two) for one in PATHS for two in PATHS if one != two]),
        kill=KILLS,
    )
    def rename(self, name: str, names: tuple[str, str], kill: tuple[str, int]) -> None:
        source, target = names
        if self.plane.nodes[name].is_dead or len(self.may_be[source]) > 1 or self.may_be[source] == {None}:
            return
        (content,) = self.may_be[source]
        work = self.plane.nodes[name].renames.rename(UID, source, target)
        self.change(name, {source: None, target: content}, work, kill)

    @rule()
    def upload(self) -> None:
        self.run(self.plane.upload())

    @rule()
    def stand_still(self) -> None:
        self.plane.under.is_still = True

    @rule()
    def go_on(self) -> None:
        self.plane.under.go_on()
        self.run(self.plane.rest())

    @rule(is_away=st.booleans())
    def away(self, is_away: bool) -> None:
        self.plane.under.is_away = is_away

    @rule()
    def compare(self) -> None:
        if not self.plane.under.is_away and not self.has_rest:
            self.run(self.plane.compare())

    @rule(name=st.sampled_from(NODES))
    def die(self, name: str) -> None:
        if len(self.plane.live()) == len(NODES):
            self.run(self.plane.nodes[name].kill())

    @rule()
    def start(self) -> None:
        for name in NODES:
            if self.plane.nodes[name].is_dead:
                self.run(self.plane.start(name))

    @invariant()
    def reads(self) -> None:
        if hasattr(self, "plane"):
            self.run(self.check())

    async def check(self) -> None:
        """What every node reads; it is known from then on which of the possible contents it is."""
        entries = await self.plane.entries()
        assert entries.keys() <= set(PATHS)
        for path in PATHS:
            entry = entries.get(path)
            if entry is None:
                assert None in self.may_be[path], path
                self.may_be[path] = {None}
                continue
            if self.plane.under.is_away and not entry.etag.startswith("held-"):
                continue
            found = {await node.read(entry) for node in self.plane.live()}
            assert len(found) == 1 and found <= self.may_be[path], path
            self.may_be[path] = set(found)


HEALTH: Final = list(HealthCheck)


class LongWriteBack(WriteBack):
    """The same, longer."""


WriteBack.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=HEALTH
)
LongWriteBack.TestCase.settings = settings(
    max_examples=1500, stateful_step_count=60, deadline=None, suppress_health_check=HEALTH
)
TestWriteBack = WriteBack.TestCase
TestLongWriteBack = pytest.mark.nightly(LongWriteBack.TestCase)
