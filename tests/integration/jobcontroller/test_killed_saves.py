"""Programs killed in the middle of a save go on from the last checkpoint that was finished: real mount, real kills."""

from pathlib import Path

import pytest

from tests.saves.campaign import run

pytestmark = pytest.mark.mount


def test_six_programs_killed_while_saving_lose_no_finished_checkpoint(tmp_path: Path) -> None:
    """One of each way of saving."""
    outcome = run(tmp_path, 6, seed=3)
    assert outcome.errors == []
    assert (outcome.kills, outcome.lost_saves) == (6, 0)


@pytest.mark.nightly
def test_a_thousand_programs_killed_while_saving_lose_no_finished_checkpoint(tmp_path: Path) -> None:
    """Some of their checkpoints are damaged besides."""
    outcome = run(tmp_path, 1000, seed=1)
    print(outcome.line())
    assert outcome.errors == []
    assert (outcome.kills, outcome.lost_saves) == (1000, 0)
    assert outcome.in_save > 500
    assert outcome.torn_seen > 100
    assert outcome.damaged.total() > 20
