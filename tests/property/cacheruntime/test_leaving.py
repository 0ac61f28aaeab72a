"""What a worker that leaves hands over: every block it is a home of, to the homes that come after it, hottest first."""

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.homes import homes_of
from cacheruntime.core.leaving import Held, hottest_first, targets

nodes = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)


@given(nodes, st.integers(1, 4), st.integers(0, 30), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_afterwards_every_block_of_ours_lies_at_all_its_homes(
    staying: list[str], replicas: int, blocks: int, allowed: list[str]
) -> None:
    file = Held("name", "u", "a/b", 1.0, 0.0)
    may = tuple(sorted(node for node in staying if not allowed or node in allowed))
    is_home = not allowed
    before = tuple(sorted((*may, "me")))
    given = set(targets(file, range(blocks), me="me", staying=staying, allowed=allowed, replicas=replicas))
    for block in range(blocks):
        homes = homes_of("u", "a/b", block, before, replicas)
        if not is_home or not may or "me" not in homes:
            assert not [node for at, node in given if at == block]
            continue
        has = {node for at, node in given if at == block} | (set(homes) - {"me"})
        assert has == set(homes_of("u", "a/b", block, may, replicas))


def test_what_is_pinned_goes_first_and_then_what_was_used_most_and_last() -> None:
    files = [
        Held("cold", "u", "1", 1.0, 50.0),
        Held("late", "u", "2", 3.0, 20.0),
        Held("early", "u", "3", 3.0, 10.0),
        Held("pinned", "u", "4", 0.0, 0.0, is_pinned=True),
    ]
    assert [file.name for file in hottest_first(files)] == ["pinned", "late", "early", "cold"]
