"""Fluid's rule: what its webhook injects, and where pods then go."""

from dataclasses import replace

import msgspec
import pytest

from kube.objects import Pod
from simulations.engine.model import DatasetSpec
from simulations.engine.simulation import Simulation
from simulations.engine.webhook import Placed, injected
from simulations.policies.registry import POLICIES
from tests.builders.simulated import a_job, a_sim_node, a_world


def terms(*datasets: Placed) -> list[tuple[int, str, list[str]]]:
    found = injected(datasets)
    assert found is not None
    listed = found["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    return [
        (term["weight"], at["key"], at["values"]) for term in listed for at in term["preference"]["matchExpressions"]
    ]


def test_every_dataset_adds_the_same_whatever_its_size() -> None:
    zone, region = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
    one, two = Placed("s-one", {"b", "a"}, {"r"}), Placed("s-two")
    assert terms(one, two) == [
        (100, "s-one", ["true"]),
        (50, zone, ["a", "b"]),
        (20, region, ["r"]),
        (100, "s-two", ["true"]),
    ]


def test_required_datasets_are_ored() -> None:
    found = injected([Placed("s-one", is_required=True), Placed("s-two", is_required=True), Placed("s-three")])
    assert found is not None
    required = found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchExpressions"][0]["key"] for term in required] == ["s-one", "s-two"]
    assert len(found["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]) == 1
    assert msgspec.convert({"spec": {"affinity": found}}, Pod).spec.affinity == found


def test_without_datasets_nothing_is_injected() -> None:
    assert injected([]) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_required_dataset_is_a_label_to_fluid_and_all_of_its_bytes_to_headrace(seed: int) -> None:
    nodes = tuple(a_sim_node(index) for index in range(6))
    partly = DatasetSpec("d0", 100e9, {1: 1e9, 4: 100e9})
    jobs = tuple(
        a_job(f"j{index}", gpus=8, dataset=0, is_required=True, submit_seconds=index * 1.0) for index in range(3)
    )
    world = replace(a_world(nodes, jobs=jobs, seed=seed), datasets=(partly,))
    starts = {}
    for name in ("headrace", "fluid"):
        simulation = Simulation(world, POLICIES[name])
        bound: set[int] = set()
        turn = simulation.driver.turn

        def watched(now: float, turn: object = turn, bound: set[int] = bound) -> list[object]:
            made = turn(now)  # type: ignore[operator]
            bound.update(node for _, node, _ in made)
            return made  # type: ignore[no-any-return]

        simulation.driver.turn = watched  # type: ignore[method-assign,assignment]
        assert simulation.run().figures["jobs_finished"] == 3
        starts[name] = bound
    assert starts == {"headrace": {4}, "fluid": {1, 4}}
