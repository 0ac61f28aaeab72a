"""What volumes mean to placement: what a pod on a node holds, what a pending pod asks for, what a bind has to do first.

Owns plain values and their reading from a pod's spec. Does not look claims up (core/pod_claims.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kube.objects import PodSpec, Volume
from scheduler.core.selectors import Term

# In-tree plugins that count as their CSI driver on every node that limits it (nodevolumelimits/utils.go).
CSI_NAMES = {
    "kubernetes.io/aws-ebs": "ebs.csi.aws.com",
    "kubernetes.io/azure-disk": "disk.csi.azure.com",
    "kubernetes.io/cinder": "cinder.csi.openstack.org",
    "kubernetes.io/gce-pd": "pd.csi.storage.gke.io",
    "kubernetes.io/portworx-volume": "pxd.portworx.com",
}
# Its field in a volume, and the field there that names the disk.
IN_TREE = {
    "kubernetes.io/aws-ebs": ("aws_elastic_block_store", "volumeID"),
    "kubernetes.io/azure-disk": ("azure_disk", "diskURI"),
    "kubernetes.io/cinder": ("cinder", "volumeID"),
    "kubernetes.io/gce-pd": ("gce_persistent_disk", "pdName"),
    "kubernetes.io/portworx-volume": ("portworx_volume", "volumeID"),
}
ClaimKey = tuple[str, str]  # namespace, name


class ClaimUse(NamedTuple):
    """A claim in the pod's namespace; an ephemeral one is made for the pod alone."""

    name: str
    is_ephemeral: bool


class Disk(NamedTuple):
    """A disk named in the pod itself; two pods may share a node only if both merely read it (VolumeRestrictions)."""

    key: str
    is_read_only: bool


class Attachable(NamedTuple):
    """A volume that counts against a node's attach limit, under the name of its CSI driver."""

    driver: str
    handle: str


@dataclass(frozen=True, slots=True)
class HeldVolumes:
    """The volumes of a pod's spec that others have to know of."""

    claims: tuple[ClaimUse, ...] = ()
    disks: tuple[Disk, ...] = ()
    inline: tuple[Attachable, ...] = ()


NOTHING_HELD = HeldVolumes()


@dataclass(frozen=True, slots=True)
class PodVolumes:
    """What a pending pod's volumes ask of nodes; claims are looked up.

    `terms`: node affinity of bound volumes, each must hold; `zones`: by label, those volumes' zones; `is_lost`: a
    volume a claim is bound to does not exist; `unbound`: claims that wait for a node to be chosen; `exclusive`:
    claims no other pod may use (ReadWriteOncePod); `attached`: what would be attached; `version`: of the storage
    objects, where the answer hangs on more of them than is said here.
    """

    terms: tuple[tuple[Term, ...], ...] = ()
    zones: tuple[tuple[str, frozenset[str]], ...] = ()
    is_lost: bool = False
    unbound: tuple[ClaimKey, ...] = ()
    exclusive: tuple[ClaimKey, ...] = ()
    attached: tuple[Attachable, ...] = ()
    disks: tuple[Disk, ...] = ()
    version: int = 0

    @property
    def looks_at_pods(self) -> bool:
        """Whether pods elsewhere, or placed together with this one, can change the answer."""
        return bool(self.unbound or self.exclusive or self.disks)


NO_VOLUMES = PodVolumes()


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What has to be done before a pod can be bound: volumes to give to claims, and claims to have made on the
    node. Every claim named must then become bound."""

    node: str
    bindings: tuple[tuple[str, ClaimKey], ...]  # volume, claim
    provisions: tuple[ClaimKey, ...]


def held_volumes(pod_name: str, spec: PodSpec) -> HeldVolumes:
    """Read a pod's volumes."""
    if not spec.volumes:
        return NOTHING_HELD
    claims: list[ClaimUse] = []
    disks: list[Disk] = []
    inline: list[Attachable] = []
    for volume in spec.volumes:
        if volume.persistent_volume_claim is not None:
            claims.append(ClaimUse(volume.persistent_volume_claim.claim_name, is_ephemeral=False))
        elif volume.ephemeral is not None:
            claims.append(ClaimUse(f"{pod_name}-{volume.name}", is_ephemeral=True))
        else:
            disks += _disks(volume)
            plugin = in_tree_plugin(volume)
            if plugin is not None:
                inline.append(in_tree(volume, plugin, "UNSPECIFIED"))
    if not (claims or disks or inline):
        return NOTHING_HELD
    return HeldVolumes(tuple(claims), tuple(disks), tuple(inline))


def in_tree_plugin(source: Any) -> str | None:
    """The in-tree plugin, of those CSI migration knows, of a pod's volume or a PersistentVolume's spec."""
    return next((plugin for plugin, (field, _) in IN_TREE.items() if getattr(source, field) is not None), None)


def in_tree(source: Any, plugin: str, zone: str) -> Attachable:
    """A volume of an in-tree plugin; the handle only has to tell volumes apart as csi-translation-lib does."""
    field, key = IN_TREE[plugin]
    found: Mapping[str, Any] = getattr(source, field)
    name = str(found.get(key, ""))
    return Attachable(CSI_NAMES[plugin], f"zones/{zone}/{name}" if field == "gce_persistent_disk" else name)


def _disks(volume: Volume) -> list[Disk]:
    """The disk of a volume, once for each way another pod may name it (isVolumeConflict in volumerestrictions)."""
    if (gce := volume.gce_persistent_disk) is not None:
        return [Disk(f"gce {gce.get('pdName', '')}", bool(gce.get("readOnly")))]
    if (ebs := volume.aws_elastic_block_store) is not None:
        return [Disk(f"ebs {ebs.get('volumeID', '')}", is_read_only=False)]
    if (iscsi := volume.iscsi) is not None:
        return [Disk(f"iscsi {iscsi.get('iqn', '')}", bool(iscsi.get("readOnly")))]
    if (rbd := volume.rbd) is not None:
        image = f"{rbd.get('pool', '')} {rbd.get('image', '')}"
        is_read_only = bool(rbd.get("readOnly"))
        return [Disk(f"rbd {monitor} {image}", is_read_only) for monitor in rbd.get("monitors") or ()]
    return []
