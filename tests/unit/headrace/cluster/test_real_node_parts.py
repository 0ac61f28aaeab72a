"""What a real node is told, how its images are packed, and its control groups: all that needs no kubelet."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api.trust.files import TrustFiles
from headrace.cluster import manifests, parts
from headrace.cluster.options import ClusterOptions, parse_nodes
from headrace.cluster.realnode import cgroups, configs, identities, image_content, install, nodes
from headrace.cluster.realnode.addresses import MAX_REAL_NODES, Network
from headrace.cluster.realnode.image_archive import Entry, Image, write_archive, write_layer
from headrace.errors import ClusterError, UsageError

FOR_TESTS = ipaddress.IPv4Network("198.18.0.0/15")


@given(st.integers(0, 2**32 - 1))
def test_every_address_is_in_the_block_for_tests_and_nothing_overlaps(number: int) -> None:
    network = Network(f"{number:08x}")
    everything = ipaddress.IPv4Network(network.all_pods)
    assert everything.subnet_of(FOR_TESTS)
    pods = [ipaddress.IPv4Network(network.pods(index)) for index in range(MAX_REAL_NODES)]
    addresses = [ipaddress.IPv4Address(a) for a in (network.host, *map(network.node, range(MAX_REAL_NODES)))]
    assert len(set(addresses)) == MAX_REAL_NODES + 1
    assert all(address in everything for address in addresses)
    assert all(one.subnet_of(everything) for one in pods)
    assert not any(one.overlaps(other) for one in pods for other in pods if one is not other)
    assert not any(address in one for address in addresses for one in pods)
    # Names of network devices have at most 15 characters.
    assert len(network.plug(MAX_REAL_NODES - 1)) <= 15


@pytest.mark.parametrize(
    ("text", "nodes", "real"), [("3", 3, False), ("0", 0, False), ("real", 1, True), ("real:2", 2, True)]
)
def test_nodes_are_a_number_of_processes_or_real(text: str, nodes: int, real: bool) -> None:
    options = ClusterOptions.merged({}, parse_nodes(text))
    assert (options.nodes, options.real) == (nodes, real)


@pytest.mark.parametrize("text", ["", "real:", "real:x", "3:real", "kwok:3", "-1", "real:-1"])
def test_other_words_for_nodes_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="a number of process nodes, `real` or `real:NUMBER`"):
        parse_nodes(text)


def test_more_real_nodes_than_addresses_are_refused() -> None:
    with pytest.raises(UsageError, match="real:8 is out of range; give real:1 to real:7"):
        ClusterOptions.merged({}, parse_nodes("real:8"))


def test_kubelet_believes_the_api_server_only_and_changes_nothing_of_the_machine(tmp_path: Path) -> None:
    text = configs.kubelet_yaml(
        address="198.18.0.10",
        dns="198.18.0.1",
        cgroup_root="/headrace-x",
        resolv_conf=tmp_path / "resolv.conf",
        cert=tmp_path / "tls.crt",
        key=tmp_path / "tls.key",
        client_ca=tmp_path / "ca.crt",
    )
    config = yaml.safe_load(text)
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authentication"]["x509"]["clientCAFile"] == str(tmp_path / "ca.crt")
    assert config["readOnlyPort"] == 0
    assert config["makeIPTablesUtilChains"] is False
    assert set(configs.masked_sysctls()) == {"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"}


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened if one.isfile()}  # type: ignore[union-attr]


def test_an_archive_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    entries = [
        Entry("usr/bin/program", source=program),
        Entry("bin", link="usr/bin"),
        Entry("tmp", mode=0o1777),
        Entry("etc/passwd", text="root:x:0:0::/:\n"),
    ]
    images = [
        Image("docker.io/library/a:1", command=("a",), env={"B": "1"}, user="1:2"),
        Image("docker.io/library/b:1"),
    ]
    archives = []
    for number, order in enumerate((entries, entries[::-1])):
        layer, archive = tmp_path / f"layer-{number}", tmp_path / f"archive-{number}"
        write_layer(layer, order)
        write_archive(archive, layer, images)
        archives.append(_members(archive))
    assert archives[0] == archives[1]
    members = archives[0]
    index = json.loads(members["index.json"])
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == [
        one.name for one in images
    ]
    for name, data in members.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    manifest = json.loads(members["blobs/sha256/" + index["manifests"][0]["digest"].removeprefix("sha256:")])
    config = json.loads(members["blobs/sha256/" + manifest["config"]["digest"].removeprefix("sha256:")])
    assert config["config"] == {"Env": ["B=1"], "Entrypoint": [], "Cmd": ["a"], "User": "1:2", "WorkingDir": "/"}
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    with tarfile.open(tmp_path / "layer-0") as layer_tar:
        modes = {one.name: (one.mode, one.uid, one.mtime) for one in layer_tar}
    assert modes["usr/bin/program"] == (0o755, 0, int(program.stat().st_mtime))
    assert modes["tmp"] == (0o1777, 0, 0)
    assert list(modes).index("usr/bin") < list(modes).index("usr/bin/program")


@pytest.mark.real_node
def test_images_hold_what_their_files_are_linked_with() -> None:
    chosen = image_content.chosen()
    paths = {entry.path for entry in (*chosen, *image_content.libraries(chosen))}
    library = f"opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    assert f"{library}/site-packages/fuse/csi/__main__.py" in paths
    assert f"{library}/site-packages/headrace_sdk/__init__.py" in paths
    assert f"{library}/encodings/utf_8.py" in paths
    assert not [path for path in paths if "/tests/" in path and "site-packages/headrace" in path]
    linked = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, timeout=30, check=True).stdout
    names = {Path(word).name for word in linked.split() if word.startswith("/")}
    assert names
    assert names <= {Path(path).name for path in paths if path.startswith("usr/lib")}


def test_a_control_group_is_made_in_every_hierarchy_and_removed_with_what_is_below(tmp_path: Path) -> None:
    for hierarchy in ("cpu", "cpuset", "memory"):
        (tmp_path / hierarchy).mkdir()
        (tmp_path / hierarchy / "cgroup.procs").touch()
    (tmp_path / "not-a-hierarchy").mkdir()
    cgroups.make("headrace-x-real-0", tmp_path)
    cgroups.make("headrace-x-real-0", tmp_path)
    assert cgroups.named("headrace-x-", tmp_path) == {"headrace-x-real-0"}
    (tmp_path / "memory" / "headrace-x-real-0" / "kubepods" / "pod1").mkdir(parents=True)
    (tmp_path / "memory" / "somebody-elses").mkdir()
    cgroups.remove("headrace-x-real-0", tmp_path)
    assert cgroups.named("", tmp_path) == {"somebody-elses"}


@pytest.mark.parametrize("folder", ["/var/lib/x", "/run/user/0/c", "/etc/c"])
def test_a_folder_that_nodes_cannot_see_is_refused(folder: str) -> None:
    with pytest.raises(ClusterError, match="which real nodes cannot see; choose another"):
        nodes.check_folder(Path(folder))
    nodes.check_folder(Path("/home/somebody/c"))


def test_control_groups_that_cannot_be_made_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="control groups for real nodes cannot be made below"):
        cgroups.make("x", tmp_path / "missing")


def _workload(kind: str, *, generation: int = 2, strategy: str = "RollingUpdate", **status: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": {"replicas": 2, "updateStrategy": {"type": strategy}},
        "status": {"observedGeneration": 2, **status},
    }


@pytest.mark.parametrize(
    ("item", "is_ready"),
    [
        (_workload("Deployment", updatedReplicas=2, availableReplicas=2), True),
        (_workload("Deployment", updatedReplicas=2, availableReplicas=1), False),
        (_workload("Deployment", updatedReplicas=1, availableReplicas=2), False),
        (_workload("Deployment", generation=3, updatedReplicas=2, availableReplicas=2), False),
        (_workload("DaemonSet", desiredNumberScheduled=1, updatedNumberScheduled=1, numberReady=1), True),
        (_workload("DaemonSet", desiredNumberScheduled=1, updatedNumberScheduled=0, numberReady=1), False),
        (_workload("DaemonSet", desiredNumberScheduled=1, updatedNumberScheduled=1), False),
        (_workload("DaemonSet", strategy="OnDelete", desiredNumberScheduled=1, numberReady=1), True),
    ],
)
def test_a_workload_is_ready_when_all_its_pods_are_new_and_ready(item: dict[str, Any], is_ready: bool) -> None:
    assert install.not_ready([item]) == ([] if is_ready else [f"{item['kind'].lower()}/x"])


def test_a_node_has_its_own_two_identities_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "WORKER_USER", os.geteuid())  # who is not root cannot give files away
    layout = parts.Layout("c", tmp_path, ClusterOptions(nodes=2, real=True))
    layout.issue()
    layout.bring_identities()
    for node in layout.real_nodes:
        assert {str(path.relative_to(node.trust)) for path in node.trust.rglob("*") if path.is_file()} == {
            f"{folder}/{name}" for folder in ("trust", "trust-worker") for name in identities.FILES
        }
        names = {TrustFiles(node.trust / folder).identity.uri for folder in ("trust", "trust-worker")}
        assert names == {f"headrace://node/{node.name}", f"headrace://worker/{node.name}"}
        assert all(path.stat().st_mode & 0o077 == 0 for path in node.trust.rglob("*") if path.is_file())


def test_the_secrets_are_those_the_manifests_mount(tmp_path: Path) -> None:
    layout = parts.Layout("c", tmp_path, ClusterOptions(nodes=1, real=True))
    layout.issue()
    made = {secret["metadata"]["name"]: secret["data"] for secret in layout.trust_secrets()}
    component = manifests.MANIFESTS / "components" / "trust"
    asked = {
        found for file in component.glob("*.yaml") for found in re.findall(r"secretName: ([a-z-]+)", file.read_text())
    }
    assert made.keys() == asked
    for name in made.keys() - {"headrace-token-keys"}:
        assert made[name].keys() == {"ca.crt", "tls.crt", "tls.key"}
    assert made["headrace-token-keys"]
    assert not any("issuer" in key for data in made.values() for key in data)
