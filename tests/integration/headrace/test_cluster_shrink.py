"""An `up` that asks for less stops what is too much, and a stopped cluster is told as stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.cluster import mounts, parts
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.overview import look


def names_of(cluster: LocalCluster) -> set[str]:
    return {one.name for one in look("less", cluster.folder.root).nodes}


def test_asking_for_less_takes_nodes_and_parts_away(
    tmp_path_factory: pytest.TempPathFactory, control_plane_binaries: Mapping[str, Path]
) -> None:
    assert control_plane_binaries
    cluster = LocalCluster("less", tmp_path_factory.mktemp("s") / "c")
    options = cluster.up({"nodes": 2})
    layout = parts.Layout("less", cluster.folder.root, options)
    first, second = layout.nodes
    try:
        assert names_of(cluster) == {"node-0", "node-1"}
        cluster.up({"nodes": 1})
        assert names_of(cluster) == {"node-0"}
        assert mounts.below(cluster.folder.root) == [first.mount]
        assert not layout.memory_tier(second.name).exists()
        cluster.up({"parts": False})
        assert names_of(cluster) == set()
        assert set(cluster.load().components) == {"etcd", "kube-apiserver", "kube-controller-manager", "kwok"}
        assert mounts.below(cluster.folder.root) == []
        cluster.down()
        assert "it is stopped" in look("less", cluster.folder.root).problem
    finally:
        cluster.down(purge=True)
    assert not layout.memory_tier(first.name).exists()
