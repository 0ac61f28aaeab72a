"""Whole worker and metadata processes, ended by SIGKILL at failpoints: nothing that was acknowledged is lost."""

import time
from pathlib import Path

import pytest

from tests.kills import failpoints


def at_failpoints(directory: Path, victim: str, kills: int, seed: int) -> failpoints.Outcome:
    outcome = failpoints.run(directory, victim, kills, seed)
    print(f"seed {seed}: {outcome.line()}, {outcome.acknowledged} acknowledged changes")
    assert outcome.faults == [], f"seed {seed}"
    # Each was proved by the victim's own last word and its wait status.
    assert outcome.kills.total() == kills
    assert outcome.acknowledged > kills
    assert set(outcome.kills) <= outcome.seen
    return outcome


@pytest.mark.nightly
@pytest.mark.parametrize("victim", failpoints.VICTIMS)
def test_kills_lose_nothing(tmp_path: Path, victim: str) -> None:
    at_failpoints(tmp_path, victim, 2, seed=time.time_ns() % 1_000_000)


@pytest.mark.nightly
@pytest.mark.parametrize("victim", failpoints.VICTIMS)
def test_five_hundred_kills_lose_nothing(tmp_path: Path, victim: str) -> None:
    outcome = at_failpoints(tmp_path, victim, 500, seed=time.time_ns() % 1_000_000)
    # Rare ones are passed by chance only; most must have been.
    assert len(outcome.kills) >= 0.8 * len(outcome.seen), sorted(outcome.seen - set(outcome.kills))
