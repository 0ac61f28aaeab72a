"""Typed views of objects: kube/objects.py, kube/identity.py."""

import msgspec

from api.nodecache_v1alpha1 import NodeCache
from kube import objects
from kube.identity import identity_of, reference_to


def test_a_pod_with_everything_the_scheduler_reads() -> None:
    pod = msgspec.json.decode(
        msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "managedFields": []},
                "spec": {
                    "initContainers": [{"name": "s", "restartPolicy": "Always"}],
                    "containers": [
                        {
                            "name": "c",
                            "resources": {"requests": {"nvidia.com/gpu": "8"}},
                            "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}],
                        }
                    ],
                    "nodeSelector": {"a": "b"},
                    "affinity": {"nodeAffinity": {"x": [1]}},
                    "tolerations": [{"operator": "Exists"}],
                    "schedulingGates": [{"name": "g"}],
                    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "imagenet"}}],
                    "unknownField": {"deep": [None]},
                },
                "status": {"phase": "Pending", "nominatedNodeName": "n", "podIP": "10.0.0.1"},
            }
        ),
        type=objects.Pod,
    )
    assert pod.spec.init_containers[0].restart_policy == "Always"
    assert pod.spec.containers[0].resources.requests == {"nvidia.com/gpu": "8"}
    assert pod.spec.containers[0].ports[0].host_ip == "127.0.0.1"
    assert pod.spec.tolerations[0].operator == "Exists"
    assert pod.spec.volumes[0].persistent_volume_claim is not None
    assert pod.spec.volumes[0].persistent_volume_claim.claim_name == "imagenet"
    assert pod.status.pod_ip == "10.0.0.1"
    assert identity_of(pod) == ("ns", "p", "u", "7")


def test_an_empty_object_decodes_to_defaults_that_are_not_shared() -> None:
    one, two = (msgspec.json.decode(b"{}", type=objects.Pod) for _ in range(2))
    assert one.spec.node_name == ""
    one.metadata.labels["a"] = "b"
    assert two.metadata.labels == {} == objects.Pod().metadata.labels


def test_defaults_are_left_out_when_encoding() -> None:
    taint = objects.Taint(key="k", effect="NoSchedule")
    assert msgspec.json.encode(objects.NodeSpec(taints=[taint])) == b'{"taints":[{"key":"k","effect":"NoSchedule"}]}'


def test_our_own_kinds_read_what_the_models_write() -> None:
    cache = NodeCache.model_validate(
        {
            "metadata": {"name": "n"},
            "status": {
                "worker": {"endpoint": "127.0.0.1:1", "epoch": 3},
                "tiers": [{"medium": "SSD", "capacity": 100, "used": 10, "readBytesPerSecond": 5}],
                "network": {"readBytesPerSecond": 7},
                "datasets": [
                    {
                        "namespace": "ns",
                        "name": "d",
                        "uid": "u",
                        "snapshot": 4,
                        "residentBytes": {"SSD": 10},
                        "groups": {"train": 10},
                    }
                ],
            },
        }
    )
    read = msgspec.convert(cache.to_wire(), objects.NodeCache)
    assert read.status.worker == objects.CacheWorker(endpoint="127.0.0.1:1", epoch=3)
    assert read.status.network.read_bytes_per_second == 7
    assert read.status.tiers[0].used == 10
    assert read.status.datasets[0].resident_bytes["SSD"] == 10
    assert read.status.datasets[0].groups == {"train": 10}


def test_a_dict_is_identified_like_a_struct() -> None:
    item = {"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}}
    assert identity_of(item) == identity_of(msgspec.convert(item, objects.Node))
    assert identity_of({}) == ("", "", "", "")


def test_references_name_the_kind() -> None:
    ref = reference_to({"metadata": {"name": "n", "uid": "u"}}, kind="Node")
    assert msgspec.to_builtins(ref) == {"kind": "Node", "name": "n", "uid": "u"}
