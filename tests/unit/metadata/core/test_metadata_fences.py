"""Fences: what they refuse, and when they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata.core import fences
from metadata.core.fences import KEPT_NS, Fence
from metadata.errors import Forbidden, InvalidRequest

NOW = 10**18
NODES, PATHS, PODS = ("n1", "n2"), ("", "run", "run/a", "running"), ("p1", "p2", "p3")
some_pods = st.lists(st.sampled_from(PODS), min_size=1, max_size=3, unique=True).map(tuple)
some_fences = st.builds(Fence, st.sampled_from(NODES), st.sampled_from(PATHS), some_pods)


def refuses(found: tuple[Fence, ...], node: str, path: str) -> bool:
    try:
        fences.require_none(found, node, path, NOW)
    except Forbidden:
        return True
    return False


def test_a_fence_refuses_its_node_at_and_below_its_path_and_nobody_else() -> None:
    found = fences.raised((), [Fence("n1", "run/a", ("p1",))], NOW)
    assert refuses(found, "n1", "run/a") and refuses(found, "n1", "run/a/step-1/w")
    assert not refuses(found, "n2", "run/a") and not refuses(found, "", "run/a")
    assert not refuses(found, "n1", "run/ab") and not refuses(found, "n1", "run")
    with pytest.raises(Forbidden, match=r"'run/a/w' is not changed from node n1: 1 pods .* may still run there"):
        fences.require_none(found, "n1", "run/a/w", NOW)


def test_it_stands_once_no_worker_goes_by_an_older_record() -> None:
    """What a worker changed in the under store by one is not refused afterwards."""
    found = fences.raised((), [Fence("n1", "run", ("p1",))], NOW, settle_seconds=4.0)
    fences.require_none(found, "n1", "run/w", NOW + 4 * 10**9 - 1)
    again = fences.raised(found, [Fence("n1", "run", ("p2",))], NOW + 3 * 10**9, settle_seconds=4.0)
    for one in (found, again):
        with pytest.raises(Forbidden):
            fences.require_none(one, "n1", "run/w", NOW + 4 * 10**9)


def test_the_root_is_fenced_whole() -> None:
    assert refuses(fences.raised((), [Fence("n1", "", ("p1",))], NOW), "n1", "anything")


@given(st.lists(some_fences, max_size=8), st.lists(st.tuples(st.sampled_from(NODES), some_pods), max_size=8))
def test_it_is_up_exactly_while_one_of_its_pods_has_not_ended(
    new: list[Fence], ended: list[tuple[str, tuple[str, ...]]]
) -> None:
    found: tuple[Fence, ...] = ()
    for one in new:
        found = fences.raised(found, [one], NOW)
    assert fences.raised(found, new, NOW) == found, "asking again changes nothing"
    for node, pods in ended:
        found = fences.lifted(found, node, pods)
    gone = {(node, pod) for node, pods in ended for pod in pods}
    for node in NODES:
        for path in PATHS:
            left = {pod for one in new if (one.node, one.path) == (node, path) for pod in one.pods}
            is_up = any((node, pod) not in gone for pod in left)
            assert is_up is any((one.node, one.path) == (node, path) for one in found)
    assert all(one.pods for one in found)


def test_of_a_node_that_never_came_back_it_is_forgotten() -> None:
    old = fences.raised((), [Fence("n1", "run", ("p1",))], NOW)
    new = Fence("n2", "run", ("p2",))
    assert {one.node for one in fences.raised(old, [new], NOW + KEPT_NS - 1)} == {"n1", "n2"}
    assert {one.node for one in fences.raised(old, [new], NOW + KEPT_NS)} == {"n2"}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Fence("", "run", ("p",)), "fences.node"),
        (Fence("n", "run", ()), "fences.pods"),
        (Fence("n", "run", ("",)), "fences.pods"),
        (Fence("n", "run//a", ("p",)), "fences.path"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong: Fence, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        fences.check(wrong)
