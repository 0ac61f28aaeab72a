"""Gang placement in a topology against brute force on tiny clusters: never partial, never over capacity, the domain
constraint holds, and what can be placed is."""

from collections import Counter
from itertools import combinations

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api import names
from kube.gang_objects import PodGroup
from scheduler.core.gang_topology import crossed, seconds_to_hold
from tests.builders.scheduler_objects import World, a_group, a_node, a_pod

ZONE, RACK = "topology.kubernetes.io/zone", "topology.headrace.dev/rack"
Node = tuple[str, str, int]  # zone ("" for none), rack, GPUs
NODES = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["", "1", "2"]), st.integers(0, 4)),
    min_size=1,
    max_size=6,
)


def _group(name: str, min_member: int, required: str, preferred: str) -> PodGroup:
    group = a_group(name, min_member)
    wanted = {names.REQUIRED_TOPOLOGY_ANNOTATION: required, names.PREFERRED_TOPOLOGY_ANNOTATION: preferred}
    annotations = {key: value for key, value in wanted.items() if value}
    return PodGroup(msgspec.structs.replace(group.metadata, annotations=annotations), group.spec, group.status)


def _domain(node: Node, key: str) -> tuple[str, ...] | None:
    zone, rack, _ = node
    if key == ZONE:
        return (zone,) if zone else None
    return (zone, rack) if rack else None


@settings(max_examples=200, deadline=None)
@given(
    nodes=NODES,
    size=st.integers(1, 8),
    minimum=st.integers(1, 8),
    gpus=st.integers(1, 2),
    required=st.sampled_from(["", ZONE, RACK]),
    preferred=st.sampled_from(["", ZONE, RACK, f"{ZONE},{RACK}"]),
)
@example(nodes=[("a", "", 1), ("a", "1", 1)], size=3, minimum=1, gpus=1, required=ZONE, preferred=RACK)
def test_identical_members_are_placed_exactly_when_some_domain_holds_the_minimum(
    nodes: list[Node], size: int, minimum: int, gpus: int, required: str, preferred: str
) -> None:
    minimum = min(minimum, size)
    world = World(topology_keys=(ZONE, RACK))
    for index, (zone, rack, count) in enumerate(nodes):
        labels = {key: value for key, value in ((ZONE, zone), (RACK, rack)) if value}
        world.nodes(a_node(f"n{index}", cpu="64", gpus=count, labels=labels))
    world.groups(_group("g", minimum, required, preferred))
    world.pods(*(a_pod(f"g-{index}").gpus(gpus).in_gang("g") for index in range(size)))
    binds = world.binds()
    room = Counter[tuple[str, ...]]()
    for node in nodes:
        domain = _domain(node, required) if required else ()
        if domain is not None:
            room[domain] += node[2] // gpus
    best = max(room.values(), default=0)
    # Members beyond the minimum come along as far as there is room for them.
    assert len(binds) == (0 if best < minimum else min(size, best))
    used = Counter(binds.values())
    for index, node in enumerate(nodes):
        assert used[f"n{index}"] * gpus <= node[2]
    if required:
        assert len({_domain(nodes[int(name[1:])], required) for name in used}) <= 1
    if preferred == RACK and not required and len(binds) == size:
        racks = Counter[tuple[str, ...]]()
        for index, node in enumerate(nodes):
            racks[_domain(node, RACK) or (f"n{index}",)] += node[2] // gpus
        crossed_racks = {_domain(nodes[int(name[1:])], RACK) or (name,) for name in used}
        if all(_domain(node, RACK) for node in nodes):
            assert len(crossed_racks) == _fewest(list(racks.values()), size)


def _fewest(rooms: list[int], size: int) -> int:
    for count in range(1, len(rooms) + 1):
        if any(sum(some) >= size for some in combinations(rooms, count)):
            return count
    raise AssertionError("placed where there is no room")


@settings(max_examples=150, deadline=None)
@given(nodes=NODES, gangs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_gangs_of_several_shapes_are_whole_in_one_domain_or_not_there(
    nodes: list[Node], gangs: list[tuple[int, int]]
) -> None:
    world = World(topology_keys=(ZONE, RACK))
    for index, (zone, rack, count) in enumerate(nodes):
        labels = {key: value for key, value in ((ZONE, zone), (RACK, rack)) if value}
        world.nodes(a_node(f"n{index}", cpu="64", gpus=count, labels=labels))
    for number, (small, big) in enumerate(gangs):
        world.groups(_group(f"g{number}", small + 1, ZONE, RACK))
        world.pods(*(a_pod(f"g{number}-s{index}").gpus(1).in_gang(f"g{number}") for index in range(small)))
        world.pods(a_pod(f"g{number}-big").gpus(big).in_gang(f"g{number}"))
    binds = world.binds()
    used = Counter[str]()
    for number, (small, big) in enumerate(gangs):
        mine = {name: node for name, node in binds.items() if name.startswith(f"g{number}-")}
        assert len(mine) in {0, small + 1}
        assert len({nodes[int(node[1:])][0] for node in mine.values()}) <= 1
        for name, node in mine.items():
            used[node] += big if name.endswith("big") else 1
    assert all(used[f"n{index}"] <= node[2] for index, node in enumerate(nodes))


@given(
    rows=st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3), st.integers(0, 4), st.integers(0, 9)), max_size=8),
    count=st.integers(1, 9),
)
def test_counts_by_domain_are_those_of_a_loop(rows: list[tuple[int, int, int, int]], count: int) -> None:
    ids, inner, room, seconds = (
        (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
        if rows
        else (np.zeros(0, dtype=np.int64) for _ in range(4))
    )
    within = seconds_to_hold(ids, room, seconds.astype(np.float64), count)
    cells = crossed(ids, inner, room, count)
    for domain in {row[0] for row in rows if row[0] >= 0}:
        mine = [(row, number) for number, row in enumerate(rows) if row[0] == domain]
        limits = [row[3] for row, _ in mine if sum(other[2] for other, _ in mine if other[3] <= row[3]) >= count]
        assert within[domain] == min(limits, default=np.inf)
        rooms = Counter[object]()
        for row, number in mine:
            rooms[row[1] if row[1] >= 0 else f"row {number}"] += row[2]
        if sum(rooms.values()) >= count:
            assert cells[domain] == _fewest(list(rooms.values()), count)
