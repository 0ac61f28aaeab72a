"""Topics about volumes: claims that are bound, and those that cannot be used."""

from tests.oracle.draft import ZONES, Body, Draft

BOUND = {"pv.kubernetes.io/bind-completed": "yes"}
ZONE_KEYS = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/region")


def bound_claims(draft: Draft) -> None:
    """Claims on volumes of several kinds: node affinity, zones in labels, volumes and claims that are not there."""
    rng = draft.rng
    for node in draft.some(draft.nodes, 0.3):
        node["metadata"]["labels"]["topology.kubernetes.io/region"] = rng.choice(("r1", "r2"))
    for node in draft.some(draft.nodes, 0.2):
        node["metadata"]["labels"]["failure-domain.beta.kubernetes.io/zone"] = rng.choice(ZONES)
    for index, pod in enumerate(draft.some(draft.pods, 0.8)):
        volumes = []
        for number in range(rng.choice((1, 1, 2))):
            name = f"c{index}-{number}"
            volumes.append({"name": f"v{number}", "persistentVolumeClaim": {"claimName": name}})
            _claim(draft, pod["metadata"]["namespace"], name)
        pod["spec"]["volumes"] = volumes


def _claim(draft: Draft, namespace: str, name: str) -> None:
    rng = draft.rng
    if draft.chance(0.04):
        return
    metadata: Body = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "annotations": dict(BOUND)}
    spec: Body = {"accessModes": ["ReadWriteMany"], "volumeName": f"pv-{name}", "storageClassName": "fast"}
    claim: Body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
    claim["status"] = {"phase": "Bound"}
    fate = rng.random()
    if fate < 0.03:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    elif fate < 0.06:
        claim["status"]["phase"] = "Lost"
    elif fate < 0.10:
        metadata["annotations"] = {}
    elif fate < 0.13:
        spec |= {"volumeName": "", "storageClassName": ""}
        metadata["annotations"] = {}
    draft.others.append(claim)
    if not draft.chance(0.05):
        draft.others.append(_volume(draft, f"pv-{name}"))


def _volume(draft: Draft, name: str) -> Body:
    rng = draft.rng
    source = rng.choice(
        (
            {"csi": {"driver": "files.example.com", "volumeHandle": name}},
            {"nfs": {"server": "nfs", "path": "/"}},
            {"hostPath": {"path": "/data"}},
            {"local": {"path": "/data"}},
        )
    )
    labels: Body = {}
    if draft.chance(0.5):
        labels[rng.choice(ZONE_KEYS)] = rng.choice(("z1", "z1__z2", "z3", "r1", "r1__r2", "", "z1__"))
    spec: Body = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        **source,
    }
    if draft.chance(0.4):
        expression: Body = {"key": rng.choice(("disk", "topology.kubernetes.io/zone")), "operator": "In"}
        expression["values"] = ["ssd", *rng.sample(ZONES, 2)]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def shared_volumes(draft: Draft) -> None:
    """In-tree disks named in pods, some read-only, and ReadWriteOncePod claims: bound pods hold some of them."""
    rng = draft.rng
    claims = set()
    for pod in draft.some(draft.all_pods, 0.6):
        volumes = []
        for number in range(rng.choice((1, 1, 2))):
            volume: Body = {"name": f"s{number}"}
            if draft.chance(0.4):
                name = f"once-{rng.choice('abcd')}"
                claims.add((pod["metadata"]["namespace"], name))
                volume["persistentVolumeClaim"] = {"claimName": name}
            else:
                volume |= _disk(draft)
            volumes.append(volume)
        pod["spec"].setdefault("volumes", []).extend(volumes)
    for namespace, name in sorted(claims):
        once = draft.chance(0.7)
        draft.others += _bound(namespace, name, ["ReadWriteOncePod" if once else "ReadWriteOnce"], {"nfs": NFS})


def _disk(draft: Draft) -> Body:
    rng = draft.rng
    name, is_read_only = rng.choice(("d1", "d2", "d3")), draft.chance(0.4)
    kind = rng.choice(("gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd"))
    sources: dict[str, Body] = {
        "gcePersistentDisk": {"pdName": name},
        "awsElasticBlockStore": {"volumeID": name},
        "iscsi": {"targetPortal": "portal", "iqn": name, "lun": 0},
        "rbd": {"monitors": rng.sample(("m1", "m2", "m3"), rng.choice((1, 2))), "pool": "p", "image": name},
    }
    return {kind: {**sources[kind], "readOnly": True} if is_read_only else sources[kind]}


DRIVERS = ("ebs.csi.aws.com", "files.example.com")
NFS = {"server": "nfs", "path": "/"}


def attach_limits(draft: Draft) -> None:
    """CSI drivers with a limit on some nodes, claims shared and not, attachments nobody's pod explains."""
    rng = draft.rng
    for node in draft.some(draft.nodes, 0.7):
        name = node["metadata"]["name"]
        drivers: list[Body] = []
        for driver in DRIVERS:
            if draft.chance(0.2):
                continue
            entry: Body = {"name": driver, "nodeID": name, "topologyKeys": []}
            if draft.chance(0.8):
                entry["allocatable"] = {"count": rng.choice((0, 1, 2, 3))}
            drivers.append(entry)
        metadata: Body = {"name": name}
        if draft.chance(0.3):
            metadata["annotations"] = {"storage.alpha.kubernetes.io/migrated-plugins": "kubernetes.io/aws-ebs"}
        draft.others.append({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": metadata,
                             "spec": {"drivers": drivers}})  # fmt: skip
    draft.others.append(a_class("later", "ebs.csi.aws.com"))
    claims = set()
    for pod in draft.some(draft.all_pods, 0.7):
        volumes = []
        for number in range(rng.choice((1, 1, 2, 3))):
            if draft.chance(0.15):
                volumes.append({"name": f"a{number}", "awsElasticBlockStore": {"volumeID": rng.choice(("e1", "e2"))}})
                continue
            name = f"att-{rng.randint(0, 9)}"
            claims.add((pod["metadata"]["namespace"], name))
            volumes.append({"name": f"a{number}", "persistentVolumeClaim": {"claimName": name}})
        pod["spec"].setdefault("volumes", []).extend(volumes)
    for namespace, name in sorted(claims):
        volume = f"pv-{namespace}-{name}"
        if draft.chance(0.15):
            draft.others.append(an_unbound_claim(namespace, name, "later"))
            continue
        handle = rng.choice((volume, "shared-handle"))
        source = {"csi": {"driver": rng.choice(DRIVERS), "volumeHandle": handle}}
        draft.others += _bound(namespace, name, ["ReadWriteMany"], source)
        for node in draft.some(draft.nodes, 0.1):
            draft.others.append(_attachment(node["metadata"]["name"], volume, source["csi"]["driver"]))


def _attachment(node: str, volume: str, driver: str) -> Body:
    spec = {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume}}
    metadata = {"name": f"va-{node}-{volume}"}
    return {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": metadata, "spec": spec}


def _bound(namespace: str, name: str, modes: list[str], source: Body) -> list[Body]:
    """A claim and the volume it is bound to."""
    volume = f"pv-{namespace}-{name}"
    claim = an_unbound_claim(namespace, name, "fast")
    claim["metadata"]["annotations"] = dict(BOUND)
    claim["spec"] |= {"accessModes": modes, "volumeName": volume}
    claim["status"] = {"phase": "Bound"}
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": modes, "storageClassName": "fast", **source}
    return [claim, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec}]


def a_class(name: str, provisioner: str, mode: str = "WaitForFirstConsumer") -> Body:
    """A storage class."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": mode,
    }


def an_unbound_claim(namespace: str, name: str, storage_class: str, size: str = "1Gi") -> Body:
    """A claim without a volume."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        },
        "status": {"phase": "Pending"},
    }
