"""A pod as the core sees it: what it asks of a node, of the data, and of its gang.

Owns the conversion of a Pod object, and the *shape*: the part that identical pods share, compiled once.
Does not resolve claims (core/pod_claims.py) nor decide. Invariants: two pods with equal `signature` get
equal answers from every filter and score; a field this scheduler does not evaluate ends up in `refusal`,
so such a pod is never bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api import names
from kube.objects import Container, Pod, PodSpec, Toleration
from scheduler.core import requests
from scheduler.core.data_request import (
    BadDataRequest,
    DataRequest,
    inline_datasets,
    merge,
    parse_checkpoint,
    parse_datasets,
)
from scheduler.core.gang_apis import group_of, role_of
from scheduler.core.pod_terms import NO_TERMS, NOBODY, PodIdentity, PodSet, PodTerms, TermCache, has_terms
from scheduler.core.pod_volumes import NO_VOLUMES, NOTHING_HELD, HeldVolumes, PodVolumes, held_volumes
from scheduler.core.selectors import (
    Term,
    compile_term,
    compile_terms,
    names_asked,
)

MAX_SHAPES = 16_384
# helper/spread.go DefaultSelector
SPREADING = (("v1", "ReplicationController"), ("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"))
HostPort = tuple[str, str, int]  # host IP, protocol, port
Owner = tuple[str, str]  # kind, name


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What identical pods share. Compared by identity: equal shapes are one object (see ShapeCache)."""

    number: int
    requests: tuple[tuple[str, int], ...]
    tolerations: tuple[Toleration, ...]
    node_selector: tuple[tuple[str, str], ...]
    affinity_terms: tuple[Term, ...] | None  # None: no required node affinity
    names_asked: frozenset[str] | None
    preferred_terms: tuple[Term, ...]
    host_ports: tuple[HostPort, ...]
    refusal: str | None
    has_terms: bool = False  # wants something of other pods
    features: frozenset[str] = frozenset()  # that its node must declare
    extended: tuple[tuple[str, int], ...] = ()  # those of `requests` that a DeviceClass may stand behind
    gpus: int = field(init=False)  # those of `requests`

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpus", requests.total(self.requests, names.GPU_RESOURCE))


@dataclass(frozen=True, slots=True)
class PodRequest:
    """A pending pod. `waiting_since` is on the core's clock; `group` is its gang's key in its namespace
    (core/gang_apis.py), `role` its part in it."""

    uid: str
    namespace: str
    name: str
    shape: Shape
    priority: int = 0
    may_preempt: bool = True
    waiting_since: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    role: str = ""
    gates: tuple[str, ...] = ()
    held: HeldVolumes = NOTHING_HELD
    data: tuple[DataRequest, ...] = ()
    checkpoint: tuple[tuple[str, int], ...] = ()
    refusal: str | None = None
    volumes: PodVolumes = NO_VOLUMES  # set when the pod is resolved
    profile: str = ""  # its schedulerName: how nodes are scored
    reported: str = ""  # the message its PodScheduled=False condition already carries
    nominated_node: str = ""  # of its status
    generation: int = 0
    identity: PodIdentity = NOBODY
    terms: PodTerms = NO_TERMS
    owner: Owner | None = None  # the controller, if its selector counts in default spreading
    # Set when the pod is resolved: numbers of assigned pods' terms that are about it, and which pods it spreads
    # over by default. So pods share a pass unless their labels make a difference.
    reach: tuple[int, ...] = ()
    default_spread: PodSet | None = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def looks_at_pods(self) -> bool:
        """Whether pods that come or go elsewhere, others' terms about it aside, can change the answers about it."""
        return bool(self.terms.number) or self.default_spread is not None or self.volumes.looks_at_pods

    @property
    def signature(self) -> tuple[object, ...]:
        """What every filter and score depends on, beside the cluster."""
        return (
            self.shape.number,
            self.profile,
            self.data,
            self.checkpoint,
            self.volumes,
            self.terms.number,
            self.reach,
            self.default_spread,
        )


class ShapeCache:
    """Shapes by content: a thousand pods of one job are parsed once. Bounded: forgets all when full."""

    def __init__(self, max_shapes: int = MAX_SHAPES) -> None:
        self._shapes: dict[object, Shape] = {}
        self._max_shapes = max_shapes
        self._next = 0
        self.terms = TermCache()

    def shape_of(self, pod: Pod) -> Shape:
        """The shape of a pod, unbound or bound."""
        key = _shape_key(pod.spec)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= self._max_shapes:
                # Numbers are never reused, so nothing keyed by an old shape can be mistaken.
                self._shapes.clear()
            shape = self._shapes[key] = _compile(pod, self._next)
            self._next += 1
        return shape

    def seen_of(self, pod: Pod, shape: Shape) -> tuple[PodIdentity, PodTerms]:
        """What others' selectors see of a pod, and what it wants of others."""
        identity = self.terms.identity(pod.metadata.namespace, pod.metadata.labels)
        return identity, self.terms.terms_of(pod.spec, shape.number, identity) if shape.has_terms else NO_TERMS


def pod_request(pod: Pod, shapes: ShapeCache, waiting_since: float = 0.0) -> PodRequest:
    """Convert a pending pod. Never raises: what is wrong with the pod is its `refusal`."""
    meta, spec = pod.metadata, pod.spec
    shape = shapes.shape_of(pod)
    identity, terms = shapes.seen_of(pod, shape)
    refusal = shape.refusal
    data: tuple[DataRequest, ...] = ()
    checkpoint: tuple[tuple[str, int], ...] = ()
    try:
        data = named_data(pod)
        text = meta.annotations.get(names.CHECKPOINT_NODES_ANNOTATION)
        checkpoint = parse_checkpoint(text) if text else ()
    except BadDataRequest as error:
        refusal = refusal or str(error)
    return PodRequest(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        shape=shape,
        priority=spec.priority,
        may_preempt=spec.preemption_policy != "Never",
        waiting_since=waiting_since,
        labels=meta.labels,
        group=group_of(pod),
        role=role_of(pod),
        gates=tuple(gate.name for gate in spec.scheduling_gates),
        held=held_volumes(meta.name, spec),
        data=data,
        checkpoint=checkpoint,
        refusal=refusal,
        reported=_reported(pod),
        nominated_node=pod.status.nominated_node_name,
        generation=meta.generation,
        identity=identity,
        terms=terms,
        owner=owner_of(pod),
        profile=spec.scheduler_name,
    )


def host_ports(spec: PodSpec) -> tuple[HostPort, ...]:
    """Ports the pod takes on its node: containers and sidecars, as kube-scheduler counts them."""
    sidecars = (container for container in spec.init_containers if container.restart_policy == "Always")
    return tuple(
        (port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port)
        for container in (*spec.containers, *sidecars)
        for port in container.ports
        if port.host_port > 0
    )


def owner_of(pod: Pod) -> Owner | None:
    """The controller, if it is of a kind whose selector kube-scheduler uses for default spreading."""
    for reference in pod.metadata.owner_references:
        if reference.controller:
            return (reference.kind, reference.name) if (reference.api_version, reference.kind) in SPREADING else None
    return None


def _reported(pod: Pod) -> str:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.message
    return ""


def named_data(pod: Pod) -> tuple[DataRequest, ...]:
    """Datasets a pod names by its annotation and its inline volumes; raises BadDataRequest."""
    namespace = pod.metadata.namespace
    annotation = pod.metadata.annotations.get(names.DATASETS_ANNOTATION)
    if not annotation and not pod.spec.volumes:
        return ()
    inline = inline_datasets(pod.spec.volumes, namespace)
    return merge((*inline, *(parse_datasets(annotation, namespace) if annotation else ())))


def _shape_key(spec: PodSpec) -> tuple[object, ...]:
    return (
        tuple(map(_container_key, spec.containers)),
        tuple(map(_container_key, spec.init_containers)) if spec.init_containers else (),
        repr(spec.resources) if spec.resources is not None else None,
        repr(spec.overhead) if spec.overhead else None,
        repr(spec.node_selector) if spec.node_selector else None,
        repr(spec.affinity) if spec.affinity else None,
        repr(spec.tolerations) if spec.tolerations else None,
        repr(spec.topology_spread_constraints) if spec.topology_spread_constraints else None,
        bool(spec.resource_claims),
        spec.host_network,
        spec.host_users,
    )


def _container_key(container: Container) -> tuple[object, ...]:
    return (
        tuple(container.resources.requests.items()),
        repr(container.ports) if container.ports else None,
        container.restart_policy,
        repr(container.restart_policy_rules) if container.restart_policy_rules else None,
    )


def _compile(pod: Pod, number: int) -> Shape:
    spec = pod.spec
    affinity: Mapping[str, Any] = (spec.affinity or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    raw_terms = (required or {}).get("nodeSelectorTerms") or ()
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    compiled = (compile_term(item.get("preference") or {}, int(item.get("weight") or 0)) for item in preferred)
    refusal = _unsupported(spec)
    asked: tuple[tuple[str, int], ...] = ()
    try:
        asked = requests.pod_requests(pod)
    except ValueError as error:
        refusal = f"spec.containers[].resources.requests: {error}"
    return Shape(
        number=number,
        requests=asked,
        tolerations=tuple(spec.tolerations),
        node_selector=tuple(sorted(spec.node_selector.items())),
        affinity_terms=compile_terms(raw_terms) if required is not None else None,
        names_asked=names_asked(raw_terms) if raw_terms else None,
        preferred_terms=tuple(term for term in compiled if term is not None and term.weight),
        host_ports=host_ports(spec),
        refusal=refusal,
        has_terms=has_terms(spec),
        features=_features(spec),
        extended=tuple(item for item in asked if requests.is_extended(item[0])),
    )


def _features(spec: PodSpec) -> frozenset[str]:
    """Features a pod needs declared by its node (component-helpers/nodedeclaredfeatures, the two of Kubernetes 1.36
    that matter to scheduling)."""
    found = set()
    containers = (*spec.containers, *spec.init_containers)
    if any(rule.action == "RestartAllContainers" for item in containers for rule in item.restart_policy_rules):
        found.add("RestartAllContainersOnContainerExits")
    if spec.host_network and spec.host_users is False:
        found.add("UserNamespacesHostNetworkSupport")
    return frozenset(found)


def _unsupported(spec: PodSpec) -> str | None:
    """A sentence naming the first field we would have to evaluate and do not."""
    if not spec.resource_claims:
        return None
    return (
        "spec.resourceClaims is not evaluated by this scheduler yet; remove it or use schedulerName default-scheduler"
    )
