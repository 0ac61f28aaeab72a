"""Claims and volumes, and what they mean for a pod: datasets, node affinity, zones, or a refusal.

Owns PersistentVolumeClaims and PersistentVolumes as last seen. Mirrors kube-scheduler's VolumeBinding and VolumeZone
for bound claims; does not provision or bind claims. Invariant: a claim whose limits we would have to check and do
not (CSI drivers that limit volumes a node, ReadWriteOncePod, WaitForFirstConsumer) refuses the pod.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from api import names
from kube.objects import PersistentVolume, PersistentVolumeClaim
from scheduler.core.data_request import DataRequest
from scheduler.core.selectors import Term, compile_terms

# The volume controller sets it last: until then a claim that names its volume is not bound.
BOUND_ANNOTATION = "pv.kubernetes.io/bind-completed"
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
ZONE_LABELS = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


@dataclass(frozen=True, slots=True)
class ResolvedClaims:
    """What a pod's claims come to. `refusal`: why no node can be chosen now."""

    data: tuple[DataRequest, ...] = ()
    terms: tuple[tuple[Term, ...], ...] = ()
    zones: tuple[tuple[str, frozenset[str]], ...] = ()
    refusal: str | None = None


class VolumeTable:
    """Claims by (namespace, name), volumes by name. One writer. `version` rises with every change."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], PersistentVolumeClaim] = {}
        self._volumes: dict[str, PersistentVolume] = {}
        self._limited: dict[str, frozenset[str]] = {}  # node -> CSI drivers that limit volumes there
        self.version = 0

    def put_claim(self, claim: PersistentVolumeClaim) -> None:
        """Add or update a claim."""
        self._claims[(claim.metadata.namespace, claim.metadata.name)] = claim
        self.version += 1

    def remove_claim(self, namespace: str, name: str) -> None:
        """Forget a claim."""
        self._claims.pop((namespace, name), None)
        self.version += 1

    def put_volume(self, volume: PersistentVolume) -> None:
        """Add or update a volume."""
        self._volumes[volume.metadata.name] = volume
        self.version += 1

    def remove_volume(self, name: str) -> None:
        """Forget a volume."""
        self._volumes.pop(name, None)
        self.version += 1

    def put_limits(self, node: str, limited: frozenset[str]) -> None:
        """Take which CSI drivers limit the volumes of a node; none forgets the node."""
        if limited:
            self._limited[node] = limited
        else:
            self._limited.pop(node, None)
        self.version += 1

    def resolve(self, namespace: str, claims: Sequence[str]) -> ResolvedClaims:
        """Everything a pod's claims ask for; the first thing that stands in the way is the refusal."""
        data: list[DataRequest] = []
        terms: list[tuple[Term, ...]] = []
        zones: list[tuple[str, frozenset[str]]] = []
        refusal = self._unusable(namespace, claims)
        if refusal is not None:
            return ResolvedClaims(refusal=refusal)
        for name in claims:
            claim = self._claims[(namespace, name)]
            volume = self._volumes[claim.spec.volume_name]
            dataset = _dataset(claim, volume)
            if dataset is not None:
                data.append(dataset)
            else:
                refusal = self._unsupported(claim, volume)
                if refusal:
                    return ResolvedClaims(refusal=refusal)
            zones += _zones(volume)
            required = (volume.spec.node_affinity or {}).get("required")
            if required is not None:
                terms.append(compile_terms(required.get("nodeSelectorTerms")))
        return ResolvedClaims(tuple(data), tuple(terms), tuple(zones))

    def _unusable(self, namespace: str, names_asked: Sequence[str]) -> str | None:
        """What stands in the way before any node is looked at, in the order of kube-scheduler's plugins: missing
        claims (VolumeRestrictions), unusable and unbound ones (VolumeBinding), missing volumes (VolumeZone)."""
        found = [(name, self._claims.get((namespace, name))) for name in names_asked]
        claims = [claim for _, claim in found if claim is not None]
        if len(claims) < len(found):
            missing = next(name for name, claim in found if claim is None)
            return f'persistentvolumeclaim "{missing}" not found'
        for claim in claims:
            name = claim.metadata.name
            if claim.status.phase == "Lost":
                volume = claim.spec.volume_name
                return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
            if claim.metadata.deletion_timestamp is not None:
                return f'persistentvolumeclaim "{name}" is being deleted'
        for claim in claims:
            if not claim.spec.volume_name or BOUND_ANNOTATION not in claim.metadata.annotations:
                return _unbound(claim)
        for claim in claims:
            if claim.spec.volume_name not in self._volumes:
                return f'persistentvolume "{claim.spec.volume_name}" not found'
        return None

    def _unsupported(self, claim: PersistentVolumeClaim, volume: PersistentVolume) -> str | None:
        name = claim.metadata.name
        advice = "is not evaluated by this scheduler yet; use schedulerName default-scheduler"
        if "ReadWriteOncePod" in claim.spec.access_modes:
            return f'persistentvolumeclaim "{name}": access mode ReadWriteOncePod {advice}'
        if volume.spec.csi is not None:
            driver = volume.spec.csi.driver
            if any(driver in limited for limited in self._limited.values()):
                return f'persistentvolumeclaim "{name}": the attach limit of CSI driver {driver} {advice}'
        elif not (volume.spec.local or volume.spec.host_path or volume.spec.nfs):
            return f'persistentvolumeclaim "{name}": the kind of its volume {advice}'
        return None


def _zones(volume: PersistentVolume) -> list[tuple[str, frozenset[str]]]:
    """Zones and regions a volume's labels name; several are joined by `__` (component-helpers LabelZonesToSet)."""
    found = []
    for key in ZONE_LABELS:
        text = volume.metadata.labels.get(key)
        if text is None:
            continue
        values = [value.strip() for value in text.split("__")]
        # A set with an empty name cannot be read upstream, and then does not count.
        if all(values):
            found.append((key, frozenset(values)))
    return found


def _unbound(claim: PersistentVolumeClaim) -> str:
    # A claim that names its volume is bound by nobody but the volume controller, whatever its class says.
    if claim.spec.volume_name or claim.spec.storage_class_name in (names.STORAGE_CLASS, "", None):
        return UNBOUND
    return (
        f'persistentvolumeclaim "{claim.metadata.name}" of class {claim.spec.storage_class_name!r} is not bound: '
        "this scheduler does not choose nodes for WaitForFirstConsumer claims yet; bind it first or use "
        "schedulerName default-scheduler"
    )


def _dataset(claim: PersistentVolumeClaim, volume: PersistentVolume) -> DataRequest | None:
    meta = claim.metadata
    csi = volume.spec.csi
    is_ours = csi is not None and csi.driver == names.CSI_DRIVER
    if not is_ours and claim.spec.storage_class_name != names.STORAGE_CLASS:
        return None
    attributes = csi.volume_attributes if csi is not None and is_ours else {}
    name = attributes.get(names.CSI_ATTRIBUTE_DATASET) or meta.labels.get(names.DATASET_LABEL) or meta.name
    return DataRequest(attributes.get(names.CSI_ATTRIBUTE_NAMESPACE) or meta.namespace, name)
