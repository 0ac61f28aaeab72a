"""Claims that wait for a node: on which rows each finds a volume, or can have one made.

Owns VolumeBinding's rules for unbound claims (volumebinding/binder.go FindPodVolumes, component-helpers
FindMatchingVolume), over all rows at once. Pure. Invariant: a plan made on the view a row was found feasible on
exists, and promises nothing that is promised to another pod.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from api import quantities
from kube.storage_objects import PersistentVolume, PersistentVolumeClaim, StorageClass
from scheduler.core.cluster_view import ClusterView
from scheduler.core.csi_migration import Untranslatable, plugin_of, required_terms, translated_terms
from scheduler.core.node_masks import any_term, label_mask, selector_mask
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.pod_request import PodRequest
from scheduler.core.pod_volumes import ClaimKey, VolumePlan
from scheduler.core.selectors import Requirement, Term, compile_label_selector, compile_terms
from scheduler.core.volume_table import SELECTED_NODE_ANNOTATION, size_of

NO_PROVISIONER = ("", "kubernetes.io/no-provisioner")


@dataclass(frozen=True, slots=True)
class Match:
    """By row. `is_held`: bound volumes can be used there; `is_found`: unbound claims find or get volumes; `has_room`:
    there is room for those to be made. `chosen`: of each claim that looks for a volume, the volumes and the index of
    the one chosen, -1 for none; `made`: claims that would be made, and where."""

    is_held: BoolArray
    is_found: BoolArray
    has_room: BoolArray
    chosen: list[tuple[ClaimKey, list[PersistentVolume], IntArray]]
    made: list[tuple[ClaimKey, BoolArray]]

    @property
    def mask(self) -> BoolArray:
        """Rows where the pod's volumes can be had."""
        return self.is_held & self.is_found & self.has_room


def held(view: ClusterView, pod: PodRequest) -> BoolArray:
    """Rows where the node affinity of every bound volume holds."""
    mask = np.ones(view.size, dtype=np.bool_)
    for terms in pod.volumes.terms:
        mask &= any_term(view, terms)
    for plugin, there, elsewhere in pod.volumes.migrated:
        is_migrated = rows_of(view, view.volumes.nodes_that_migrated(plugin))
        mask &= np.where(is_migrated, _where(view, there), _where(view, elsewhere))
    return mask


def rows_of(view: ClusterView, nodes: Collection[str]) -> BoolArray:
    """The rows of nodes; those that have none are left out."""
    mask = np.zeros(view.size, dtype=np.bool_)
    mask[[row for node in nodes if (row := view.table.row_of.get(node)) is not None]] = True
    return mask


def _where(view: ClusterView, terms: tuple[Term, ...] | None) -> BoolArray:
    return np.ones(view.size, dtype=np.bool_) if terms is None else any_term(view, terms)


def match(view: ClusterView, pod: PodRequest) -> Match:
    """Where a pod's claims can be met."""
    found = np.ones(view.size, dtype=np.bool_)
    looking: list[ClaimKey] = []
    made: list[tuple[ClaimKey, BoolArray]] = []
    claims = view.volumes.claims
    for key in pod.volumes.unbound:
        claim = claims[key]
        node = view.volume_use.node_for(key) or claim.metadata.annotations.get(SELECTED_NODE_ANNOTATION)
        if node is None:
            looking.append(key)
            continue
        there = np.zeros(view.size, dtype=np.bool_)
        row = view.table.row_of.get(node)
        if row is not None:
            there[row] = True
        found &= there
        made.append((key, there))
    # Elsewhere than on a selected node nothing more is looked at.
    live = found.copy()
    looking.sort(key=lambda key: size_of(claims[key].spec.resources.requests))
    chosen: list[tuple[ClaimKey, list[PersistentVolume], IntArray]] = []
    for key in looking:
        volumes, index = _smallest(view, claims[key], chosen)
        chosen.append((key, volumes, index))
        made.append((key, index < 0))
    has_room = np.ones(view.size, dtype=np.bool_)
    for key, rows in made:
        storage_class = view.volumes.classes[claims[key].class_name]
        here = live & rows
        cannot = here & ~_may_provision(view, storage_class)
        found &= ~cannot
        is_full = here & ~cannot & ~_has_room(view, claims[key], storage_class)
        has_room &= ~is_full
        live &= ~cannot & ~is_full
    return Match(held(view, pod), found, has_room, chosen, made)


def plan(view: ClusterView, pod: PodRequest, row: int) -> VolumePlan | None:
    """What has to be done for a pod's volumes before it is bound to a row where they can be had; None: nothing."""
    if not pod.volumes.unbound:
        return None
    found = match(view, pod)
    bindings = tuple(
        (volumes[index[row]].metadata.name, key) for key, volumes, index in found.chosen if index[row] >= 0
    )
    provisions = tuple(key for key, rows in found.made if rows[row])
    given = (volumes[index[row]] for _, volumes, index in found.chosen if index[row] >= 0)
    conflicts = (_conflict(view, volume, row) for volume in given)
    return VolumePlan(view.names[row], bindings, provisions, next(filter(None, conflicts), None))


def _conflict(view: ClusterView, volume: PersistentVolume, row: int) -> str | None:
    """Why a volume of an in-tree plugin that was found for a claim cannot be used on the row by its CSI driver
    (binder.go checkBindings: upstream, too, looks only then)."""
    plugin, node = plugin_of(volume.spec), view.names[row]
    if plugin is None or node not in view.volumes.nodes_that_migrated(plugin.name):
        return None
    try:
        terms = translated_terms(plugin, volume)
    except Untranslatable as error:
        return f"failed to translate pv to csi: could not translate pv: {error}"
    if terms is None or any_term(view, compile_terms(terms))[row]:
        return None
    return (
        f'pv "{volume.metadata.name}" node affinity doesn\'t match node "{node}", where {plugin.name} is migrated to '
        f"{plugin.driver}: the node's label {plugin.topology_key} decides there"
    )


def _smallest(
    view: ClusterView,
    claim: PersistentVolumeClaim,
    chosen: Sequence[tuple[ClaimKey, list[PersistentVolume], IntArray]],
) -> tuple[list[PersistentVolume], IntArray]:
    """The smallest volume a claim can have on each row, beside those `chosen` there already."""
    volumes = _candidates(view, claim)
    index = np.full(view.size, -1, dtype=np.int64)
    for number, volume in enumerate(volumes):
        usable = _usable(view, volume)
        for _, others, taken in chosen:
            for other, known in enumerate(others):
                if known is volume:
                    usable &= taken != other
        if _is_bound_to(view, volume, claim):
            # A volume that is the claim's already is the only one it can have.
            return volumes, np.where(usable, np.int64(number), np.int64(-1))
        index[usable & (index < 0)] = number
    return volumes, index


def _candidates(view: ClusterView, claim: PersistentVolumeClaim) -> list[PersistentVolume]:
    """Volumes a claim could have somewhere: those that are its own first, then the smallest."""
    asked = claim.spec
    size = size_of(asked.resources.requests)
    selector = compile_label_selector(asked.selector) if asked.selector is not None else None
    own: list[PersistentVolume] = []
    free: list[PersistentVolume] = []
    for volume in view.volumes.of_class(claim.class_name):
        spec = volume.spec
        is_own = _is_bound_to(view, volume, claim)
        if not is_own and (spec.claim_ref is not None or view.volume_use.taken_by(volume.metadata.name) is not None):
            continue
        if (
            size_of(spec.capacity) < size
            or (spec.volume_mode or "Filesystem") != (asked.volume_mode or "Filesystem")
            or (spec.volume_attributes_class_name or "") != (asked.volume_attributes_class_name or "")
            or volume.metadata.deletion_timestamp is not None
        ):
            continue
        if is_own:
            own.append(volume)
        elif (
            volume.status.phase == "Available"
            and (selector is None or selector.matches(volume.metadata.labels))
            and set(asked.access_modes) <= set(spec.access_modes)
        ):
            free.append(volume)
    return own + free


def _is_bound_to(view: ClusterView, volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    meta, reference = claim.metadata, volume.spec.claim_ref
    if reference is None:
        return view.volume_use.taken_by(volume.metadata.name) == (meta.namespace, meta.name)
    is_named = (reference.namespace, reference.name) == (meta.namespace, meta.name)
    return is_named and (not reference.uid or reference.uid == meta.uid)


def _usable(view: ClusterView, volume: PersistentVolume) -> BoolArray:
    # As it is written, also where its plugin is migrated (component-helpers FindMatchingVolume).
    required = required_terms(volume)
    return _where(view, None if required is None else compile_terms(required))


def _may_provision(view: ClusterView, storage_class: StorageClass) -> BoolArray:
    """Rows on which the class's provisioner makes volumes (MatchTopologySelectorTerms)."""
    if storage_class.provisioner in NO_PROVISIONER:
        return np.zeros(view.size, dtype=np.bool_)
    if not storage_class.allowed_topologies:
        return np.ones(view.size, dtype=np.bool_)
    mask = np.zeros(view.size, dtype=np.bool_)
    for term in storage_class.allowed_topologies:
        expressions = term.get("matchLabelExpressions") or ()
        here = np.full(view.size, bool(expressions), dtype=np.bool_)
        for item in expressions:
            values = tuple(item.get("values") or ())
            here &= label_mask(view, Requirement(str(item.get("key", "")), "In", values))
        mask |= here
    return mask


def _has_room(view: ClusterView, claim: PersistentVolumeClaim, storage_class: StorageClass) -> BoolArray:
    """Rows where the driver has room for the claim, if it publishes that (hasEnoughCapacity)."""
    driver = view.volumes.drivers.get(storage_class.provisioner)
    if driver is None or not driver.spec.storage_capacity or "storage" not in claim.spec.resources.requests:
        return np.ones(view.size, dtype=np.bool_)
    size = quantities.to_int(claim.spec.resources.requests["storage"])
    mask = np.zeros(view.size, dtype=np.bool_)
    for room in view.volumes.capacities(storage_class.metadata.name):
        limit = room.maximum_volume_size if room.maximum_volume_size is not None else room.capacity
        if limit is not None and quantities.to_int(limit) >= size:
            mask |= selector_mask(view, compile_label_selector(room.node_topology))
    return mask
