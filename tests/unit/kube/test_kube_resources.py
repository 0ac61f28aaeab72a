"""Paths of resources: kube/resources.py."""

import pytest

from kube import resources
from kube.resources import Resource


@pytest.mark.parametrize(
    ("resource", "arguments", "expected"),
    [
        (resources.PODS, (), "/api/v1/pods"),
        (resources.PODS, ("ns",), "/api/v1/namespaces/ns/pods"),
        (resources.PODS, ("ns", "p", "binding"), "/api/v1/namespaces/ns/pods/p/binding"),
        (resources.NODES, (None, "n"), "/api/v1/nodes/n"),
        (resources.NAMESPACES, (None, "kube-system"), "/api/v1/namespaces/kube-system"),
        (resources.LEASES, ("ns", "l"), "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"),
        (resources.EVENTS, ("ns",), "/apis/events.k8s.io/v1/namespaces/ns/events"),
        (resources.DATASETS, ("ns", "d", "status"), "/apis/data.headrace.dev/v1alpha1/namespaces/ns/datasets/d/status"),
        (resources.NODE_CACHES, (None, "n"), "/apis/data.headrace.dev/v1alpha1/nodecaches/n"),
        (resources.POD_GROUPS, ("ns",), "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/ns/podgroups"),
        (resources.CRDS, (None, "a.b.c"), "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a.b.c"),
    ],
)
def test_paths(resource: Resource, arguments: tuple[str | None, ...], expected: str) -> None:
    assert resource.path(*arguments) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secrets", "a%2Fb"])
def test_a_name_cannot_lead_to_another_path(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a path"):
        resources.PODS.path("ns", name)


def test_odd_characters_are_quoted_and_colons_stay() -> None:
    assert resources.PODS.path("ns", "a b?c#d").endswith("/a%20b%3Fc%23d")
    assert resources.PRIORITY_CLASSES.path(None, "system:x").endswith("/system:x")


def test_wrong_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a namespace"):
        resources.PODS.path(None, "p")
    with pytest.raises(ValueError, match="cluster-scoped"):
        resources.NODES.path("ns", "n")
    with pytest.raises(ValueError, match="needs an object name"):
        resources.PODS.path("ns", None, "status")


def test_api_version() -> None:
    assert resources.PODS.api_version == "v1"
    assert resources.DATASETS.api_version == "data.headrace.dev/v1alpha1"
