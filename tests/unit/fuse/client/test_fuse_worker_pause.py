"""How often a worker that is away is looked for."""

import pytest

from fuse.client.worker_client import PAUSE_MAX_SECONDS, PAUSE_MIN_SECONDS, PAUSE_PART, pause_seconds


@pytest.mark.parametrize("away_seconds", [0.0, 0.05, 0.3, 1.0, 4.0, 9.0])
def test_clients_wait_a_tenth_longer_than_the_worker_is_away(away_seconds: float) -> None:
    now, looks = 0.0, 1
    while now < away_seconds:
        now, looks = now + pause_seconds(now), looks + 1
    assert now <= away_seconds * (1 + PAUSE_PART) + PAUSE_MIN_SECONDS
    assert looks < 60


def test_a_worker_that_stays_away_is_looked_for_once_a_second() -> None:
    assert pause_seconds(3600.0) == PAUSE_MAX_SECONDS
