"""SIGKILL at every change of the file system that fills, moves and drops make; a restart must keep every promise."""

import asyncio
import random
import shutil
from itertools import count
from pathlib import Path

import pytest

from cacheruntime.core.blocks import Version
from tests.builders.killed_store import BLOCK, Node, Scenario, check_after_restart, run_killed

VERSIONS = [Version("u1", name, "e", 2 * BLOCK - 7) for name in ("a", "b", "c", "d")]


async def filling(node: Node) -> None:
    await node.fill(VERSIONS[0])


async def demoting(node: Node) -> None:
    for version in VERSIONS[:3]:
        await node.fill(version)
    assert await node.mover.turn() == 2


async def promoting(node: Node) -> None:
    for version in VERSIONS:
        await node.fill(version)
    node.tiers[0].high = 1.0
    node.drop(VERSIONS[0])
    await node.use(VERSIONS[3])
    assert await node.mover.turn() == 1


def at_random(seed: int) -> Scenario:
    """Fills, uses, drops and turns of the mover in a seeded order."""

    async def scenario(node: Node) -> None:
        draw = random.Random(seed)
        for _ in range(12):
            version = draw.choice(VERSIONS)
            what = draw.choice(["fill", "fill", "use", "drop", "turn"])
            if what == "fill":
                await node.fill(version)
            elif what == "use" and node.store.find(version) is not None:
                await node.use(version)
            elif what == "drop":
                node.drop(version)
            else:
                await node.mover.turn()

    return scenario


def kill_everywhere(folder: Path, scenario: Scenario, *, is_torn: bool) -> int:
    """Run the scenario anew for each of its failpoints; return how many there were."""
    for at_call in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        was_killed, acknowledged = run_killed(folder, scenario, at_call, is_torn=is_torn)
        asyncio.run(check_after_restart(folder, VERSIONS, acknowledged))
        if not was_killed:
            return at_call - 1
    raise AssertionError("unreachable")


@pytest.mark.parametrize(("scenario", "failpoints_min"), [(filling, 10), (demoting, 40), (promoting, 59)])
def test_a_kill_at_any_call_loses_and_doubles_nothing(tmp_path: Path, scenario: Scenario, failpoints_min: int) -> None:
    assert kill_everywhere(tmp_path / "node", scenario, is_torn=True) >= failpoints_min


@pytest.mark.nightly
def test_many_kills_at_any_call_lose_and_double_nothing(tmp_path: Path) -> None:
    kills = sum(kill_everywhere(tmp_path / "node", at_random(seed), is_torn=bool(seed % 2)) for seed in range(60))
    print(f"{kills} kills")
    assert kills >= 500
