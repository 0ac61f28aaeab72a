"""Request arithmetic: what a pod takes from a node, as kube-scheduler counts it.

Owns component-helpers' PodRequests: containers are summed, sidecars with them, an init container's peak is
itself plus the sidecars before it, pod-level requests override cpu, memory and hugepages, overhead is added.
A bound pod that was resized in place counts with the most of spec, allocated and actual.
Units: millicores for cpu, whole units (bytes, devices) for all else; sums are exact, rounded up at the end.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from api import quantities
from kube.objects import Container, ContainerStatus, Pod, PodSpec

CPU, MEMORY, EPHEMERAL = "cpu", "memory", "ephemeral-storage"
PODS = "pods"
HUGEPAGES_PREFIX = "hugepages-"
# Followed by a DeviceClass's name: a resource every class stands behind (KEP 5004).
IMPLICIT_PREFIX = "deviceclass.resource.kubernetes.io/"
POD_LEVEL = (CPU, MEMORY)
# More of anything than a node has (8 PiB, 9·10^12 cores): the node table counts in 64 bits, and must count a thousand
# of the largest pods on one node right, since whoever writes spec.nodeName asks nobody whether they fit.
MOST = 1 << 53

Amounts = dict[str, Decimal]


def pod_requests(pod: Pod) -> tuple[tuple[str, int], ...]:
    """What an unbound pod asks for, sorted by resource name; zero amounts are left out.

    Raises ValueError for a quantity that cannot be read.
    """
    return _to_integers(_requests(pod.spec, {}))


def bound_pod_requests(pod: Pod) -> tuple[tuple[str, int], ...]:
    """What a bound pod takes from its node, in-place resizes counted."""
    statuses = {
        status.name: status
        for status in (*pod.status.container_statuses, *pod.status.init_container_statuses)
        if status.resources is not None
    }
    infeasible = any(
        condition.type == "PodResizePending" and condition.reason == "Infeasible" for condition in pod.status.conditions
    )
    return _to_integers(_requests(pod.spec, statuses, infeasible=infeasible))


def is_scalar(resource: str) -> bool:
    """Whether kube-scheduler counts this resource beside cpu, memory and ephemeral-storage."""
    if resource in (CPU, MEMORY, EPHEMERAL, PODS):
        return False
    if "/" in resource:
        # An extended resource, or one of kubernetes.io's own; requests.* are names of quotas.
        return not resource.startswith("requests.")
    return resource.startswith((HUGEPAGES_PREFIX, "attachable-volumes-"))


def is_extended(resource: str) -> bool:
    """Whether a DeviceClass may stand behind this resource (scheduler/util IsDRAExtendedResourceName): a name in a
    domain that is not Kubernetes' own, or one derived from a class's name."""
    if resource.startswith(IMPLICIT_PREFIX):
        return True
    return "/" in resource and "kubernetes.io/" not in resource and not resource.startswith("requests.")


def to_integer(resource: str, amount: Decimal) -> int:
    """An amount in the unit the scheduler counts in, rounded up; what is above MOST is MOST + 1, which fits nowhere."""
    scaled = amount * 1000 if resource == CPU else amount
    whole = int(scaled)
    rounded = whole if whole == scaled or scaled < 0 else whole + 1
    return max(-MOST, min(MOST + 1, rounded))


def _requests(spec: PodSpec, statuses: Mapping[str, ContainerStatus], *, infeasible: bool = False) -> Amounts:
    total: Amounts = {}
    for container in spec.containers:
        _add(total, _container(container, statuses, infeasible))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.init_containers:
        if container.restart_policy == "Always":
            asked = _container(container, statuses, infeasible)
            _add(total, asked)
            _add(sidecars, asked)
            running = sidecars
        else:
            running = _parsed(container.resources.requests)
            _add(running, sidecars)
        _raise_to(peak, running)
    _raise_to(total, peak)
    if spec.resources is not None:
        for resource, amount in _parsed(spec.resources.requests).items():
            if resource in POD_LEVEL or resource.startswith(HUGEPAGES_PREFIX):
                total[resource] = amount
    _add(total, _parsed(spec.overhead))
    return total


def _container(container: Container, statuses: Mapping[str, ContainerStatus], infeasible: bool) -> Amounts:
    asked = _parsed(container.resources.requests)
    status = statuses.get(container.name)
    if status is None or status.resources is None:
        return asked
    actual, allocated = _parsed(status.resources.requests), _parsed(status.allocated_resources)
    effective: Amounts = {} if infeasible else asked
    _raise_to(effective, actual)
    _raise_to(effective, allocated)
    return effective


def _parsed(raw: Mapping[str, str]) -> Amounts:
    return {resource: quantities.parse(text) for resource, text in raw.items()}


def _add(into: Amounts, amounts: Mapping[str, Decimal]) -> None:
    for resource, amount in amounts.items():
        into[resource] = into.get(resource, Decimal(0)) + amount


def _raise_to(into: Amounts, amounts: Mapping[str, Decimal]) -> None:
    for resource, amount in amounts.items():
        if amount > into.get(resource, Decimal(0)) or resource not in into:
            into[resource] = amount


def _to_integers(amounts: Mapping[str, Decimal]) -> tuple[tuple[str, int], ...]:
    counted = (
        (resource, to_integer(resource, amount))
        for resource, amount in amounts.items()
        if resource in (CPU, MEMORY, EPHEMERAL) or is_scalar(resource)
    )
    return tuple(sorted((resource, amount) for resource, amount in counted if amount))


def allocatable(raw: Mapping[str, str]) -> dict[str, int]:
    """A node's allocatable as integers up to MOST, `pods` among them. Raises ValueError for what cannot be read."""
    return {
        resource: min(MOST, to_integer(resource, quantities.parse(text)))
        for resource, text in raw.items()
        if resource in (CPU, MEMORY, EPHEMERAL, PODS) or is_scalar(resource)
    }


def total(requests: Iterable[tuple[str, int]], resource: str) -> int:
    """The amount of one resource in a pod's requests; 0 when it is not asked for."""
    return next((amount for name, amount in requests if name == resource), 0)
