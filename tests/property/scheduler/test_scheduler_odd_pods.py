"""Pods with anything a user can write that the API server takes: each is bound, or told why not in one sentence.

Named cases: tests/unit/scheduler/core/test_scheduler_odd_objects.py.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api import names
from kube.gang_objects import (
    GangPolicy,
    NetworkTopology,
    PodGroup,
    PodGroupSpec,
    SchedulingConstraints,
    SchedulingPolicy,
    TopologyConstraint,
    UpstreamPodGroup,
    UpstreamPodGroupSpec,
    VolcanoPodGroup,
    VolcanoPodGroupSpec,
)
from kube.identity import ObjectMeta
from kube.objects import TopologySpreadConstraint
from scheduler.core.decisions import Bind, Explain
from scheduler.core.events import GroupChanged
from scheduler.core.gang_apis import GroupObject
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_node, a_pod

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
# What the API server takes as a quantity, in the form it gives it back in or any other.
AMOUNTS = st.one_of(
    st.integers(0, (1 << 63) - 1).map(str),
    st.tuples(st.integers(0, 9000), st.sampled_from(["n", "u", "m", "k", "Mi", "Gi", "Ti", "Pi", "Ei", "E"])).map(
        lambda pair: f"{pair[0]}{pair[1]}"
    ),
    st.tuples(st.integers(0, 99), st.integers(-400, 400)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
)
RESOURCES = st.sampled_from(["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "hugepages-2Mi", "example.com/x"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("d"))
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
DATASET = st.fixed_dictionaries(
    {"name": st.sampled_from(["d", "", "\ud800", "unheard-of"]) | JSON},
    optional={"namespace": LEAVES, "paths": st.lists(LEAVES, max_size=3) | LEAVES, "required": LEAVES}
    | {"maxWaitSeconds": LEAVES},
)
WRITTEN = st.one_of(st.lists(DATASET, max_size=3) | JSON, st.dictionaries(st.text(max_size=4), st.integers())).map(
    json.dumps
) | st.text(max_size=20)
ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            names.DATASETS_ANNOTATION,
            names.CHECKPOINT_NODES_ANNOTATION,
            names.CHECKPOINTED_AT_ANNOTATION,
            names.VOLCANO_TASK_ANNOTATION,
        ]
    ),
    WRITTEN,
    max_size=3,
)
OPERATORS = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near"])
EXPRESSIONS = st.fixed_dictionaries(
    {"key": st.sampled_from(["zone", "kubernetes.io/hostname", "a.b/c.d", "app"]), "operator": OPERATORS},
    optional={"values": st.lists(st.sampled_from(["a", "1", "n.0", "-9" * 20, "ä", ""]), max_size=2) | st.none()},
)
SELECTORS = st.none() | st.fixed_dictionaries(
    {}, optional={"matchLabels": st.just({"app": "x"}), "matchExpressions": st.lists(EXPRESSIONS, max_size=2)}
)
KEYS = st.sampled_from(["zone", "kubernetes.io/hostname", "nowhere"])
POD_TERMS = st.lists(
    st.fixed_dictionaries({"topologyKey": KEYS}, optional={"labelSelector": SELECTORS, "namespaceSelector": SELECTORS}),
    max_size=2,
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITIES = st.fixed_dictionaries(
    {},
    optional={
        "podAffinity": st.fixed_dictionaries({}, optional={REQUIRED: POD_TERMS}),
        "podAntiAffinity": st.fixed_dictionaries({}, optional={REQUIRED: POD_TERMS}),
        "nodeAffinity": st.fixed_dictionaries(
            {},
            optional={
                REQUIRED: st.fixed_dictionaries(
                    {
                        "nodeSelectorTerms": st.lists(
                            st.fixed_dictionaries(
                                {},
                                optional={
                                    "matchExpressions": st.lists(EXPRESSIONS, max_size=2),
                                    "matchFields": st.lists(EXPRESSIONS, max_size=1),
                                },
                            ),
                            max_size=2,
                        )
                    }
                ),
            },
        ),
    },
)
SPREADS = st.builds(
    TopologySpreadConstraint,
    topology_key=KEYS,
    max_skew=st.integers(1, (1 << 31) - 1),
    min_domains=st.none() | st.integers(1, (1 << 31) - 1),
    when_unsatisfiable=st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
    label_selector=SELECTORS,
)
META = st.builds(
    lambda required, preferred: ObjectMeta(
        name="g",
        namespace="default",
        uid="u",
        annotations={
            names.REQUIRED_TOPOLOGY_ANNOTATION: required,
            names.PREFERRED_TOPOLOGY_ANNOTATION: ",".join(preferred),
        },
    ),
    st.sampled_from(["", "zone", "nowhere", " ", "a,b"]),
    st.lists(KEYS, max_size=40) | st.lists(st.text(max_size=3), max_size=40),
)
GROUPS = st.one_of(
    st.builds(PodGroup, META, st.builds(PodGroupSpec, min_member=st.integers(-1, 4) | INT32)),
    st.builds(
        VolcanoPodGroup,
        META,
        st.builds(
            VolcanoPodGroupSpec,
            min_member=st.integers(-1, 4) | INT32,
            min_task_member=st.dictionaries(st.sampled_from(["", "a"]), st.integers(-1, 3) | INT32),
            network_topology=st.none()
            | st.builds(
                NetworkTopology,
                mode=st.sampled_from(["hard", "soft", ""]),
                highest_tier_allowed=st.none() | st.integers(-3, 3) | INT32,
            ),
        ),
    ),
    st.builds(
        UpstreamPodGroup,
        META,
        st.builds(
            UpstreamPodGroupSpec,
            scheduling_policy=st.builds(SchedulingPolicy, gang=st.none() | st.builds(GangPolicy, st.integers(-1, 4))),
            scheduling_constraints=st.none()
            | st.builds(SchedulingConstraints, st.lists(st.builds(TopologyConstraint, KEYS), max_size=2)),
            disruption_mode=st.sampled_from([None, "PodGroup", "x", {}, {"all": {}}]),
        ),
    ),
)


@st.composite
def odd_pods(draw: st.DrawFn, name: str) -> PodBuilder:
    pod = a_pod(name).asks(**draw(st.dictionaries(RESOURCES, AMOUNTS, max_size=2)))
    for key, text in draw(ANNOTATIONS).items():
        pod = pod.annotated(key, text)
    spec: dict[str, Any] = {"priority": draw(st.integers(-1, 1) | INT32), "affinity": draw(AFFINITIES)}
    spec["topology_spread_constraints"] = draw(st.lists(SPREADS, max_size=1))
    pod = pod.labelled(app="x").with_spec(**spec)
    group = draw(st.sampled_from(["", "", "g", "volcano", "upstream"]))
    if group == "volcano":
        return pod.annotated(names.VOLCANO_GROUP_ANNOTATION, "g")
    return pod.in_gang("g") if group == "g" else pod


@settings(max_examples=40)
@given(
    pods=st.tuples(odd_pods("a"), odd_pods("b"), odd_pods("c")),
    groups=st.lists(GROUPS, max_size=2),
    bound=odd_pods("bound"),
    offered=AMOUNTS,
)
def test_every_pod_is_bound_or_told_why_not(
    pods: tuple[PodBuilder, ...], groups: list[GroupObject], bound: PodBuilder, offered: str
) -> None:
    world = World(topology_keys=("zone", "rack"))
    world.nodes(
        a_node("n.0", gpus=2, labels={"zone": "a"}), a_node("n1", cpu=offered, memory=offered, labels={"zone": "1"})
    )
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(a_cache("n1", ssd={"d": 100 * MIB}))
    world.pods(bound.on("n.0"))
    world.feed(*(GroupChanged(group) for group in groups))
    world.pods(*pods)
    for _ in range(4):
        world.decide()
        world.tick(6.0)
    bound_names = {decision.name for decision in world.made if isinstance(decision, Bind)}
    answered = set(bound_names)
    for decision in world.made:
        if isinstance(decision, Explain):
            answered.add(decision.name)
            assert decision.message
            assert "\n" not in decision.message
            # What cannot be written into a condition is told to nobody.
            json.dumps(decision.message, ensure_ascii=False).encode()
    assert answered >= {pod.name for pod in pods}
    _no_node_is_overcommitted(world)


def test_a_member_its_gang_does_not_need_is_told_why_it_waits() -> None:
    world = World()
    world.nodes(a_node("n1", cpu="1"))
    world.feed(GroupChanged(PodGroup(ObjectMeta("g", "default", "u"), PodGroupSpec(min_member=1))))
    world.pods(a_pod("fits").asks(cpu="1").in_gang("g"), a_pod("waits").asks(cpu="1").in_gang("g"))
    for _ in range(4):
        world.decide()
        world.tick(6.0)
    assert [decision.name for decision in world.made if isinstance(decision, Bind)] == ["fits"]
    told = {decision.name: decision.message for decision in world.made if isinstance(decision, Explain)}
    assert told["waits"].startswith("0/1 nodes are available: 1 Insufficient cpu.")
    assert told["waits"].endswith("PodGroup default/g has its minimum without this member, which joins when it fits.")


def _no_node_is_overcommitted(world: World) -> None:
    """By what we bound ourselves: only `n.0` may hold more than it has, as somebody else's pod is there."""
    table = world.engine.state.table
    assert not table.is_overcommitted(table.row_of["n1"])
