"""What priority, guaranteed and maximum bytes and pins promise, whatever datasets come to fill a tier."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cacheruntime.core import admission
from cacheruntime.core.eviction import Candidate, may_displace, victims
from cacheruntime.core.hit_ratio import PassReads, expected_hit_ratio
from cacheruntime.core.shares import Holding, Terms
from cacheruntime.core.tiers import Tier

QUOTA = 1_000
FILE_BYTES = 20
UIDS = ("a", "b", "c")
TERMS = st.builds(
    Terms,
    priority=st.integers(-2, 2),
    guaranteed_bytes=st.sampled_from([0, 0, 100, 300]),
    maximum_bytes=st.sampled_from([0, 0, 400, 700]),
    pinned=st.sampled_from([(), (), ("pinned",)]),
)
ALL_TERMS = st.fixed_dictionaries(dict.fromkeys(UIDS, TERMS))
STEPS = st.lists(st.tuples(st.sampled_from(UIDS), st.booleans(), st.booleans()), max_size=150)


class Cache:
    """One tier of files, filled as the worker does it."""

    def __init__(self, terms: dict[str, Terms]) -> None:
        self.terms = terms
        self.tier = Tier("SSD", QUOTA, 0)
        self.tier.device_free_bytes = 10 * QUOTA
        self.files: dict[str, Candidate] = {}
        self.now = 0.0

    def holding(self, uid: str) -> Holding:
        return Holding(self.terms[uid], sum(f.resident_bytes for f in self.files.values() if f.uid == uid))

    def fill(self, uid: str, *, is_home: bool, is_pinned: bool) -> tuple[bool, tuple[Candidate, ...]]:
        """Bring one file; return whether it stayed, and what went for it."""
        self.now += 1
        is_pinned = is_pinned and self.terms[uid].pins("pinned/file")
        decided = admission.admit(
            [self.tier],
            lambda: list(self.files.values()),
            tier=0,
            size_bytes=FILE_BYTES,
            reserved_bytes=0,
            uid=uid,
            as_home=is_home,
            is_pinned=is_pinned,
            holding=self.holding,
            now_seconds=self.now,
        )
        if decided.is_admitted:
            for victim in decided.evict:
                del self.files[victim.name]
                self.tier.refund(victim.resident_bytes)
            name = f"{uid}-{self.now}"
            self.files[name] = Candidate(name, uid, 0, FILE_BYTES, is_home, False, is_pinned, self.now)
            self.tier.charge(FILE_BYTES)
        return decided.is_admitted, decided.evict


@given(ALL_TERMS, STEPS)
@settings(deadline=None)
def test_shares_and_pins_are_kept_to(terms: dict[str, Terms], steps: list[tuple[str, bool, bool]]) -> None:
    cache = Cache(terms)
    for uid, is_home, is_pinned in steps:
        before = {each: cache.holding(each) for each in UIDS}
        is_kept, gone = cache.fill(uid, is_home=is_home, is_pinned=is_pinned)
        after = {each: cache.holding(each) for each in UIDS}
        assert not any(file.is_pinned for file in gone)
        for each in UIDS:
            assert not terms[each].maximum_bytes or after[each].held_bytes <= terms[each].maximum_bytes
            if each == uid:
                continue
            lost = before[each].held_bytes - after[each].held_bytes
            assert lost >= 0
            if lost:
                assert after[each].held_bytes >= terms[each].guaranteed_bytes, "nobody loses what it is guaranteed"
                is_owed = before[uid].is_below_guarantee
                assert is_owed or terms[each].priority <= terms[uid].priority
        # No starvation: who is owed room gets it as long as anybody else could do without.
        could = [
            file
            for file in cache.files.values()
            if file.uid != uid
            and not file.is_pinned
            and after[file.uid].held_bytes - FILE_BYTES >= terms[file.uid].guaranteed_bytes
        ]
        if before[uid].is_below_guarantee and not is_kept:
            assert not could or before[uid].missing_bytes(FILE_BYTES)


@given(ALL_TERMS, STEPS)
@settings(deadline=None)
def test_of_two_that_may_go_the_one_of_lower_priority_goes(
    terms: dict[str, Terms], steps: list[tuple[str, bool, bool]]
) -> None:
    cache = Cache(terms)
    for uid, is_home, is_pinned in steps:
        cache.fill(uid, is_home=is_home, is_pinned=is_pinned)
    files, holding = list(cache.files.values()), cache.holding
    chosen = victims(files, needed_bytes=5 * FILE_BYTES, tier=0, uid="a", as_home=True, holding=holding)
    for victim in chosen:
        spared = [
            file
            for file in files
            if file not in chosen
            and may_displace(file, uid="a", as_home=True, holding=holding)
            and holding(file.uid).terms.guaranteed_bytes == 0
        ]
        for file in spared:
            above = (holding(file.uid).is_above_maximum, holding(victim.uid).is_above_maximum)
            assert above != (True, False)
            if above[0] == above[1]:
                assert terms[victim.uid].priority <= terms[file.uid].priority


@given(TERMS, st.integers(1, 50))
def test_parts_of_a_share_are_at_least_the_whole(terms: Terms, workers: int) -> None:
    part = terms.on_one_of(workers)
    assert part.guaranteed_bytes * workers >= terms.guaranteed_bytes > (part.guaranteed_bytes - 1) * workers
    assert (part.maximum_bytes == 0) == (terms.maximum_bytes == 0), "a limit never becomes none"
    assert replace(part, guaranteed_bytes=0, maximum_bytes=0) == replace(terms, guaranteed_bytes=0, maximum_bytes=0)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(2, 5), st.randoms(use_true_random=False))
def test_the_last_pass_measures_the_cached_part_in_any_order(
    files: int, cached: int, passes: int, draw: Random
) -> None:
    reads, cached = PassReads(), min(cached, files)
    for _ in range(passes):
        order = list(range(files))
        draw.shuffle(order)
        for number in order:
            reads.add("local" if number < cached else "origin", 7, 7 * files)
    measured = reads.by_source.get("local", 0) / sum(reads.by_source.values())
    assert measured == expected_hit_ratio(7 * cached, 7 * files)
