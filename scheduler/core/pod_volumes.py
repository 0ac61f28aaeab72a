"""What volumes mean to placement: what a pod on a node holds, what a pending pod asks for, what a bind has to do first.

Owns plain values and their reading from a pod's spec. Does not look claims up (core/pod_claims.py).
"""

from dataclasses import dataclass
from typing import NamedTuple

from kube.objects import PodSpec, Volume
from scheduler.core.csi_migration import Untranslatable, inline_handle, plugin_of
from scheduler.core.selectors import Term

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
    """The volumes of a pod's spec that others have to know of. `unnamed`: why one written in the pod has no name at
    its CSI driver; nodes with CSI drivers cannot take the pod."""

    claims: tuple[ClaimUse, ...] = ()
    disks: tuple[Disk, ...] = ()
    inline: tuple[Attachable, ...] = ()
    unnamed: str | None = None


NOTHING_HELD = HeldVolumes()


class MigratedTerms(NamedTuple):
    """Node affinity of a bound volume of an in-tree plugin: on nodes that migrated it, and on the others. None: every
    node will do."""

    plugin: str
    there: tuple[Term, ...] | None
    elsewhere: tuple[Term, ...] | None


@dataclass(frozen=True, slots=True)
class PodVolumes:
    """What a pending pod's volumes ask of nodes; claims are looked up.

    `terms`: node affinity of bound volumes, each must hold; `migrated`: likewise, of volumes whose affinity hangs on
    what the node migrated; `zones`: by label, those volumes' zones; `is_lost`: a volume a claim is bound to does not
    exist; `unbound`: claims that wait for a node to be chosen; `exclusive`: claims no other pod may use
    (ReadWriteOncePod); `attached`: what would be attached; `version`: of the storage objects, where the answer hangs on
    more of them than is said here.
    """

    terms: tuple[tuple[Term, ...], ...] = ()
    migrated: tuple[MigratedTerms, ...] = ()
    zones: tuple[tuple[str, frozenset[str]], ...] = ()
    is_lost: bool = False
    unbound: tuple[ClaimKey, ...] = ()
    exclusive: tuple[ClaimKey, ...] = ()
    attached: tuple[Attachable, ...] = ()
    disks: tuple[Disk, ...] = ()
    version: int = 0

    @property
    def has_affinity(self) -> bool:
        """Whether bound volumes cannot be used on every node."""
        return bool(self.terms or self.migrated or self.is_lost)

    @property
    def looks_at_pods(self) -> bool:
        """Whether pods elsewhere, or placed together with this one, can change the answer."""
        return bool(self.unbound or self.exclusive or self.disks)


NO_VOLUMES = PodVolumes()


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What has to be done before a pod can be bound: volumes to give to claims, and claims to have made on the
    node. Every claim named must then become bound. `conflict`: why the volumes cannot be had there after all."""

    node: str
    bindings: tuple[tuple[str, ClaimKey], ...]  # volume, claim
    provisions: tuple[ClaimKey, ...]
    conflict: str | None = None


def held_volumes(pod_name: str, spec: PodSpec) -> HeldVolumes:
    """Read a pod's volumes."""
    if not spec.volumes:
        return NOTHING_HELD
    claims: list[ClaimUse] = []
    disks: list[Disk] = []
    inline: list[Attachable] = []
    unnamed: str | None = None
    for volume in spec.volumes:
        if volume.persistent_volume_claim is not None:
            claims.append(ClaimUse(volume.persistent_volume_claim.claim_name, is_ephemeral=False))
        elif volume.ephemeral is not None:
            claims.append(ClaimUse(f"{pod_name}-{volume.name}", is_ephemeral=True))
        else:
            disks += _disks(volume)
            plugin = plugin_of(volume)
            if plugin is None:
                continue
            try:
                inline.append(Attachable(plugin.driver, inline_handle(plugin, volume)))
            except Untranslatable as error:
                unnamed = unnamed or f"converting volume({volume.name}) from inline to csi: {error}"
    if not (claims or disks or inline or unnamed):
        return NOTHING_HELD
    return HeldVolumes(tuple(claims), tuple(disks), tuple(inline), unnamed)


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
