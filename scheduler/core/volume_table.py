"""Claims and volumes, and what they mean for a pod: datasets, node affinity, or a refusal.

Owns PersistentVolumeClaims and PersistentVolumes as last seen. Mirrors kube-scheduler's VolumeBinding for
bound claims; does not provision or bind claims. Invariant: a claim whose limits we would have to check and do
not (attach limits of other CSI drivers, zones, ReadWriteOncePod, WaitForFirstConsumer) refuses the pod.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from api import names
from kube.objects import PersistentVolume, PersistentVolumeClaim
from scheduler.core.data_request import DataRequest
from scheduler.core.selectors import Term, compile_terms

UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
MISSING_VOLUME = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
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
    refusal: str | None = None


class VolumeTable:
    """Claims by (namespace, name), volumes by name. One writer. `version` rises with every change."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], PersistentVolumeClaim] = {}
        self._volumes: dict[str, PersistentVolume] = {}
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

    def resolve(self, namespace: str, claims: Sequence[str]) -> ResolvedClaims:
        """Everything a pod's claims ask for; the first thing that stands in the way is the refusal."""
        data: list[DataRequest] = []
        terms: list[tuple[Term, ...]] = []
        for name in claims:
            claim = self._claims.get((namespace, name))
            if claim is None:
                return ResolvedClaims(refusal=f'persistentvolumeclaim "{name}" not found')
            if claim.metadata.deletion_timestamp is not None:
                return ResolvedClaims(refusal=f'persistentvolumeclaim "{name}" is being deleted')
            if not claim.spec.volume_name:
                return ResolvedClaims(refusal=_unbound(claim))
            volume = self._volumes.get(claim.spec.volume_name)
            if volume is None:
                return ResolvedClaims(refusal=MISSING_VOLUME)
            dataset = _dataset(claim, volume)
            if dataset is not None:
                data.append(dataset)
            else:
                refusal = _unsupported(claim, volume)
                if refusal:
                    return ResolvedClaims(refusal=refusal)
            required = (volume.spec.node_affinity or {}).get("required")
            if required is not None:
                terms.append(compile_terms(required.get("nodeSelectorTerms")))
        return ResolvedClaims(tuple(data), tuple(terms))


def _unbound(claim: PersistentVolumeClaim) -> str:
    if claim.spec.storage_class_name in (names.STORAGE_CLASS, "", None):
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


def _unsupported(claim: PersistentVolumeClaim, volume: PersistentVolume) -> str | None:
    name = claim.metadata.name
    advice = "is not evaluated by this scheduler yet; use schedulerName default-scheduler"
    if "ReadWriteOncePod" in claim.spec.access_modes:
        return f'persistentvolumeclaim "{name}": access mode ReadWriteOncePod {advice}'
    for label in ZONE_LABELS:
        if label in volume.metadata.labels:
            return f'persistentvolumeclaim "{name}": label {label} of its volume {advice}'
    if volume.spec.csi is not None:
        return f'persistentvolumeclaim "{name}": the attach limit of CSI driver {volume.spec.csi.driver} {advice}'
    if not (volume.spec.local or volume.spec.host_path or volume.spec.nfs):
        return f'persistentvolumeclaim "{name}": the kind of its volume {advice}'
    return None
