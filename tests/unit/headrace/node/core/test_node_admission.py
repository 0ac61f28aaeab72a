"""What the node takes and gives: requests, admission, GPU indices, addresses."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.node.core import addresses, devices
from headrace.node.core.admission import admit
from headrace.node.core.pod_spec import Container, PodSpec, Resources
from headrace.node.core.requests import effective_requests

ALLOCATABLE = {"cpu": 8000, "memory": 16 << 30, "pods": 3, "nvidia.com/gpu": 2}


def container(name: str = "c", **requests: Any) -> Container:
    return Container(
        name=name,
        resources=Resources(requests={key.replace("gpu", "nvidia.com/gpu"): value for key, value in requests.items()}),
    )


def sidecar(name: str, **requests: Any) -> Container:
    plain = container(name, **requests)
    return Container(name=name, resources=plain.resources, restart_policy="Always")


def refused(spec: PodSpec, *admitted: dict[str, int], labels: dict[str, str] | None = None) -> tuple[str, str] | None:
    found = admit(spec, labels=labels or {}, node_name="n", allocatable=ALLOCATABLE, admitted=admitted)
    return None if found is None else (found.reason, found.message)


def test_requests_are_the_larger_of_init_peak_and_sum() -> None:
    spec = PodSpec(
        init_containers=[sidecar("s", cpu="1"), container("i", cpu="5")],
        containers=[container("a", cpu="2"), container("b", cpu="500m")],
        overhead={"cpu": "100m"},
    )
    assert effective_requests(spec) == {"cpu": 6100}


def test_extended_resources_may_be_limits_only() -> None:
    spec = PodSpec(containers=[Container(resources=Resources(limits={"nvidia.com/gpu": "2"}))])
    assert effective_requests(spec)["nvidia.com/gpu"] == 2


def test_a_pod_that_fits_exactly_is_taken() -> None:
    assert refused(PodSpec(containers=[container(cpu="4")]), {"cpu": 4000}) is None


def test_a_refusal_names_resource_and_numbers_as_kubelet_does() -> None:
    reason, message = refused(PodSpec(containers=[container(cpu="4001m")]), {"cpu": 4000}) or ("", "")
    assert reason == "OutOfcpu"
    assert message == "Node didn't have enough resource: cpu, requested: 4001, used: 4000, capacity: 8000"


def test_gpus_and_pods_run_out_too() -> None:
    assert (refused(PodSpec(containers=[container(gpu="1")]), {"nvidia.com/gpu": 2}) or ("",))[
        0
    ] == "OutOfnvidia.com/gpu"
    assert (refused(PodSpec(containers=[container()]), {}, {}, {}) or ("",))[0] == "OutOfpods"


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["a", "b"], True),
        ("In", ["c"], False),
        ("NotIn", ["a"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
        ("Gt", ["1"], False),
    ],
)
def test_required_node_affinity(operator: str, values: list[str] | None, fits: bool) -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    found = refused(PodSpec(containers=[container()], affinity=affinity), labels={"zone": "a"})
    assert (found is None) is fits


def test_an_empty_term_matches_nothing_and_fields_match_the_name() -> None:
    def affinity(term: dict[str, Any]) -> dict[str, Any]:
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}

    assert refused(PodSpec(affinity=affinity({}))) is not None
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
    assert refused(PodSpec(affinity=affinity(field))) is None


def test_gpu_indices_are_disjoint_beside_each_other_and_reused_by_init() -> None:
    spec = PodSpec(init_containers=[container("i", gpu=2)], containers=[container("a", gpu=1), container("b", gpu=1)])
    assert devices.assign(spec, total=4, taken={0}) == {"i": (1, 2), "a": (1,), "b": (2,)}


def test_too_few_gpus_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 2 GPUs are free, 2 are asked for"):
        devices.assign(PodSpec(containers=[container(gpu=2)]), total=2, taken={1})


def test_addresses_go_round_and_skip_the_taken_ones() -> None:
    assert addresses.choose(0, taken=(), after="") == "127.16.0.2"
    assert addresses.choose(0, taken={"127.16.0.3"}, after="127.16.0.2") == "127.16.0.4"
    assert addresses.choose(3, taken=(), after="127.19.0.255") == "127.19.1.0"
    assert addresses.choose(3, taken=(), after="127.19.255.254") == "127.19.0.2"


def test_a_network_index_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 239"):
        addresses.network_of(240)
