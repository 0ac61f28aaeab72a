"""Gangs of several shapes against an exhaustive search on tiny clusters: placed when some arrangement exists."""

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api import names
from kube.gang_objects import PodGroup
from scheduler.core.exact_packing import Work, pack
from tests.builders.scheduler_objects import World, a_group, a_node, a_pod

RACK = "topology.headrace.dev/rack"
Size = tuple[int, int]  # GPUs, cpu
SIZES = st.tuples(st.integers(0, 4), st.integers(1, 6))


@st.composite
def tight(draw: Any) -> tuple[list[Size], list[str], list[Size]]:
    """Nodes, their racks, and members: nodes are made of members that were put there, with little or nothing over."""
    shapes = draw(st.lists(SIZES, min_size=2, max_size=4, unique=True))
    members = draw(st.lists(st.sampled_from(shapes), min_size=2, max_size=8))
    racks = draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=6))
    places = [draw(st.integers(0, len(racks) - 1)) for _ in members]
    rooms = [draw(st.tuples(st.integers(0, 1), st.integers(0, 1))) for _ in racks]
    for (gpus, cpu), place in zip(members, places, strict=True):
        rooms[place] = (rooms[place][0] + gpus, rooms[place][1] + cpu)
    return [(gpus, max(1, cpu)) for gpus, cpu in rooms], racks, members


def _fit(rooms: list[Size], members: list[Size]) -> bool:
    """Whether there is an arrangement: every one is tried."""
    if not members:
        return True
    gpus, cpu = members[0]
    return any(
        room[0] >= gpus
        and room[1] >= cpu
        and _fit([*rooms[:at], (room[0] - gpus, room[1] - cpu), *rooms[at + 1 :]], members[1:])
        for at, room in enumerate(rooms)
        if room not in rooms[:at]
    )


def _group(members: int, required: str) -> PodGroup:
    group = a_group("g", members)
    annotations = {names.REQUIRED_TOPOLOGY_ANNOTATION: required} if required else {}
    return PodGroup(msgspec.structs.replace(group.metadata, annotations=annotations), group.spec, group.status)


@settings(max_examples=300, deadline=None)
@given(cluster=tight(), required=st.sampled_from(["", RACK]))
# Biggest first, or those with the fewest nodes first, leave no room for the last ones of each of these.
@example(cluster=([(6, 6), (1, 6), (5, 6), (4, 6)], list("abaa"), [(3, 1)] * 3 + [(2, 1)] * 3), required=RACK)
@example(cluster=([(9, 14), (6, 13)], list("bb"), [(3, 6), (3, 6), (4, 3), (2, 4), (3, 6)]), required="")
def test_a_gang_of_several_shapes_is_placed_exactly_when_it_can_be(
    cluster: tuple[list[Size], list[str], list[Size]], required: str
) -> None:
    nodes, racks, members = cluster
    world = World(topology_keys=(RACK,))
    for index, ((gpus, cpu), rack) in enumerate(zip(nodes, racks, strict=True)):
        world.nodes(a_node(f"n{index}", cpu=str(cpu), gpus=gpus, labels={RACK: rack}))
    world.groups(_group(len(members), required))
    for index, (gpus, cpu) in enumerate(members):
        pod = a_pod(f"g-{index}").asks(cpu=str(cpu)).in_gang("g")
        world.pods(pod.gpus(gpus) if gpus else pod)
    binds = world.binds()
    domains = (
        [[node for node, rack in zip(nodes, racks, strict=True) if rack == one] for one in sorted(set(racks))]
        if required
        else [nodes]
    )
    assert len(binds) == (len(members) if any(_fit(domain, sorted(members)[::-1]) for domain in domains) else 0)
    used: dict[str, Size] = {}
    for name, node in binds.items():
        gpus, cpu = members[int(name.removeprefix("g-"))]
        used[node] = (used.get(node, (0, 0))[0] + gpus, used.get(node, (0, 0))[1] + cpu)
    assert all(taken[at] <= nodes[int(node[1:])][at] for node, taken in used.items() for at in (0, 1))
    assert not required or len({racks[int(node[1:])] for node in used}) <= 1


@settings(max_examples=200, deadline=None)
@given(
    rooms=st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 6)), min_size=1, max_size=5),
    shapes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=3, unique=True),
    data=st.data(),
)
def test_what_is_packed_fits_and_what_is_not_cannot(rooms: list[Size], shapes: list[Size], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(1, 3)) for _ in shapes]
    allowed = [[data.draw(st.booleans()) for _ in rooms] for _ in shapes]
    made = pack(shapes, counts, rooms, allowed, Work(1_000_000))
    assert (made is not None) == _exists(rooms, shapes, counts, allowed)
    assert made == pack(shapes, counts, rooms, allowed, Work(1_000_000))
    if made is None:
        return
    assert [sum(where.values()) for where in made] == counts
    for row, room in enumerate(rooms):
        for at in (0, 1):
            asked = sum(shape[at] * where[row] for shape, where in zip(shapes, made, strict=True))
            assert not asked or asked <= room[at]
    assert all(allowed[kind][row] for kind, where in enumerate(made) for row in where)


def _exists(rooms: list[Size], shapes: list[Size], counts: list[int], allowed: list[list[bool]]) -> bool:
    members = [kind for kind, count in enumerate(counts) for _ in range(count)]

    def place(left: list[Size], index: int) -> bool:
        if index == len(members):
            return True
        kind = members[index]
        for row, room in enumerate(left):
            after = (room[0] - shapes[kind][0], room[1] - shapes[kind][1])
            fits = all(not asked or have >= 0 for asked, have in zip(shapes[kind], after, strict=True))
            if allowed[kind][row] and fits and place([*left[:row], after, *left[row + 1 :]], index + 1):
                return True
        return False

    return place(rooms, 0)


def test_the_search_ends_when_its_work_is_done() -> None:
    rooms = [(10 + one, 9) for one in range(12)]
    asked = ([(7, 1), (5, 1), (3, 1)], [6, 8, 9], rooms, [[True] * 12] * 3)
    little, enough = Work(100), Work(10_000)
    assert pack(*asked, little) is None
    assert little.left < 0
    assert pack(*asked, enough) is not None
    assert enough.left > 0
