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
