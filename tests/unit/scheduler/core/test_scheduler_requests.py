"""Request arithmetic: scheduler/core/requests.py, against the rules of component-helpers' PodRequests."""

import pytest

from kube.objects import Condition, Container, ContainerStatus, Pod, PodSpec, PodStatus, ResourceRequirements
from scheduler.core.requests import allocatable, bound_pod_requests, is_scalar, pod_requests


def _container(name: str, restart: str | None = None, **requests: str) -> Container:
    return Container(name=name, restart_policy=restart, resources=ResourceRequirements(requests=requests))


def _requests(**spec: object) -> dict[str, int]:
    return dict(pod_requests(Pod(spec=PodSpec(**spec))))  # type: ignore[arg-type]


def test_containers_are_summed_and_rounded_up_once() -> None:
    asked = _requests(containers=[_container("a", cpu="1500u"), _container("b", cpu="1500u", memory="1.5")])
    assert asked == {"cpu": 3, "memory": 2}


def test_an_init_container_counts_as_peak() -> None:
    asked = _requests(
        containers=[_container("a", cpu="1", memory="1Gi")],
        init_containers=[_container("i", cpu="4"), _container("j", memory="3Gi")],
    )
    assert asked == {"cpu": 4000, "memory": 3 << 30}


def test_a_sidecar_counts_beside_containers_and_later_init_containers() -> None:
    asked = _requests(
        containers=[_container("a", cpu="1")],
        init_containers=[
            _container("early", cpu="3"),
            _container("side", "Always", cpu="2"),
            _container("late", cpu="2"),
        ],
    )
    # Running: 1 + 2; while `late` initialises: 2 + 2; `early` ran before the sidecar.
    assert asked == {"cpu": 4000}


def test_pod_level_requests_override_cpu_and_memory_only() -> None:
    asked = _requests(
        containers=[_container("a", cpu="1", **{"nvidia.com/gpu": "2"})],
        resources=ResourceRequirements(requests={"cpu": "3", "nvidia.com/gpu": "9", "hugepages-2Mi": "4Mi"}),
    )
    assert asked == {"cpu": 3000, "nvidia.com/gpu": 2, "hugepages-2Mi": 4 << 20}


def test_overhead_is_added_after_all_else() -> None:
    asked = _requests(
        containers=[_container("a", cpu="1")],
        resources=ResourceRequirements(requests={"cpu": "2"}),
        overhead={"cpu": "100m", "memory": "1Mi"},
    )
    assert asked == {"cpu": 2100, "memory": 1 << 20}


def _resized(infeasible: bool) -> Pod:
    conditions = [Condition(type="PodResizePending", reason="Infeasible")] if infeasible else []
    status = ContainerStatus(
        name="a", allocated_resources={"cpu": "2"}, resources=ResourceRequirements(requests={"cpu": "3"})
    )
    return Pod(
        spec=PodSpec(containers=[_container("a", cpu="8")]),
        status=PodStatus(conditions=conditions, container_statuses=[status]),
    )


def test_a_pod_that_is_being_resized_counts_with_the_most() -> None:
    assert dict(bound_pod_requests(_resized(infeasible=False))) == {"cpu": 8000}


def test_an_infeasible_resize_does_not_count() -> None:
    assert dict(bound_pod_requests(_resized(infeasible=True))) == {"cpu": 3000}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("nvidia.com/gpu", True),
        ("hugepages-1Gi", True),
        ("attachable-volumes-csi-x", True),
        ("kubernetes.io/batch", True),
        ("cpu", False),
        ("requests.nvidia.com/gpu", False),
        ("storage", False),
    ],
)
def test_what_counts_as_scalar(resource: str, expected: bool) -> None:
    assert is_scalar(resource) is expected


def test_allocatable_keeps_pods_and_leaves_out_what_is_not_scheduled() -> None:
    assert allocatable({"cpu": "1", "pods": "3", "storage": "1Gi"}) == {"cpu": 1000, "pods": 3}
