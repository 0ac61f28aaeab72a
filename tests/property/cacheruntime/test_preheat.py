"""What is ahead of readers: each file once, in the declared order, within the bytes; rows that are learned."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cacheruntime.core import preheat
from cacheruntime.core.preheat import FILES_AHEAD, LOOK_AHEAD, UNUSED_SECONDS, Heat, Order, Preheat, Rows, Sequences

UID = "u"


def taken(plan: Preheat, size_bytes: int = 1) -> list[str]:
    """Every path it gives out now, each of that size."""
    found = []
    while (key := plan.next(0.0)) is not None:
        plan.sized(key, size_bytes)
        found.append(key[1])
    return found


@given(st.lists(st.text(min_size=1), max_size=50), st.integers(1, 20))
def test_an_order_is_what_was_declared(paths: list[str], part: int) -> None:
    order = Order(UID)
    for first in range(0, len(paths), part):
        order.extend(paths[first : first + part])
    assert [order[i] for i in range(len(order))] == paths


def test_a_reader_in_turn_finds_every_file_ahead_of_it() -> None:
    paths = [f"{i * 7919 % 5000}" for i in range(5000)]
    plan = Preheat(1 << 40)
    plan.declare("reader", UID, 0, paths)
    ahead: set[str] = set(taken(plan))
    assert ahead == set(paths[:FILES_AHEAD])
    for number, path in enumerate(paths):
        assert path in ahead
        assert plan.opened(UID, path, is_resident=True)
        ahead |= (new := set(taken(plan)))
        assert new <= {paths[min(number + FILES_AHEAD, len(paths) - 1)]}
    assert plan.ahead_bytes == 0


def test_a_reader_that_is_quicker_is_caught_up_with() -> None:
    paths = [f"f{i}x" for i in range(1000)]
    plan = Preheat(1 << 40)
    plan.declare("reader", UID, 0, paths)
    first = plan.next(0.0)
    assert first == (UID, "f0x")
    plan.opened(UID, paths[LOOK_AHEAD], is_resident=False)
    assert taken(plan)[0] == paths[LOOK_AHEAD + 1]


def test_bytes_limit_what_is_ahead_and_large_files_count_with_their_head() -> None:
    plan = Preheat(1000)
    plan.declare("reader", UID, 0, [f"f{i}x" for i in range(100)])
    assert len(taken(plan, 10_000)) == 4
    assert plan.ahead_bytes == 1000
    plan.opened(UID, "f0x", is_resident=False)
    assert taken(plan, 100) == ["f4x", "f5x", "f6x"]


def test_what_nobody_opened_is_let_go() -> None:
    plan = Preheat(10)
    plan.declare("reader", UID, 0, ["a", "b", "c"])
    assert taken(plan, 10) == ["a", "b", "c"]
    assert plan.unused(UNUSED_SECONDS) == []
    assert {path for _, path in plan.unused(UNUSED_SECONDS + 1)} == {"a", "b", "c"}
    assert plan.ahead_bytes == 0


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_row_of_shards_is_learned_and_ends_where_files_do(step: int) -> None:
    plan = Preheat(1 << 40)
    names = [f"train/part-{i:05d}-of-00100.tar" for i in range(0, 100, step)]
    ahead: set[str] = set()
    hits = 0
    for name in names:
        hits += plan.opened(UID, name, is_resident=name in ahead)
        while (key := plan.next(0.0)) is not None:
            if key[1] in names:
                plan.sized(key, 1)
                ahead.add(key[1])
            else:
                plan.missing(key)
    assert hits == len(names) - 3
    assert ahead == set(names[3:])


def test_numbers_without_zeros_before_them_are_a_row_too() -> None:
    rows = Rows()
    for number in (8, 9, 10):
        rows.opened(UID, f"img_{number}.jpg")
    assert rows.next() == (UID, "img_11.jpg")


@pytest.mark.parametrize("seed", range(10))
def test_a_shuffled_epoch_teaches_next_to_nothing(seed: int) -> None:
    numbers = list(range(2000))
    random.Random(seed).shuffle(numbers)
    rows, given_out = Rows(), 0
    for number in numbers:
        rows.opened(UID, f"{number:04d}.jpg")
        while rows.next() is not None:
            given_out += 1
    assert given_out < 20


def test_shuffled_epochs_repeat_nothing() -> None:
    sequences, given_out = Sequences(), 0
    for seed in range(3):
        names = [f"d/{number}" for number in range(2000)]
        random.Random(seed).shuffle(names)
        for name in names:
            sequences.opened(UID, name)
            given_out += len([give() for _, give in sequences.believed()])
    assert given_out < 5


def test_of_two_rows_that_in_the_hotter_directory_goes_first_and_heat_fades(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Preheat(1 << 40)
    for number in range(4):
        plan.opened(UID, f"cold/{number:03}.tar", is_resident=False)
        for reader in range(3):
            plan.opened(UID, f"hot/r{reader}-{number:03}.tar", is_resident=False)
    given = taken(plan)
    hot = [path for path in given if path.startswith("hot/")]
    assert hot and "cold/004.tar" in given
    assert given[: len(hot)] == hot
    monkeypatch.setattr(preheat, "HEAT_MAX", 10.0)
    heat = Heat()
    for _ in range(9):
        heat.opened(UID, "old/a")
    for _ in range(40):
        heat.opened(UID, "new/a")
    assert heat.of((UID, "new")) > 5 and heat.of((UID, "old")) < 1


@given(st.lists(st.text("abc/", min_size=1), min_size=6, max_size=40, unique=True))
def test_an_order_that_is_repeated_is_learned_whatever_the_names(names: list[str]) -> None:
    plan = Preheat(1 << 40)
    paths = [f"dir/{name.replace('/', '-')}{number}x" for number, name in enumerate(names)]
    random.Random(7).shuffle(paths)
    sequences = Sequences()
    for path in paths:
        sequences.opened(UID, path)
        assert not list(sequences.believed()), "nothing was repeated yet"
    for path in paths[:3]:
        sequences.opened(UID, path)
    ((directory, give),) = sequences.believed()
    assert directory == (UID, "dir")
    assert [give(), give(), give()] == [*paths[3:5], None], "as many as came true so far"
    for path in (*paths, *paths[:3]):
        plan.opened(UID, path, is_resident=True)
    assert set(paths[3:5]) <= set(taken(plan)), "what is resident teaches the order too"


def test_refusals_say_what_would_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Preheat(10)
    with pytest.raises(ValueError, match="first 3 is not where the order goes on: it has 0 files"):
        plan.declare("reader", UID, 3, ["a"])
    assert plan.declare("reader", UID, 0, ["a", "b"]) == 2
    with pytest.raises(ValueError, match="it has 2 files"):
        plan.declare("reader", UID, 1, ["a"])
    monkeypatch.setattr(preheat, "ORDER_FILES_MAX", 2)
    with pytest.raises(ValueError, match="an order of 3 files is too long; the most is 2"):
        plan.declare("reader", UID, 2, ["c"])


class Machine(RuleBasedStateMachine):
    """Readers, openings, sizes, failures and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Preheat(100)
        self.out: dict[Any, int] = {}
        self.now = 0.0

    @rule(owner=st.integers(0, 2), names=st.lists(st.sampled_from([f"f{i:02d}" for i in range(30)]), max_size=20))
    def declare(self, owner: int, names: list[str]) -> None:
        self.plan.declare(owner, UID, 0, names)

    @rule(owner=st.integers(0, 2))
    def forget(self, owner: int) -> None:
        self.plan.forget(owner)

    @rule(size_bytes=st.integers(0, 60), lost=st.sampled_from(["", "missing", "drop"]))
    def bring(self, size_bytes: int, lost: str) -> None:
        key = self.plan.next(self.now)
        if key is None:
            return
        assert key not in self.out
        assert self.plan.ahead_bytes < self.plan.bytes_max
        if lost:
            getattr(self.plan, lost)(key)
        else:
            self.out[key] = self.plan.sized(key, size_bytes)

    @rule(name=st.integers(0, 35), is_resident=st.booleans())
    def open(self, name: int, is_resident: bool) -> None:
        key = (UID, f"f{name:02d}")
        assert self.plan.opened(*key, is_resident=is_resident) == (key in self.out)
        self.out.pop(key, None)

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for key in self.plan.unused(self.now):
            del self.out[key]

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.plan.ahead_bytes == sum(self.out.values())
        assert self.plan.ahead_bytes <= self.plan.bytes_max + self.plan.head_bytes_max


TestMachine = Machine.TestCase
