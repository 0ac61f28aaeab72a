"""A topic about claims that wait for their first consumer: local volumes, provisioners, topologies, published room."""

from tests.oracle.draft import ZONES, Body, Draft
from tests.oracle.topics.volumes import a_class, an_unbound_claim

CLASSES = ("local", "made", "zoned", "tracked", "now")
SIZES = ("1Gi", "2Gi", "5Gi")
SELECTED = "volume.kubernetes.io/selected-node"


def waiting_claims(draft: Draft) -> None:
    """Claims of several classes, one to three a pod, some with a node selected or a volume of their own already."""
    rng = draft.rng
    _classes(draft)
    _volumes(draft)
    for index, pod in enumerate(draft.some(draft.pods, 0.8)):
        namespace, volumes = pod["metadata"]["namespace"], []
        for number in range(rng.choice((1, 1, 2, 3))):
            volume: Body = {"name": f"w{number}"}
            if draft.chance(0.15):
                volume["ephemeral"] = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
                name = f"{pod['metadata']['name']}-w{number}"
                if draft.chance(0.2):
                    volumes.append(volume)
                    continue  # not made yet
            else:
                name = f"wait-{index}-{number}"
                volume["persistentVolumeClaim"] = {"claimName": name}
            volumes.append(volume)
            claim = _claim(draft, namespace, name)
            if "ephemeral" in volume and draft.chance(0.8):
                owner = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "controller": True}
                claim["metadata"]["ownerReferences"] = [{**owner, "uid": pod["metadata"]["uid"]}]
            draft.others.append(claim)
        pod["spec"].setdefault("volumes", []).extend(volumes)


def _classes(draft: Draft) -> None:
    rng = draft.rng
    made = [
        a_class("local", "kubernetes.io/no-provisioner"),
        a_class("made", "made.example.com"),
        a_class("zoned", "zoned.example.com"),
        a_class("tracked", "tracked.example.com"),
        a_class("now", "made.example.com", "Immediate"),
    ]
    expression = {"key": "topology.kubernetes.io/zone", "values": rng.sample(ZONES, rng.choice((1, 2)))}
    made[2]["allowedTopologies"] = [{"matchLabelExpressions": [expression]}]
    draft.others += made
    is_tracked = draft.chance(0.8)
    draft.others.append(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": "tracked.example.com"},
            "spec": {"storageCapacity": is_tracked},
        }
    )
    for number in range(rng.randint(0, 3)):
        room: Body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIStorageCapacity",
            "metadata": {"name": f"room-{number}", "namespace": "default"},
            "storageClassName": "tracked",
            "capacity": rng.choice(("1Gi", "3Gi", "100Gi")),
        }
        if draft.chance(0.8):
            room["nodeTopology"] = {"matchLabels": {"topology.kubernetes.io/zone": rng.choice(ZONES)}}
        elif draft.chance(0.5):
            room["nodeTopology"] = {}
        if draft.chance(0.3):
            room["maximumVolumeSize"] = "1Gi"
        draft.others.append(room)


def _volumes(draft: Draft) -> None:
    """Volumes of all different sizes: of equal ones kube-scheduler takes any."""
    rng = draft.rng
    for number in range(rng.randint(0, 12)):
        spec: Body = {
            "capacity": {"storage": f"{(1 << 30) * rng.choice((1, 2, 5)) + number}"},
            "accessModes": rng.choice((["ReadWriteOnce"], ["ReadWriteOnce", "ReadWriteMany"], ["ReadOnlyMany"])),
            "storageClassName": rng.choice(("local", "local", "made")),
            "local": {"path": "/disk"},
        }
        if draft.chance(0.1):
            spec["volumeMode"] = "Block"
        if draft.chance(0.1):
            spec["volumeAttributesClassName"] = "gold"
        if draft.chance(0.85):
            spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [_where(draft)]}]}}
        if draft.chance(0.1):
            spec["claimRef"] = {"namespace": "default", "name": "somebody-elses", "uid": "x"}
        elif draft.chance(0.2):
            index, place = rng.randint(0, 10), rng.randint(0, 1)
            spec["claimRef"] = {"namespace": rng.choice(("default", "team-a")), "name": f"wait-{index}-{place}"}
        metadata: Body = {"name": f"disk-{number}", "labels": {"tier": rng.choice(("gold", "iron"))}}
        phase = rng.choice(("Available", "Available", "Available", "Released", "Pending"))
        draft.others.append(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec,
             "status": {"phase": phase}}
        )  # fmt: skip


def _where(draft: Draft) -> Body:
    if draft.chance(0.7):
        name = draft.rng.choice(draft.nodes)["metadata"]["name"]
        return {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    return {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": [draft.rng.choice(ZONES)]}


def _claim(draft: Draft, namespace: str, name: str) -> Body:
    rng = draft.rng
    storage_class = rng.choice(("local", "local", "made", "zoned", "tracked", "tracked"))
    if draft.chance(0.04):
        storage_class = rng.choice(("now", "missing", ""))
    claim = an_unbound_claim(namespace, name, storage_class, rng.choice(SIZES))
    if draft.chance(0.15):
        node = rng.choice(draft.nodes)["metadata"]["name"] if draft.chance(0.8) else "gone"
        claim["metadata"]["annotations"] = {SELECTED: node}
    if draft.chance(0.1):
        claim["spec"]["selector"] = {"matchLabels": {"tier": "gold"}}
    if draft.chance(0.05):
        claim["spec"]["volumeMode"] = "Block"
    if draft.chance(0.05):
        claim["spec"]["volumeAttributesClassName"] = "gold"
    if draft.chance(0.05):
        claim["spec"]["accessModes"] = ["ReadWriteOncePod"]
    if draft.chance(0.05):
        claim["metadata"]["annotations"] = {**claim["metadata"].get("annotations", {}),
                                            "volume.beta.kubernetes.io/storage-class": "local"}  # fmt: skip
    return claim
