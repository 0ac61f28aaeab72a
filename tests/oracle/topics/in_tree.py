"""A topic about volumes of in-tree plugins, on clusters where some nodes migrated them to CSI drivers."""

from tests.oracle.draft import Body, Draft
from tests.oracle.topics.volumes import BOUND, a_class, an_unbound_claim

MIGRATED = "storage.alpha.kubernetes.io/migrated-plugins"
OLD_ZONE, ZONE = "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"
OLD_REGION, REGION = "failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"
# Zones as clouds write them: gcePersistentDisk derives a region from them.
ZONES = ("eu-west-a", "eu-west-b", "eu-west-c")
REGIONS = ("eu-west", "eu-north")
# Plugin: its driver, the label by which that knows zones (none: affinity stays as it is).
PLUGINS: dict[str, tuple[str, str]] = {
    "kubernetes.io/aws-ebs": ("ebs.csi.aws.com", "topology.ebs.csi.aws.com/zone"),
    "kubernetes.io/azure-disk": ("disk.csi.azure.com", "topology.disk.csi.azure.com/zone"),
    "kubernetes.io/azure-file": ("file.csi.azure.com", ""),
    "kubernetes.io/cinder": ("cinder.csi.openstack.org", "topology.cinder.csi.openstack.org/zone"),
    "kubernetes.io/gce-pd": ("pd.csi.storage.gke.io", "topology.gke.io/zone"),
    "kubernetes.io/portworx-volume": ("pxd.portworx.com", ""),
    "kubernetes.io/vsphere-volume": ("csi.vsphere.vmware.com", "topology.csi.vmware.com/zone"),
}
DISKS = ("vol-1", "vol-2", "vol-3")
LIMITED = ("ebs.csi.aws.com", "pd.csi.storage.gke.io", "disk.csi.azure.com", "file.csi.azure.com", "pxd.portworx.com")


def in_tree_volumes(draft: Draft) -> None:
    """Nodes with old, new and drivers' zone labels; in-tree disks by claim and inline; limits; claims not yet bound."""
    rng = draft.rng
    for node in draft.nodes:
        labels, zone = node["metadata"]["labels"], rng.choice(ZONES)
        for key in (ZONE, OLD_ZONE, *(label for _, label in PLUGINS.values() if label)):
            if draft.chance(0.6):
                labels[key] = zone if draft.chance(0.8) else rng.choice(ZONES)
        for key in (REGION, OLD_REGION):
            if draft.chance(0.4):
                labels[key] = rng.choice(REGIONS)
        if draft.chance(0.8):
            _add_csi_drivers(draft, node["metadata"]["name"])
    for number, plugin in enumerate(PLUGINS):
        draft.others.append(a_class(f"in-tree-{number}", plugin))
    claims = set()
    for pod in draft.some(draft.all_pods, 0.7):
        volumes = []
        for number in range(rng.choice((1, 1, 2, 3))):
            volume: Body = {"name": f"t{number}"}
            if draft.chance(0.3):
                volume |= _inline(draft)
            else:
                name = f"tree-{rng.randint(0, 11)}"
                claims.add((pod["metadata"]["namespace"], name))
                volume["persistentVolumeClaim"] = {"claimName": name}
            volumes.append(volume)
        pod["spec"].setdefault("volumes", []).extend(volumes)
    for namespace, name in sorted(claims):
        storage_class = f"in-tree-{rng.randrange(len(PLUGINS))}"
        claim = an_unbound_claim(namespace, name, storage_class)
        draft.others.append(claim)
        if draft.chance(0.2):
            if draft.chance(0.5):  # one it may find instead of having it made
                draft.others.append(_volume(draft, f"free-{namespace}-{name}", storage_class, "Available"))
            continue
        claim["metadata"]["annotations"] = dict(BOUND)
        claim["spec"]["volumeName"] = f"pv-{namespace}-{name}"
        claim["status"] = {"phase": "Bound"}
        volume = _volume(draft, f"pv-{namespace}-{name}", storage_class, "Bound")
        volume["spec"]["claimRef"] = {"namespace": namespace, "name": name, "uid": claim["metadata"]["uid"]}
        draft.others.append(volume)


def _add_csi_drivers(draft: Draft, name: str) -> None:
    """Drivers and migrated plugins of a node, beside those another topic gave it."""
    known = (body for body in draft.others if body["kind"] == "CSINode" and body["metadata"]["name"] == name)
    node = next(known, None)
    if node is None:
        node = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
                "spec": {"drivers": []}}  # fmt: skip
        draft.others.append(node)
    if draft.chance(0.7):
        node["metadata"]["annotations"] = {MIGRATED: ",".join(draft.some(list(PLUGINS), 0.7))}
    drivers = node["spec"]["drivers"]
    there = {driver["name"] for driver in drivers}
    for driver in LIMITED:
        if driver not in there and draft.chance(0.5):
            entry: Body = {"name": driver, "nodeID": name, "topologyKeys": []}
            if draft.chance(0.7):
                entry["allocatable"] = {"count": draft.rng.choice((0, 1, 2, 3))}
            drivers.append(entry)


def _inline(draft: Draft) -> Body:
    disk, kind = draft.rng.choice(DISKS), draft.rng.randrange(6)
    zone = draft.rng.choice(ZONES)
    sources: tuple[Body, ...] = (
        {"awsElasticBlockStore": {"volumeID": draft.rng.choice((disk, f"aws://{zone}/{disk}", f"aws:///{disk}"))}},
        {"gcePersistentDisk": {"pdName": disk}},
        {"azureDisk": {"diskName": disk, "diskURI": f"/disks/{disk}", "kind": "Managed"}},
        {"cinder": {"volumeID": disk}},
        {"portworxVolume": {"volumeID": disk}},
        {"vsphereVolume": {"volumePath": disk}},
    )
    return sources[kind]


def _source(draft: Draft) -> Body:
    """The same disks as inline ones, some by the drivers' own names for them."""
    if draft.chance(0.15):
        handles = {
            "ebs.csi.aws.com": draft.rng.choice(DISKS),
            "pd.csi.storage.gke.io": f"projects/UNSPECIFIED/zones/UNSPECIFIED/disks/{draft.rng.choice(DISKS)}",
            "disk.csi.azure.com": f"/disks/{draft.rng.choice(DISKS)}",
        }
        driver = draft.rng.choice(sorted(handles))
        return {"csi": {"driver": driver, "volumeHandle": handles[driver]}}
    if draft.chance(0.1):
        return {"azureFile": {"secretName": "s", "shareName": draft.rng.choice(DISKS)}}
    source = _inline(draft)
    if "azureDisk" in source and draft.chance(0.5):
        source["azureDisk"]["kind"] = "managed"
    return source


def _volume(draft: Draft, name: str, storage_class: str, phase: str) -> Body:
    rng = draft.rng
    labels: Body = {}
    for key in draft.some([ZONE, OLD_ZONE], 0.4):
        labels[key] = rng.choice((*ZONES, "eu-west-a__eu-west-b", "", "eu-west-b__"))
    for key in draft.some([REGION, OLD_REGION], 0.2):
        labels[key] = rng.choice(REGIONS)
    source = _source(draft)
    if "gcePersistentDisk" in source:
        # A region has to follow from several zones, or kube-scheduler gives up on the pod with an error.
        labels = {key: value for key, value in labels.items() if value != "eu-west-b__"}
    spec: Body = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        **source,
    }
    if draft.chance(0.5):
        terms = [{"matchExpressions": [_expression(draft) for _ in range(rng.choice((1, 1, 2)))]}
                 for _ in range(rng.choice((1, 1, 2)))]  # fmt: skip
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"phase": phase}}  # fmt: skip


def _expression(draft: Draft) -> Body:
    rng = draft.rng
    key = rng.choice((ZONE, ZONE, OLD_ZONE, REGION, OLD_REGION, "disk", "topology.gke.io/zone"))
    if draft.chance(0.1):
        return {"key": key, "operator": rng.choice(("Exists", "DoesNotExist"))}
    values = REGIONS if key in (REGION, OLD_REGION) else ("ssd", "hdd") if key == "disk" else ZONES
    operator = "In" if draft.chance(0.85) else "NotIn"
    return {"key": key, "operator": operator, "values": rng.sample(values, rng.choice((1, 2)))}
