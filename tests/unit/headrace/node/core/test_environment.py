"""Environment of containers: sources, order, expansion, and what is said when something is missing."""

from __future__ import annotations

import pytest

from headrace.node.core.environment import KeyedObjects, PodFacts, build, expand, pod_field, resource_field
from headrace.node.core.pod_spec import (
    Container,
    EnvFrom,
    EnvVar,
    EnvVarSource,
    FieldRef,
    KeySelector,
    ObjectSelector,
    Pod,
    PodMeta,
    PodSpec,
    ResourceFieldRef,
    Resources,
)
from headrace.node.errors import ConfigError

POD = Pod(metadata=PodMeta(name="p", namespace="ns", uid="u", labels={"b": "2", "a": 'x"y'}))
FACTS = PodFacts("node-1", "127.0.0.1", "127.16.0.2", {"cpu": "8", "memory": "16Gi"})
NOTHING = KeyedObjects({}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$", "$"),
        ("$A ${A}", "$A ${A}"),
        ("$(date +%s)", "$(date +%s)"),
        ("$(unclosed", "$(unclosed"),
        ("$()", "$()"),
    ],
)
def test_expansion_is_kubernetes_own(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_later_sources_win_and_see_earlier_ones() -> None:
    container = Container(
        name="c",
        env_from=[EnvFrom(prefix="P_", config_map_ref=ObjectSelector("map"))],
        env=[EnvVar(name="P_X", value="own"), EnvVar(name="BOTH", value="$(P_X)/$(P_Y)")],
    )
    objects = KeyedObjects({}, {"map": {"X": b"map", "Y": b"why"}})
    env = build(POD, container, FACTS, objects, {"PATH": "/bin"})
    assert env == {"PATH": "/bin", "P_X": "own", "P_Y": "why", "BOTH": "own/why"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (EnvVarSource(secret_key_ref=KeySelector("s", "k")), 'secret "s" not found'),
        (EnvVarSource(config_map_key_ref=KeySelector("m", "k")), 'configmap "m" not found'),
        (EnvVarSource(secret_key_ref=KeySelector("there", "k")), "couldn't find key k in Secret ns/there"),
        (EnvVarSource(field_ref=FieldRef("spec.nothing")), "fieldRef 'spec.nothing' is not known"),
        (EnvVarSource(), "valueFrom that process nodes do not know"),
    ],
)
def test_what_is_missing_is_named(source: EnvVarSource, message: str) -> None:
    objects = KeyedObjects({"there": {}}, {})
    with pytest.raises(ConfigError, match="(?i)" + message.replace("(", r"\(")):
        build(POD, Container(name="c", env=[EnvVar(name="V", value_from=source)]), FACTS, objects, {})


def test_optional_sources_may_be_missing() -> None:
    container = Container(
        name="c",
        env_from=[EnvFrom(secret_ref=ObjectSelector("s", optional=True))],
        env=[EnvVar(name="V", value_from=EnvVarSource(secret_key_ref=KeySelector("s", "k", optional=True)))],
    )
    assert build(POD, container, FACTS, NOTHING, {}) == {}


def test_fields_of_the_pod() -> None:
    assert pod_field(POD, FACTS, "metadata.labels['b']") == "2"
    assert pod_field(POD, FACTS, "metadata.annotations['no']") == ""
    assert pod_field(POD, FACTS, "metadata.labels") == 'a="x\\"y"\nb="2"'
    assert pod_field(POD, FACTS, "spec.nodeName") == "node-1"
    assert pod_field(POD, FACTS, "status.podIP") == "127.16.0.2"


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "64"),
        ("requests.memory", "1", "0"),
        ("limits.ephemeral-storage", "1", "0"),
    ],
)
def test_resources_are_rounded_up_in_units_of_the_divisor(resource: str, divisor: str, expected: str) -> None:
    container = Container(name="c", resources=Resources(limits={"cpu": "1500m", "memory": "64Mi"}))
    assert resource_field(POD, container, FACTS, ResourceFieldRef("", resource, divisor)) == expected


def test_a_container_without_a_limit_is_limited_by_the_node() -> None:
    assert resource_field(POD, Container(name="c"), FACTS, ResourceFieldRef("", "limits.cpu")) == "8"


def test_another_container_s_resources() -> None:
    other = Container(name="o", resources=Resources(requests={"cpu": "3"}))
    pod = Pod(spec=PodSpec(containers=[Container(name="c"), other]))
    assert resource_field(pod, pod.spec.containers[0], FACTS, ResourceFieldRef("o", "requests.cpu")) == "3"
    with pytest.raises(ConfigError, match="'x', which does not exist"):
        resource_field(pod, pod.spec.containers[0], FACTS, ResourceFieldRef("x", "requests.cpu"))
