"""Records of held files, and when they are uploaded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.held import HeldName
from cacheruntime.core.held import (
    RETRY_SECONDS_MAX,
    Record,
    RecordError,
    Schedule,
    Settings,
    decode,
    encode,
    partners,
    quota_bytes,
)

NAME = HeldName("0" * 32, ("writer", "other"))
SETTINGS = Settings(settle_seconds=2.0, takeover_seconds=100.0)
NODES = st.sets(st.text("abc", min_size=1, max_size=3), max_size=6)


def record(size_bytes: int, checksums: list[int], etag: str = NAME.etag) -> Record:
    return Record(
        etag=etag, uid="u", path="ä/b", size_bytes=size_bytes, block_size_bytes=4, checksums=checksums, held_at_ns=1
    )


@given(st.integers(0, 40), st.data())
def test_a_record_comes_back(size_bytes: int, data: st.DataObject) -> None:
    blocks = -(-size_bytes // 4)
    one = record(size_bytes, data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=blocks, max_size=blocks)))
    assert decode(encode(one)) == one
    cut = data.draw(st.integers(0, len(encode(one)) - 1))
    with pytest.raises(RecordError):
        decode(encode(one)[:cut])


@pytest.mark.parametrize("bad", [record(5, [1]), record(4, [1, 2]), record(4, [1], etag="an object's")])
def test_a_record_that_does_not_fit_itself_is_refused(bad: Record) -> None:
    with pytest.raises(RecordError, match="does not fit"):
        decode(encode(bad))


@given(NODES, st.text("0123456789abcdef", min_size=1))
def test_partners_are_all_others(nodes: set[str], id: str) -> None:
    found = partners(id, "a", nodes)
    assert sorted(found) == sorted(nodes - {"a"})
    assert found == partners(id, "a", sorted(nodes, reverse=True))


def test_files_are_spread_over_all_partners() -> None:
    assert {partners(str(number), "a", ["a", "b", "c", "d"])[0] for number in range(50)} == {"b", "c", "d"}


def test_memory_holds_nothing() -> None:
    assert quota_bytes([("MEM", 1000), ("SSD", 500), ("HDD", 100)], 10) == 60
    assert quota_bytes([("MEM", 1000)], 100) == 0


@pytest.mark.parametrize(
    ("me", "live", "age_seconds", "is_due"),
    [
        ("writer", {"writer", "other"}, 1.9, False),  # its temporary name may change yet
        ("writer", {"writer", "other"}, 2.0, True),
        ("other", {"writer", "other"}, 99.0, False),
        ("other", {"writer", "other"}, 100.0, True),  # the writer's worker is hopelessly late
        ("other", {"other"}, 2.0, True),  # or gone
        ("other", {"other"}, 1.9, False),
    ],
)
def test_who_uploads_when(me: str, live: set[str], age_seconds: float, is_due: bool) -> None:
    assert Schedule(1000.0).is_due(1000.0 + age_seconds, NAME, me, live, SETTINGS) is is_due


def test_a_store_that_fails_is_asked_less_and_less() -> None:
    schedule, waits, now = Schedule(0.0), [], 10.0
    for _ in range(12):
        schedule.failed(now)
        waits.append(schedule.not_before_seconds - now)
        assert not schedule.is_due(schedule.not_before_seconds - 0.01, NAME, "writer", (), SETTINGS)
        now = schedule.not_before_seconds
        assert schedule.is_due(now, NAME, "writer", (), SETTINGS)
    assert waits[:3] == [1.0, 2.0, 4.0] and waits[-1] == RETRY_SECONDS_MAX and waits == sorted(waits)
    schedule.later(now, 5.0)
    assert schedule.failures == 12 and schedule.not_before_seconds == now + 5.0
