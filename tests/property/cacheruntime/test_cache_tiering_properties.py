"""Promotion and demotion as a whole: random fills, uses, pins and moves, with every move free to be refused or late.

The model holds files and ledgers and does with a plan what the mover does: looks again, reserves, copies, commits.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cacheruntime.core.admission import place
from cacheruntime.core.eviction import Candidate
from cacheruntime.core.tiering import Move, demotions, overfull, promotion
from cacheruntime.core.tiers import Tier, moving_room


def some_tiers() -> list[Tier]:
    return [
        Tier("MEM", 100, 10, high=0.9, low=0.6),
        Tier("SSD", 150, 10, high=0.9, low=0.5, moving_room_bytes=moving_room(1500)),
        Tier("SSD", 100, 10, moving_room_bytes=30),
        Tier("HDD", 400, 10, moving_room_bytes=30),
    ]


class Levels(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tiers = some_tiers()
        self.files: dict[str, Candidate] = {}
        self.filled_bytes = 0
        self.now = 0.0

    def check_ledgers(self) -> None:
        for number, tier in enumerate(self.tiers):
            held = sum(file.resident_bytes for file in self.files.values() if file.tier == number)
            assert held == tier.used_bytes and tier.reserved_bytes == 0
            assert tier.used_bytes <= tier.quota_bytes

    def do(self, move: Move, *, is_refused: bool) -> None:
        file, target = self.files[move.name], self.tiers[move.target]
        assert (file.tier, file.resident_bytes) == (move.source, move.size_bytes)
        assert target.room_for_moves_bytes(self.now) >= move.size_bytes, "planned without room"
        target.reserve(move.size_bytes)
        assert target.used_bytes + target.reserved_bytes <= target.quota_bytes
        target.release(move.size_bytes)
        if is_refused:
            return
        target.charge(move.size_bytes)
        self.tiers[move.source].refund(move.size_bytes)
        self.files[move.name] = replace(file, tier=move.target)

    @rule(size=st.integers(1, 60), name=st.integers(0, 30))
    def fill(self, size: int, name: int) -> None:
        key = f"f{name}"
        if key in self.files:
            return
        placed = place(
            self.tiers,
            self.files.values,
            wanted_bytes=size,
            uid="u",
            as_home=True,
            now_seconds=self.now,
        )
        assert not placed.evict, "inside one dataset nothing is evicted"
        if placed.reserve_bytes:
            self.tiers[placed.tier].charge(size)
            self.filled_bytes += size
            self.files[key] = Candidate(key, "u", placed.tier, size, True, False, False, self.now, uses=1.0)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), times=st.integers(1, 6))
    def use(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.now += 1
        before = self.files[name]
        self.files[name] = replace(before, uses=before.uses + times, last_used_seconds=self.now)
        is_refused = data.draw(st.booleans())
        for move in promotion(self.tiers, self.files[name], self.files.values, self.now):
            if move.name == name:
                target = self.tiers[move.target]
                assert target.level < self.tiers[move.source].level
                assert target.used_bytes + move.size_bytes <= target.high * target.quota_bytes, "would cause a demotion"
            else:
                self.check_demotion(move)
                assert 2 * self.files[move.name].uses + 2 <= self.files[name].uses
            self.do(move, is_refused=is_refused)
            if is_refused:
                return

    @rule(is_refused=st.booleans())
    def demote(self, is_refused: bool) -> None:
        due = overfull(self.tiers)
        moves = demotions(self.tiers, self.files.values(), self.now)
        for move in moves:
            assert move.source in due
            self.check_demotion(move)
            source = self.tiers[move.source]
            assert is_refused or source.used_bytes > source.low * source.quota_bytes, "went on below the low mark"
            self.do(move, is_refused=is_refused)
        if not is_refused and moves and not overfull(self.tiers):
            assert not demotions(self.tiers, self.files.values(), self.now), "a level at rest moves nothing"

    def check_demotion(self, move: Move) -> None:
        file = self.files[move.name]
        assert not file.is_pinned and not file.is_referenced
        assert self.tiers[move.target].level > self.tiers[move.source].level

    @precondition(lambda self: self.files)
    @rule(data=st.data(), is_pinned=st.booleans(), is_referenced=st.booleans())
    def hold(self, data: st.DataObject, is_pinned: bool, is_referenced: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.files[name] = replace(self.files[name], is_pinned=is_pinned, is_referenced=is_referenced)

    @invariant()
    def nothing_is_lost_and_no_quota_exceeded(self) -> None:
        assert sum(file.resident_bytes for file in self.files.values()) == self.filled_bytes
        self.check_ledgers()


TestLevels = Levels.TestCase
TestLevels.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def epochs_over(files: dict[str, Candidate], tiers: list[Tier], orders: list[list[str]]) -> int:
    """Read all files in each order; return how many were planned to move."""
    moves = 0
    for number, order in enumerate(orders):
        for at, name in enumerate(order):
            file = files[name] = replace(files[name], uses=files[name].uses + 1, last_used_seconds=number * 1e3 + at)
            moves += len(promotion(tiers, file, files.values, 1e6))
    return moves


@settings(max_examples=60, deadline=None)
@given(
    orders=st.lists(st.permutations([f"f{number}" for number in range(8)]), min_size=1, max_size=6),
    uses=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_epochs_move_nothing_between_full_levels(orders: list[list[str]], uses: float) -> None:
    tiers = [Tier("MEM", 40, 0, used_bytes=36), Tier("SSD", 100, 0, used_bytes=40)]
    files = {
        f"f{n}": Candidate(f"f{n}", "u", int(n >= 4), 9 + int(n >= 4), True, False, False, 0.0, uses=uses)
        for n in range(8)
    }
    assert epochs_over(files, tiers, orders) == 0


def test_what_is_used_far_more_often_changes_places_with_the_coldest() -> None:
    tiers = [Tier("MEM", 20, 0, used_bytes=20), Tier("SSD", 40, 0, used_bytes=30)]
    mem = [Candidate(f"m{n}", "u", 0, 10, True, False, False, float(n), uses=1.0 + n) for n in range(2)]
    hot = Candidate("hot", "u", 1, 8, True, False, False, 9.0, uses=4.0)
    moves = promotion(tiers, hot, lambda: [*mem, hot], 10.0)
    assert moves == [Move("m0", 10, 0, 1), Move("hot", 8, 1, 0)]
    # Nothing to give its place, or no room below for it: the file stays.
    assert not promotion(tiers, replace(hot, uses=3.0), lambda: [*mem, hot], 10.0)
    tiers[1].charge(1)
    assert not promotion(tiers, hot, lambda: [*mem, hot], 10.0)


def test_paths_of_a_level_fill_evenly() -> None:
    tiers = [Tier("SSD", 100, 0), Tier("SSD", 300, 0), Tier("HDD", 100, 0)]
    for _ in range(40):
        placed = place(tiers, list, wanted_bytes=10, uid="u", as_home=True, now_seconds=0.0)
        tiers[placed.tier].charge(10)
    assert [tier.used_bytes for tier in tiers] == [100, 300, 0]
    tiers = [Tier("SSD", 100, 0), Tier("SSD", 300, 0)]
    for _ in range(8):
        tiers[place(tiers, list, wanted_bytes=10, uid="u", as_home=True, now_seconds=0.0).tier].charge(10)
    assert [tier.used_bytes for tier in tiers] == [20, 60]
