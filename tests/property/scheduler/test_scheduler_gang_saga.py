"""The saga of binding a gang, exhaustively: every way in which each of its binds can end, for gangs of up to four.

The same against the real API server, for some: tests/integration/scheduler/test_scheduler_api_server.py.
"""

from enum import StrEnum
from itertools import product

import pytest

from scheduler.core.decisions import Bind, DeletePod
from scheduler.core.events import BindConfirmed, BindFailed, DeleteFailed, PodGone
from tests.builders.scheduler_objects import World, a_group, a_node, a_pod

BIND_SECONDS = 30.0
# Turns of a second: the saga's time, and some for deletions that are decided anew.
TURNS = int(BIND_SECONDS) + 20


class End(StrEnum):
    """What becomes of a member's binds."""

    BOUND = "bound"
    REFUSED_ONCE = "refused once"
    REFUSED = "refused always"
    ANSWER_LOST = "bound, and an error was answered"


def _run(ends: tuple[End, ...], *, refused_deletes: int = 0) -> tuple[set[str], bool]:
    """Who is bound in the end, and whether anybody was deleted. The API server is a set of bound pods."""
    world = World(gang_bind_seconds=BIND_SECONDS)
    world.nodes(a_node("n", cpu="64", gpus=8))
    world.groups(a_group("g", len(ends)))
    members = {f"uid-g{index}": a_pod(f"g{index}").gpus(1).in_gang("g") for index in range(len(ends))}
    end_of = dict(zip(members, ends, strict=True))
    world.pods(*members.values())
    bound: set[str] = set()
    tried: set[str] = set()
    was_deleted = False

    def answer(bind: Bind) -> None:
        assert bind.uid not in bound, "bound twice"
        end = end_of[bind.uid]
        is_refused = end is End.REFUSED or (end is End.REFUSED_ONCE and bind.uid not in tried)
        tried.add(bind.uid)
        if is_refused:
            world.feed(BindFailed(bind.uid, bind.node, "refused"))
            return
        bound.add(bind.uid)
        lost = BindFailed(bind.uid, bind.node, "no answer")
        world.feed(lost if end is End.ANSWER_LOST else BindConfirmed(bind.uid, bind.node))
        world.pods(members[bind.uid].on(bind.node))

    def delete(decision: DeletePod) -> None:
        nonlocal was_deleted, refused_deletes
        was_deleted = True
        if refused_deletes:
            refused_deletes -= 1
            world.feed(DeleteFailed(decision.uid))
            return
        bound.discard(decision.uid)
        world.feed(PodGone(decision.uid))

    for _ in range(TURNS):
        world.decide()
        world.tick(1.0)
        made, world.made = world.made, []
        for decision in made:
            if isinstance(decision, Bind):
                answer(decision)
            elif isinstance(decision, DeletePod):
                delete(decision)
    if len(bound) == len(ends):
        assert world.engine.state.gang_binds.units() == []
    return bound, was_deleted


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_whatever_becomes_of_its_binds_a_gang_is_whole_or_gone(members: int) -> None:
    for ends in product(End, repeat=members):
        bound, was_deleted = _run(ends)
        if End.REFUSED in ends:
            assert bound == set(), ends
        else:
            assert len(bound) == members, ends
            assert not was_deleted, ends


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_deletions_that_fail_are_decided_again(k: int) -> None:
    ends = tuple(End.REFUSED if index == k else End.BOUND for index in range(4))
    assert _run(ends, refused_deletes=5) == (set(), True)
