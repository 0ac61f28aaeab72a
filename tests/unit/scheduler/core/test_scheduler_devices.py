"""Dynamic resource allocation: refused by name, never bound wrongly; device plugins as always."""

from kube.objects import PodResourceClaim
from scheduler.core.events import DeviceClassChanged, DeviceClassGone
from tests.builders.scheduler_objects import World, a_node, a_pod

GPU = "nvidia.com/gpu"


def test_a_resource_that_only_a_device_class_gives_is_refused_by_name() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.feed(DeviceClassChanged("gpu.example", GPU))
    world.pods(a_pod("p").gpus(1))
    assert "nvidia.com/gpu is offered through DeviceClass gpu.example only" in world.message()


def test_the_implicit_name_of_a_class_is_refused_even_before_the_class_is_seen() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.pods(a_pod("p").asks(**{"deviceclass.resource.kubernetes.io/gpu": "1"}))
    assert "through DeviceClass gpu only" in world.message()


def test_nodes_with_a_device_plugin_take_the_pod_without_a_claim() -> None:
    world = World()
    world.nodes(a_node("with", gpus=2), a_node("without"))
    world.feed(DeviceClassChanged("gpu.example", GPU))
    world.pods(a_pod("p").gpus(1))
    assert world.binds() == {"p": "with"}


def test_a_refused_pod_is_tried_again_when_the_class_goes_or_a_node_offers_the_resource() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.feed(DeviceClassChanged("gpu.example", GPU))
    world.pods(a_pod("p").gpus(1))
    assert world.binds() == {}
    world.feed(DeviceClassGone("gpu.example"))
    world.tick(20.0)
    assert "Insufficient nvidia.com/gpu" in world.message()
    world.nodes(a_node("m", gpus=1))
    world.tick(20.0)
    assert world.binds() == {"p": "m"}


def test_resource_claims_are_refused_by_field_name() -> None:
    world = World()
    world.nodes(a_node("n"))
    world.pods(a_pod("p").with_spec(resource_claims=[PodResourceClaim(name="c")]))
    assert "spec.resourceClaims" in world.message()
