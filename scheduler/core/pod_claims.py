"""Looking a pod's claims up: datasets, what its volumes ask of nodes, or why no node can be chosen now.

Owns the order of the checks that kube-scheduler's plugins make before they look at nodes (VolumeRestrictions,
VolumeBinding, VolumeZone). Pure; decides nothing about nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from api import names
from kube.storage_objects import PersistentVolume, PersistentVolumeClaim
from scheduler.core.data_request import DataRequest
from scheduler.core.pod_request import PodRequest
from scheduler.core.pod_volumes import CSI_NAMES, Attachable, ClaimKey, ClaimUse, PodVolumes, in_tree_plugin
from scheduler.core.selectors import Term, compile_terms
from scheduler.core.volume_table import VolumeTable

UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
ZONE_LABELS = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


@dataclass(frozen=True, slots=True)
class FoundClaims:
    """What a pod's claims come to. `refusal`: why no node can be chosen now."""

    volumes: PodVolumes
    data: tuple[DataRequest, ...] = ()
    refusal: str | None = None


def find_claims(table: VolumeTable, pod: PodRequest) -> FoundClaims:
    """Look up everything a pod's volumes ask for; the first thing that stands in the way is the refusal."""
    asked = [(use, (pod.namespace, use.name)) for use in pod.held.claims]
    own = PodVolumes(disks=pod.held.disks)
    refusal = _unusable(table, pod, asked)
    if refusal is not None:
        return FoundClaims(own, refusal=refusal)
    data: list[DataRequest] = []
    terms: list[tuple[Term, ...]] = []
    zones: list[tuple[str, frozenset[str]]] = []
    exclusive: list[ClaimKey] = []
    unbound: list[ClaimKey] = []
    is_lost = False
    for use, key in asked:
        claim = table.claims[key]
        if "ReadWriteOncePod" in claim.spec.access_modes and not use.is_ephemeral:
            exclusive.append(key)
        if not table.is_bound(claim):
            unbound.append(key)
            continue
        volume = table.volumes.get(claim.spec.volume_name)
        if volume is None:
            is_lost = True
        if volume is None or is_lost:
            continue  # VolumeBinding stops at the first volume that does not exist
        refusal = _untranslatable(table, claim, volume)
        if refusal is not None:
            return FoundClaims(own, refusal=refusal)
        dataset = _dataset(table, claim, volume)
        if dataset is not None:
            data.append(dataset)
        if not use.is_ephemeral:
            zones += _zones(volume)
        required = (volume.spec.node_affinity or {}).get("required")
        if required is not None:
            terms.append(compile_terms(required.get("nodeSelectorTerms")))
    attached = _attached(table, pod, asked)
    return FoundClaims(
        replace(
            own,
            terms=tuple(terms),
            zones=tuple(zones),
            is_lost=is_lost,
            unbound=tuple(unbound),
            exclusive=tuple(exclusive),
            attached=attached,
            version=table.version if unbound or attached else 0,
        ),
        tuple(data),
    )


def _unusable(table: VolumeTable, pod: PodRequest, asked: Sequence[tuple[ClaimUse, ClaimKey]]) -> str | None:
    """What stands in the way before any node is looked at, in the order of kube-scheduler's plugins: missing
    claims (VolumeRestrictions), unusable and unbound ones (VolumeBinding), missing volumes (VolumeZone)."""
    for use, key in asked:
        if key not in table.claims and not use.is_ephemeral:
            return f'persistentvolumeclaim "{use.name}" not found'
    for use, key in asked:
        claim = table.claims.get(key)
        if claim is None:
            return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{use.name}"'
        if claim.status.phase == "Lost":
            volume = claim.spec.volume_name
            return f'persistentvolumeclaim "{use.name}" bound to non-existent persistentvolume "{volume}"'
        if claim.metadata.deletion_timestamp is not None:
            return f'persistentvolumeclaim "{use.name}" is being deleted'
        if use.is_ephemeral and not _is_made_for(claim, pod):
            return f"PVC {key[0]}/{key[1]} was not created for pod {pod.namespace}/{pod.name} (pod is not owner)"
    for _, key in asked:
        claim = table.claims[key]
        if not table.is_bound(claim) and not table.waits_for_node(claim):
            return UNBOUND
    for use, key in asked:
        name = table.claims[key].spec.volume_name
        if name and name not in table.volumes and not use.is_ephemeral:
            return f'persistentvolume "{name}" not found'
    return None


def _is_made_for(claim: PersistentVolumeClaim, pod: PodRequest) -> bool:
    return any(owner.controller and owner.uid == pod.uid for owner in claim.metadata.owner_references)


def _untranslatable(table: VolumeTable, claim: PersistentVolumeClaim, volume: PersistentVolume) -> str | None:
    """A volume of an in-tree plugin has another node affinity where the plugin is migrated; we do not rewrite it."""
    plugin = in_tree_plugin(volume.spec)
    if plugin is None or not table.is_migrated(plugin):
        return None
    return (
        f'persistentvolumeclaim "{claim.metadata.name}": its volume of the in-tree plugin {plugin}, migrated to '
        f"{CSI_NAMES[plugin]}, is not evaluated by this scheduler; use schedulerName default-scheduler"
    )


def _attached(
    table: VolumeTable, pod: PodRequest, asked: Sequence[tuple[ClaimUse, ClaimKey]]
) -> tuple[Attachable, ...]:
    """Volumes that count against a limit some node has."""
    found = [table.attachable(key) for _, key in asked]
    counted = (volume for volume in (*found, *pod.held.inline) if volume is not None and table.is_limited(volume))
    return tuple(dict.fromkeys(counted))


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


def _dataset(table: VolumeTable, claim: PersistentVolumeClaim, volume: PersistentVolume) -> DataRequest | None:
    meta = claim.metadata
    csi = volume.spec.csi
    if table.reads_fluid and csi is not None and csi.driver == names.FLUID_CSI_DRIVER:
        given = csi.volume_attributes
        return DataRequest(
            given.get(names.FLUID_CSI_ATTRIBUTE_NAMESPACE) or meta.namespace,
            given.get(names.FLUID_CSI_ATTRIBUTE_NAME) or meta.name,
        )
    is_ours = csi is not None and csi.driver == names.CSI_DRIVER
    if not is_ours and claim.spec.storage_class_name != names.STORAGE_CLASS:
        return None
    attributes = csi.volume_attributes if csi is not None and is_ours else {}
    name = attributes.get(names.CSI_ATTRIBUTE_DATASET) or meta.labels.get(names.DATASET_LABEL) or meta.name
    return DataRequest(attributes.get(names.CSI_ATTRIBUTE_NAMESPACE) or meta.namespace, name)
