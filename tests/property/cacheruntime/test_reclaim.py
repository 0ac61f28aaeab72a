"""When cached bytes that nobody uses are given back, over random histories of users, loads, bytes and time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conditions import parse_timestamp, timestamp
from api.data_v1alpha1 import Dataset, DatasetStatus, Reference
from cacheruntime.controller.listings import LONGEST_REST_SECONDS
from cacheruntime.controller.reclaim import Idleness, idleness

NOW = 1_800_000_000.0
TTL = 1800
USER = Reference(kind="Pod", namespace="ns", name="p")

step = st.fixed_dictionaries(
    {
        "passed": st.sampled_from([0.0, 1.0, 60.0, TTL - 1.0, TTL + 0.0, TTL + 1.0, 4.0 * TTL]),
        "users": st.sampled_from([None, [], [], [], [USER]]),
        "is_loading": st.sampled_from([False, False, False, True]),
        "cached_bytes": st.sampled_from([0, 1, 1 << 40]),
    }
)


def a_dataset(status: DatasetStatus | None = None, *, pinned: tuple[str, ...] = (), **reclaim: Any) -> Dataset:
    spec = {"mounts": [{"mountPoint": "s3://b", "name": "d"}], "reclaim": reclaim, "cache": {"pinned": list(pinned)}}
    one = Dataset.model_validate({"metadata": {"name": "d", "namespace": "ns", "uid": "u"}, "spec": spec})
    return one.model_copy(update={"status": status})


def after(status: DatasetStatus, found: Idleness, now: float) -> DatasetStatus:
    """What the controller writes."""
    at = timestamp(now) if found.is_due else status.reclaimed_at
    return status.model_copy(update={"unused_since": found.unused_since, "reclaimed_at": at})


@given(history=st.lists(step, max_size=30))
def test_nothing_is_given_back_before_a_whole_idle_time_without_users(history: list[dict[str, Any]]) -> None:
    status, now, unused_for = DatasetStatus(), NOW, None
    last_reclaim = float("-inf")
    for one in history:
        now += one.pop("passed")
        found = idleness(a_dataset(status, policy="WhenUnused", idleTTL="30m"), now=now, **one)
        if one["users"] or (one["users"] is not None and one["is_loading"]):
            unused_for = None
            assert found.unused_since is None
        elif one["users"] is not None and unused_for is None:
            unused_for = now
        if found.is_due:
            assert one["cached_bytes"] and one["users"] == [] and not one["is_loading"]
            assert unused_for is not None
            # Times in a status are whole seconds.
            assert now - unused_for >= TTL - 1 and now - last_reclaim >= TTL - 1
            last_reclaim = now
        elif found.rest_seconds is not None:
            assert 0 < found.rest_seconds <= LONGEST_REST_SECONDS
        status = after(status, found, now)


@given(idle_seconds=st.integers(0, 10 * TTL))
def test_it_is_due_as_soon_as_the_idle_time_is_over_and_looked_at_until_then(idle_seconds: int) -> None:
    status = DatasetStatus(unused_since=timestamp(NOW))
    one = a_dataset(status, policy="WhenUnused", idleTTL="30m")
    found = idleness(one, [], is_loading=False, cached_bytes=1, now=NOW + idle_seconds)
    assert found.is_due == (idle_seconds >= TTL)
    assert (found.rest_seconds is not None) == (idle_seconds < TTL)


@pytest.mark.parametrize(
    ("one", "is_due"),
    [
        (a_dataset(policy="WhenUnused"), True),
        (a_dataset(policy="WhenUnused", idleTTL="61m"), False),
        (a_dataset(policy="Retain", idleTTL="1s"), False),
        (a_dataset(), False),
        (a_dataset(policy="WhenUnused", pinned=("a/b",)), False),
    ],
)
def test_policy_default_time_and_pins(one: Dataset, is_due: bool) -> None:
    since = parse_timestamp(timestamp(NOW))
    one.status = DatasetStatus(unused_since=timestamp(NOW))
    found = idleness(one, [], is_loading=False, cached_bytes=5, now=since + 3600)
    assert found.is_due is is_due
    assert found.unused_since == timestamp(NOW), "whatever the policy, it is told"
