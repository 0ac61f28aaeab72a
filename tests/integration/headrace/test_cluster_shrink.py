"""An `up` that asks for less stops what is too much, and a stopped cluster is told as stopped."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.cluster import mounts, parts
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.overview import look


def names_of(cluster: LocalCluster) -> set[str]:
    return {one.name for one in look("less", cluster.folder.root).nodes}


def assert_no_secret_shows(cluster: LocalCluster) -> None:
    """Keys of certificates and of tokens are in no log, argument, environment or metric of the parts that use them."""
    trust = cluster.folder.root / "trust"
    files = [*trust.glob("*/*/tls.key"), *trust.glob("authority/*.key"), *trust.glob("authority/token-keys/*.pem")]
    secrets = [line for file in files for line in file.read_text().splitlines() if line and "-----" not in line]
    assert len(files) == 10 and secrets
    state = cluster.load()
    seen = [file.read_text(errors="replace") for file in (cluster.folder.root / "logs").iterdir()]
    for name, component in state.components.items():
        seen += [Path(f"/proc/{component.process.pid}/{what}").read_text() for what in ("cmdline", "environ")]
        if name in ("metadata", "cacheruntime", "jobcontroller", "node-0/worker", "node-0/fuse"):
            assert str(trust) in seen[-2], "it runs with a certificate"
    with urllib.request.urlopen(f"http://127.0.0.1:{state.ports['metadata-metrics']}/metrics", timeout=10) as answer:
        seen.append(answer.read().decode())
    assert not [secret for secret in secrets if any(secret in text for text in seen)]
    assert not [text for text in seen if "hr1." in text], "what every token begins with"
    assert not [text for text in seen if "trust_is_off" in text]


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
        assert_no_secret_shows(cluster)
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
