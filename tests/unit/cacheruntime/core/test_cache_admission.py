"""Admission, the ledger of a tier, single flight, rates: rules with their numbers."""

from dataclasses import replace

import pytest

from cacheruntime.core.admission import admit, place
from cacheruntime.core.eviction import Candidate, victims
from cacheruntime.core.fills import Fills, Join
from cacheruntime.core.load_plan import is_below
from cacheruntime.core.rates import BusyRate, Limits, TokenBucket
from cacheruntime.core.tiers import Tier


def mem_and_ssd(mem_used: int = 0, ssd_used: int = 0) -> list[Tier]:
    return [Tier("MEM", 100, 10, used_bytes=mem_used), Tier("SSD", 1000, 50, used_bytes=ssd_used)]


def held(name: str, uid: str, size: int, *, tier: int = 0, is_home: bool = True, used: float = 0.0) -> Candidate:
    return Candidate(name, uid, tier, size, is_home, is_referenced=False, is_pinned=False, last_used_seconds=used)


def where(tiers: list[Tier], wanted: int, files: tuple[Candidate, ...] = (), uid: str = "u1"):  # type: ignore[no-untyped-def]
    return place(tiers, lambda: files, wanted_bytes=wanted, uid=uid, as_home=True, now_seconds=0.0)


def test_a_file_goes_to_the_fastest_tier_with_room() -> None:
    assert where(mem_and_ssd(), 60).tier == 0
    assert where(mem_and_ssd(mem_used=50), 60).tier == 1


def test_reserved_room_is_not_given_twice() -> None:
    tiers = mem_and_ssd()
    tiers[0].reserve(60)
    assert where(tiers, 60).tier == 1


def test_other_datasets_make_room_in_the_slowest_tier_first() -> None:
    tiers = mem_and_ssd(mem_used=100, ssd_used=1000)
    files = (held("m", "u2", 100), held("s", "u2", 1000, tier=1))
    placement = where(tiers, 60, files)
    assert (placement.tier, [c.name for c in placement.evict]) == (1, ["s"])


def test_a_full_cache_of_the_same_dataset_is_bypassed() -> None:
    tiers = mem_and_ssd(mem_used=100, ssd_used=1000)
    files = (held("m", "u1", 100), held("s", "u1", 1000, tier=1))
    placement = where(tiers, 60, files)
    assert (placement.reserve_bytes, placement.evict) == (0, ())
    answer = admit(
        tiers, lambda: files, tier=1, size_bytes=10, reserved_bytes=0, uid="u1", as_home=True, now_seconds=0.0
    )
    assert not answer.is_admitted


def test_a_home_may_take_the_place_of_a_copy_of_its_dataset() -> None:
    tiers = mem_and_ssd(mem_used=100)
    files = (held("copy", "u1", 20, is_home=False), held("home", "u1", 80))
    answer = admit(
        tiers, lambda: files, tier=0, size_bytes=10, reserved_bytes=0, uid="u1", as_home=True, now_seconds=0.0
    )
    assert answer.is_admitted and [c.name for c in answer.evict] == ["copy"]


def test_what_a_file_reserved_is_admitted_without_looking() -> None:
    tiers = mem_and_ssd(mem_used=40)
    tiers[0].reserve(60)
    answer = admit(
        tiers,
        lambda: pytest.fail("nothing had to be looked at"),
        tier=0,
        size_bytes=60,
        reserved_bytes=60,
        uid="u1",
        as_home=False,
        now_seconds=0.0,
    )
    assert answer.is_admitted and not answer.evict


def test_a_full_medium_takes_nothing_until_its_pause_ends() -> None:
    tiers = mem_and_ssd()
    tiers[0].blocked_until_seconds = 10.0
    assert where(tiers, 60).tier == 1
    assert place(tiers, tuple, wanted_bytes=60, uid="u1", as_home=True, now_seconds=10.0).tier == 0


def test_the_medium_may_have_less_room_than_the_quota() -> None:
    tiers = mem_and_ssd()
    tiers[0].device_free_bytes = 30
    assert where(tiers, 60).tier == 1


def test_temporary_bytes_have_a_limit_of_their_own() -> None:
    tier = Tier("MEM", 100, 10, used_bytes=100)
    assert tier.take_temporary(10, 0.0) and not tier.take_temporary(1, 0.0)
    tier.return_temporary(10)
    assert tier.take_temporary(1, 0.0)


def test_one_caller_fetches_and_the_others_wait() -> None:
    fills: Fills[str] = Fills()
    assert [fills.join("k", 0.0) for _ in range(3)] == [Join.START, Join.WAIT, Join.WAIT]
    assert fills.waiters("k") == 2
    fills.succeed("k")
    assert fills.join("k", 0.0) is Join.START


def test_a_failed_fetch_pauses_longer_each_time_and_a_success_forgets_it() -> None:
    fills: Fills[str] = Fills(pause_seconds=1.0)
    reason = RuntimeError("down")
    assert fills.join("k", 0.0) is Join.START
    fills.fail("k", 0.0, reason, pause=True)
    assert fills.join("k", 0.9) is Join.REFUSED and fills.refusal("k") is reason
    assert fills.join("k", 1.0) is Join.START
    fills.fail("k", 1.0, reason, pause=True)
    assert fills.join("k", 2.9) is Join.REFUSED
    assert fills.join("k", 3.0) is Join.START
    fills.succeed("k")
    assert fills.join("k", 3.0) is Join.START
    fills.fail("k", 3.0, reason, pause=True)
    assert fills.join("k", 4.0) is Join.START


def test_a_failure_that_would_not_pass_by_waiting_does_not_pause() -> None:
    fills: Fills[str] = Fills()
    assert fills.join("k", 0.0) is Join.START
    fills.fail("k", 0.0, RuntimeError("gone"), pause=False)
    assert fills.join("k", 0.0) is Join.START


def test_speed_is_of_busy_time_and_of_all_streams_together() -> None:
    rate = BusyRate(memory_seconds=1e9)
    assert rate.bytes_per_second == 0
    rate.start(0.0)
    rate.start(0.0)
    rate.finish(2.0, 100)
    rate.finish(2.0, 100)
    assert rate.bytes_per_second == pytest.approx(100)
    rate.start(100.0)  # idle since 2.0
    rate.finish(102.0, 600)
    assert rate.bytes_per_second == pytest.approx(200)
    assert rate.total_bytes == 800


def test_old_speed_is_forgotten() -> None:
    rate = BusyRate(memory_seconds=1.0)
    rate.start(0.0)
    rate.finish(10.0, 10_000)
    rate.start(20.0)
    rate.finish(40.0, 200)
    assert rate.bytes_per_second < 20


def test_the_rate_limit_books_ahead_and_allows_a_burst_of_a_second() -> None:
    bucket = TokenBucket(100)
    assert bucket.delay_seconds(100, 10.0) == 0.0
    assert bucket.delay_seconds(100, 10.0) == pytest.approx(1.0)
    assert bucket.delay_seconds(50, 10.0) == pytest.approx(1.5)
    assert bucket.delay_seconds(100, 20.0) == 0.0
    assert TokenBucket(0).delay_seconds(10**12, 0.0) == 0.0


def test_targets_are_paths_not_prefixes_of_names() -> None:
    assert is_below("a/b", ["a"]) and is_below("a", ["a/"]) and is_below("x", []) and is_below("x", ["/"])
    assert not is_below("ab/c", ["a"])


def test_what_comes_back_fast_goes_before_what_was_used_long_ago() -> None:
    def file(name: str, used: float, bytes_per_second: float, *, is_home: bool = True) -> Candidate:
        return replace(held(name, name, 10, is_home=is_home, used=used), refetch_seconds_per_byte=1 / bytes_per_second)

    files = [file("slow", 1.0, 1e6), file("fast", 9.0, 1e9), file("fast-too", 8.0, 0.9e9)]
    files.append(file("copy", 10.0, 1e3, is_home=False))  # its home has it, whatever the under store costs
    chosen = victims(files, needed_bytes=40, tier=0, uid="other", as_home=True)
    assert [victim.name for victim in chosen] == ["copy", "fast-too", "fast", "slow"]


def test_limits_hold_for_each_dataset_and_for_all_and_one_ones_queue_holds_up_no_other() -> None:
    limits = Limits()
    waits = [limits.of_dataset("slow", 100, 10.0, 100) for _ in range(4)]
    assert waits == [0.0, 1.0, 2.0, 3.0], "a burst of a second, then its rate"
    assert limits.of_dataset("free", 10**9, 10.0, 0) == 0.0
    assert limits.of_all(300, 10.0, 300) == 0.0, "what waits for its own limit took nothing of the others' room"
    assert limits.of_all(300, 10.0, 300) == 1.0
    assert limits.of_all(300, 10.0, 600) == 1.5, "a worker left: our part of the pool is larger"
    assert limits.of_dataset("slow", 100, 10.0, 0) == 0.0, "the limit was taken away"
