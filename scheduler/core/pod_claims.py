"""Looking a pod's claims up: datasets, what its volumes ask of nodes, or why no node can be chosen now.

Owns the order of the checks that kube-scheduler's plugins make before they look at nodes (VolumeRestrictions,
VolumeBinding, VolumeZone). Pure; decides nothing about nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from api import names
from kube.storage_objects import PersistentVolume, PersistentVolumeClaim
from scheduler.core.csi_migration import (
    OLD_REGION_LABEL,
    OLD_ZONE_LABEL,
    REGION_LABEL,
    ZONE_LABEL,
    ZONE_SEPARATOR,
    InTreePlugin,
    NodeSelectorTerms,
    Untranslatable,
    plugin_of,
    required_terms,
    translated_terms,
)
from scheduler.core.data_request import DataRequest
from scheduler.core.pod_request import PodRequest
from scheduler.core.pod_volumes import Attachable, ClaimKey, ClaimUse, MigratedTerms, PodVolumes
from scheduler.core.selectors import Term, compile_terms
from scheduler.core.volume_table import VolumeTable

UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
ZONE_LABELS = (ZONE_LABEL, REGION_LABEL, OLD_ZONE_LABEL, OLD_REGION_LABEL)


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
    if refusal is None and table.has_csi_nodes:
        refusal = pod.held.unnamed
    if refusal is not None:
        return FoundClaims(own, refusal=refusal)
    data: list[DataRequest] = []
    terms: list[tuple[Term, ...]] = []
    migrated: list[MigratedTerms] = []
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
        dataset = _dataset(table, claim, volume)
        if dataset is not None:
            data.append(dataset)
        if not use.is_ephemeral:
            zones += _zones(volume)
        plugin = plugin_of(volume.spec)
        if plugin is not None and table.nodes_that_migrated(plugin.name):
            try:
                migrated.append(_migrated(plugin, volume))
            except Untranslatable as error:
                meta = volume.metadata
                return FoundClaims(own, refusal=f'persistentvolume "{meta.name}": could not translate pv: {error}')
            continue
        required = _compiled(required_terms(volume))
        if required is not None:
            terms.append(required)
    attached = _attached(table, pod, asked)
    return FoundClaims(
        replace(
            own,
            terms=tuple(terms),
            migrated=tuple(migrated),
            zones=tuple(zones),
            is_lost=is_lost,
            unbound=tuple(unbound),
            exclusive=tuple(exclusive),
            attached=attached,
            version=table.version if unbound or attached or migrated else 0,
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


def _migrated(plugin: InTreePlugin, volume: PersistentVolume) -> MigratedTerms:
    """A volume's affinity where the plugin is migrated, and elsewhere (binder.go tryTranslatePVToCSI)."""
    there, elsewhere = translated_terms(plugin, volume), required_terms(volume)
    return MigratedTerms(plugin.name, _compiled(there), _compiled(elsewhere))


def _compiled(terms: NodeSelectorTerms | None) -> tuple[Term, ...] | None:
    return None if terms is None else compile_terms(terms)


def _attached(
    table: VolumeTable, pod: PodRequest, asked: Sequence[tuple[ClaimUse, ClaimKey]]
) -> tuple[Attachable, ...]:
    """Volumes that count against a limit some node has."""
    found = [table.attachable(key) for _, key in asked]
    counted = (volume for volume in (*found, *pod.held.inline) if volume is not None and table.is_limited(volume))
    return tuple(dict.fromkeys(counted))


def _zones(volume: PersistentVolume) -> list[tuple[str, frozenset[str]]]:
    """Zones and regions a volume's labels name; several are joined (component-helpers LabelZonesToSet)."""
    found = []
    for key in ZONE_LABELS:
        text = volume.metadata.labels.get(key)
        if text is None:
            continue
        values = [value.strip() for value in text.split(ZONE_SEPARATOR)]
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
