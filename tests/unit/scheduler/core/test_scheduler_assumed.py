"""Who takes room: scheduler/core/assumed.py with the node table."""

import pytest

from scheduler.core.assumed import Assigned, AssignedPod, Hold
from scheduler.core.node_table import NodeTable
from scheduler.errors import IllegalTransition
from tests.builders.scheduler_objects import a_node


def _pod(uid: str, node: str, cpu: int = 1000) -> AssignedPod:
    return AssignedPod(uid, "ns", uid, node, (("cpu", cpu),))


def _world(*nodes: str) -> tuple[NodeTable, Assigned]:
    table = NodeTable()
    for name in nodes:
        table.put(a_node(name))
    return table, Assigned(table)


def _cpu(table: NodeTable, node: str) -> int:
    return int(table.requested[table.row_of[node], 0])


def test_assume_confirm_counts_once() -> None:
    table, assigned = _world("a")
    assigned.assume(_pod("p", "a"))
    assert not assigned.confirm(_pod("p", "a"))
    assert not assigned.confirm(_pod("p", "a"))
    assert _cpu(table, "a") == 1000
    assert assigned.hold_of("p") is Hold.BOUND


def test_forget_gives_room_back_once_and_only_from_assumed() -> None:
    table, assigned = _world("a")
    assigned.assume(_pod("p", "a"))
    assert assigned.forget("p")
    assert not assigned.forget("p")
    assert _cpu(table, "a") == 0
    assigned.confirm(_pod("p", "a"))
    assert not assigned.forget("p")
    assert _cpu(table, "a") == 1000


def test_a_foreign_bind_elsewhere_moves_the_room() -> None:
    table, assigned = _world("a", "b")
    assigned.assume(_pod("p", "a"))
    assert assigned.confirm(_pod("p", "b"))
    assert (_cpu(table, "a"), _cpu(table, "b")) == (0, 1000)


def test_a_resize_changes_the_room() -> None:
    table, assigned = _world("a")
    assigned.confirm(_pod("p", "a", 1000))
    assert assigned.confirm(_pod("p", "a", 500))
    assert _cpu(table, "a") == 500


def test_assuming_twice_is_a_bug() -> None:
    _, assigned = _world("a")
    assigned.assume(_pod("p", "a"))
    with pytest.raises(IllegalTransition, match="assumed on a"):
        assigned.assume(_pod("p", "a"))


def test_pods_of_a_node_that_comes_later_or_again_are_counted() -> None:
    table, assigned = _world()
    assigned.confirm(_pod("p", "late"))
    table.put(a_node("late"))
    assigned.node_added("late")
    assert _cpu(table, "late") == 1000
    table.remove("late")
    assigned.gone("p")
    table.put(a_node("late"))
    assigned.node_added("late")
    assert _cpu(table, "late") == 0


def test_a_reused_row_starts_empty() -> None:
    table, assigned = _world("a")
    assigned.confirm(_pod("p", "a"))
    row = table.remove("a")
    assert table.put(a_node("b"))[0] == row
    assigned.node_added("b")
    assert _cpu(table, "b") == 0
