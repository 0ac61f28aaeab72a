"""A refused gang that is left asleep could not have been placed: an engine that starts with the same cluster agrees."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import Bind
from scheduler.core.events import NodeGone, PodGone
from scheduler.core.queue import Pool
from tests.builders.scheduler_objects import PodBuilder, World, a_group, a_node, a_pod


@dataclass
class Cluster:
    """What there is, so that a second engine can be told the same."""

    nodes: dict[str, int] = field(default_factory=dict)
    fillers: dict[str, tuple[int, str, int]] = field(default_factory=dict)  # GPUs, node, priority
    minimum: int = 1

    def tell(self, world: World, members: list[PodBuilder]) -> None:
        world.nodes(*(a_node(name, cpu="64", gpus=gpus) for name, gpus in self.nodes.items()))
        world.pods(*(self.filler(name) for name in self.fillers))
        world.groups(a_group("g", self.minimum))
        world.pods(*members)

    def filler(self, name: str) -> PodBuilder:
        gpus, node, priority = self.fillers[name]
        return a_pod(name).gpus(gpus).priority(priority).on(node)


steps = st.lists(
    st.tuples(st.sampled_from(["free", "grow", "add", "fill", "lower", "drop"]), st.integers(0, 9), st.integers(1, 4)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 7])), max_size=8),
    st.lists(st.integers(1, 3), min_size=2, max_size=6),
    st.integers(2, 6),
    steps,
)
def test_no_gang_sleeps_through_room_it_could_use(
    nodes: list[int], fillers: list[tuple[int, int]], gpus: list[int], minimum: int, changes: list[tuple[str, int, int]]
) -> None:
    cluster = Cluster({f"n{index}": count for index, count in enumerate(nodes)}, minimum=min(minimum, len(gpus)))
    free = dict(cluster.nodes)
    for index, (size, priority) in enumerate(fillers):
        node = next((name for name, left in free.items() if left >= size), None)
        if node is not None:
            free[node] -= size
            cluster.fillers[f"f{index}"] = (size, node, priority)
    members = [a_pod(f"g-{index}").gpus(size).priority(5).in_gang("g") for index, size in enumerate(gpus)]
    world = World()
    cluster.tell(world, members)
    for number, (change, which, size) in enumerate(changes):
        if any(isinstance(made, Bind) for made in world.decide()):
            event("placed")
            return
        world.now += 20.0
        _apply(world, cluster, f"x{number}", change, which, size)
        gang = world.engine.state.gangs.of_member("uid-g-0")
        assert gang is not None
        if world.engine.state.queue.pool_of(gang.unit) is Pool.UNSCHEDULABLE:
            event("asleep")
            fresh = World()
            cluster.tell(fresh, members)
            made = fresh.decide()
            assert not any(isinstance(one, Bind) for one in made)
            # Victims that were told to leave and did not yet are not asked again; a pod that came wakes nobody, also
            # where the search for victims, which is greedy, would have gone another way with it.
            if not world.engine.state.evicting and not any(change == "fill" for change, _, _ in changes[: number + 1]):
                assert not fresh.engine.state.evicting, "it would have evicted"


def _apply(world: World, cluster: Cluster, name: str, change: str, which: int, size: int) -> None:
    fillers, nodes = sorted(cluster.fillers), sorted(cluster.nodes)
    node = nodes[which % len(nodes)]
    if change == "free" and fillers:
        gone = fillers[which % len(fillers)]
        del cluster.fillers[gone]
        world.feed(PodGone(f"uid-{gone}"))
    elif change in ("grow", "add"):
        target = node if change == "grow" else name
        cluster.nodes[target] = cluster.nodes.get(target, 0) + size
        world.nodes(a_node(target, cpu="64", gpus=cluster.nodes[target]))
    elif change == "fill":
        used = sum(gpus for gpus, where, _ in cluster.fillers.values() if where == node)
        if used + size <= cluster.nodes[node]:
            cluster.fillers[name] = (size, node, 7 if which % 2 else 0)
            world.pods(cluster.filler(name))
    elif change == "lower":
        cluster.minimum = max(1, cluster.minimum - 1)
        world.groups(a_group("g", cluster.minimum))
    elif change == "drop" and len(nodes) > 1:
        for gone in [one for one in fillers if cluster.fillers[one][1] == node]:
            del cluster.fillers[gone]
            world.feed(PodGone(f"uid-{gone}"))
        del cluster.nodes[node]
        world.feed(NodeGone(node))
