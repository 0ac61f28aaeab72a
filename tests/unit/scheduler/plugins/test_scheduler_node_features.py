"""Features a pod's fields imply: scheduler/plugins/node_features.py."""

from dataclasses import replace

import msgspec

from kube.objects import Container, Node, RestartRule
from tests.builders.scheduler_objects import World, a_node, a_pod

RESTART = "RestartAllContainersOnContainerExits"
USERS = "UserNamespacesHostNetworkSupport"


def _declaring(name: str, *features: str) -> Node:
    node = a_node(name)
    return msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, declared_features=list(features)))


def test_a_pod_goes_only_where_its_features_are_declared() -> None:
    world = World()
    world.nodes(_declaring("old"), _declaring("new", "Other", RESTART))
    main = Container(name="main", restart_policy_rules=[RestartRule(action="RestartAllContainers")])
    world.pods(*(a_pod(f"p{index}").with_spec(containers=[main]) for index in range(3)), a_pod("plain"))
    placed = world.binds()
    assert {placed[f"p{index}"] for index in range(3)} == {"new"}
    assert "plain" in placed


def test_a_node_that_learns_a_feature_is_worth_another_try() -> None:
    world = World()
    world.nodes(_declaring("n"))
    world.pods(a_pod("p").with_spec(host_network=True, host_users=False))
    assert "0/1 nodes are available: 1 node(s) didn't match Pod's required features." in world.message()
    world.nodes(_declaring("n", USERS))
    world.tick(20.0)
    assert world.binds() == {"p": "n"}


def test_the_host_network_alone_needs_nothing() -> None:
    world = World()
    world.nodes(_declaring("n"))
    world.pods(replace(a_pod("p")).with_spec(host_network=True))
    assert world.binds() == {"p": "n"}
