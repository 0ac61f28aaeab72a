"""A Dataset's plan: what metadata is told, what volumes it needs, what its status says.

Pure: takes the object, the nodes and what metadata answered; returns messages and objects. The shell
(`dataset_reconciler.py`) sends them. Invariant: phase is level-triggered, always derived anew from what is known now.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from api import names
from api.conditions import Condition, ConditionStatus, find_condition, set_condition, timestamp
from api.credentials import credential_path
from api.data_v1alpha1 import (
    DELETING,
    MOUNTABLE,
    READY,
    REASON_LISTED,
    REASON_LISTING,
    REASON_VOLUME_NAME_TAKEN,
    REASON_VOLUMES_MADE,
    CacheStates,
    Dataset,
    DatasetStatus,
    Mount,
    Reference,
    SnapshotStatus,
    WriteBackStatus,
)
from api.gen import metadata_pb2
from api.quantities import format_bytes, to_int
from cacheruntime.controller import listings, references
from cacheruntime.controller.node_selector import matches
from cacheruntime.controller.sharing import Shown
from cacheruntime.controller.volume_names import volume_name
from cacheruntime.core.hit_ratio import expected_hit_ratio

PV_CAPACITY_MIN_BYTES = 1 << 30
GROUP_NAME_MAX = 256


def secret_keys(dataset: Dataset) -> set[tuple[str, str]]:
    """Return (secret, key) of every credential the dataset names."""
    spec = dataset.spec
    options = [*spec.shared_encrypt_options, *(one for mount in spec.mounts for one in mount.encrypt_options)]
    return {(one.value_from.secret_key_ref.name, one.value_from.secret_key_ref.key) for one in options}


def eligible_nodes(dataset: Dataset, nodes: Mapping[str, Mapping[str, str]]) -> list[str] | None:
    """Return nodes that may keep its blocks, by name; [] = all, None = it has an affinity and no node matches.

    `nodes` maps node name to labels."""
    affinity = dataset.spec.node_affinity
    if affinity is None or affinity.required is None:
        return []
    selected = sorted(name for name, labels in nodes.items() if matches(affinity.required, name, labels))
    return selected or None


def sync_request(dataset: Dataset, eligible: Sequence[str], *, force: bool = False) -> metadata_pb2.SyncRequest:
    """Return what metadata must know of the dataset; `force`: list it again though it is listed."""
    meta, spec = dataset.metadata, dataset.spec
    return metadata_pb2.SyncRequest(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        mounts=[_mount(dataset, mount, single=len(spec.mounts) == 1) for mount in spec.mounts],
        eligible_nodes=eligible,
        writable=spec.is_writable,
        local_copies=spec.cache.local_copies,
        replicas=spec.cache.replicas,
        force=force,
        leave_failed=True,
        write_back=spec.cache.write_policy == "WriteBack",
        terms=metadata_pb2.CacheTerms(
            priority=spec.cache.priority,
            guaranteed_bytes=to_int(spec.cache.guaranteed or 0),
            maximum_bytes=to_int(spec.cache.maximum or 0),
            origin_bytes_per_second=to_int(spec.cache.origin_rate_limit or 0),
            pinned=sorted({path.strip("/") for path in spec.cache.pinned}),
        ),
    )


def paths_to_evict(dataset: Dataset) -> list[str] | None:
    """Return what its annotation asks to drop from the cache; [""] = everything, None = it asks for nothing. ValueError
    says what is wrong with it."""
    text = dataset.metadata.annotations.get(names.DATASET_EVICT_ANNOTATION)
    if text is None:
        return None
    try:
        paths = json.loads(text)
    except json.JSONDecodeError:
        paths = None
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        what = f"the annotation {names.DATASET_EVICT_ANNOTATION} is {text[:100]!r}"
        raise ValueError(f'{what}; it must be a JSON list of paths like ["train"]')
    return [path.strip("/") for path in paths]


def _mount(dataset: Dataset, mount: Mount, *, single: bool) -> metadata_pb2.Mount:
    spec, namespace = dataset.spec, dataset.metadata.namespace
    secret_options = {
        one.name: credential_path(namespace, one.value_from.secret_key_ref.name, one.value_from.secret_key_ref.key)
        for one in [*spec.shared_encrypt_options, *mount.encrypt_options]
    }
    # Fluid: the default is /{name}; a dataset with one mount at "/" shows it at its root.
    path = f"/{mount.name}" if mount.path is None else mount.path
    if mount.path is None and single:
        path = "/"
    return metadata_pb2.Mount(
        mount_point=mount.mount_point,
        name=mount.name,
        path=path.strip("/"),
        options={**spec.shared_options, **mount.options},
        secret_options=secret_options,
        read_only=mount.read_only or not spec.is_writable,
    )


def failed_status(dataset: Dataset, reason: str, message: str, now_seconds: float) -> DatasetStatus:
    """Return the status of a dataset that cannot be synced now; what was known stays."""
    old = dataset.status or DatasetStatus()
    condition = Condition(type=READY, status="False", reason=reason, message=message)
    return old.model_copy(
        update={
            "phase": "Failed",
            "conditions": set_condition(old.conditions, condition, now_seconds),
            "observed_generation": dataset.metadata.generation,
        }
    )


def is_forced(dataset: Dataset) -> bool:
    """Whether its deletion does not wait for its users."""
    return dataset.metadata.annotations.get(names.FORCE_DELETE_ANNOTATION) == "true"


def deleting_status(
    dataset: Dataset, reason: str, message: str, now_seconds: float, users: Sequence[Reference] | None = None
) -> DatasetStatus:
    """Return the status of a dataset that was deleted and is still there. `users` None: not known now."""
    old = dataset.status or DatasetStatus()
    condition = Condition(type=DELETING, status="True", reason=reason, message=message)
    return old.model_copy(
        update={
            "references": old.references if users is None else references.kept(users),
            "conditions": set_condition(old.conditions, condition, now_seconds),
        }
    )


def mountable_status(dataset: Dataset, taken: str | None, now_seconds: float) -> DatasetStatus | None:
    """Return the status that says whether it has its volumes; None when there is nothing new to say. `taken`: what is
    in their place."""
    old = dataset.status or DatasetStatus()
    if taken is None and find_condition(old.conditions, MOUNTABLE) is None:
        return None
    condition = Condition(type=MOUNTABLE, status="True", reason=REASON_VOLUMES_MADE)
    if taken is not None:
        message = f"{taken} is in the place of this Dataset's; when it is gone, this one is made"
        condition = Condition(type=MOUNTABLE, status="False", reason=REASON_VOLUME_NAME_TAKEN, message=message)
    return old.model_copy(update={"conditions": set_condition(old.conditions, condition, now_seconds)})


def in_use(users: Sequence[Reference]) -> str:
    """Return why a dataset that was deleted is kept, and what to do."""
    way = f'to take it away from them, set its annotation {names.FORCE_DELETE_ANNOTATION} to "true"'
    return f"used by {references.shown(users)}; it goes when they have ended. Or {way}"


def _groups(info: metadata_pb2.DatasetInfo) -> dict[str, int] | None:
    """Sizes by top-level directory; a name too long for the status leaves them all out, as a part would mislead."""
    if not info.groups or any(len(name) > GROUP_NAME_MAX for name in info.groups):
        return None
    return dict(sorted(info.groups.items()))


def status(
    dataset: Dataset,
    info: metadata_pb2.DatasetInfo,
    listing: listings.Listing,
    capacity_bytes: int,
    now_seconds: float,
    *,
    users: Sequence[Reference] | None = None,
) -> DatasetStatus:
    """Return the status that metadata's answer amounts to. `listing` is the next one; `capacity_bytes`: of all live
    workers; `users` None: not known now."""
    old = dataset.status or DatasetStatus()
    conditions = set_condition(old.conditions, _ready(info), now_seconds)
    synced = listings.condition(info)
    if synced is not None:
        conditions = set_condition(conditions, synced, now_seconds)
    has_snapshot = info.snapshot_version > 0
    total = info.bytes if has_snapshot else info.listed_bytes
    files = info.files if has_snapshot else info.listed_files
    percent = 100.0 * info.cached_bytes / info.bytes if info.bytes else 0.0
    return old.model_copy(
        update={
            "phase": _phase(info),
            "ufs_total": format_bytes(total),
            "file_num": str(files),
            "cache_states": CacheStates(
                cached=format_bytes(info.cached_bytes),
                cached_percentage=f"{percent:.1f}%",
                cached_copies=format_bytes(info.cached_copy_bytes),
                cache_capacity=format_bytes(capacity_bytes),
                expected_hit_ratio=f"{100 * expected_hit_ratio(info.cached_bytes, info.bytes):.1f}%",
                **_measured(info),
            ),
            "snapshot": SnapshotStatus(
                version=info.snapshot_version,
                files=info.files,
                bytes=info.bytes,
                synced_at=timestamp(info.synced_at_ns / 1e9),
                groups=_groups(info),
            )
            if has_snapshot
            else None,
            "metadata_sync": listings.sync_status(info, listing),
            "write_back": WriteBackStatus(files=info.held_files, bytes=info.held_bytes) if info.held_files else None,
            "references": old.references if users is None else references.kept(users),
            "conditions": conditions,
            "observed_generation": dataset.metadata.generation,
        }
    )


def _measured(info: metadata_pb2.DatasetInfo) -> dict[str, str]:
    """Hit ratios of the last reads; {} = there were none."""
    if not info.HasField("reads"):
        return {}
    local, remote = info.reads.local_bytes, info.reads.peer_bytes
    found = {"cache_hit_ratio": local + remote, "local_hit_ratio": local, "remote_hit_ratio": remote}
    return {name: f"{per_mille / 10:.1f}%" for name, per_mille in found.items()}


def _phase(info: metadata_pb2.DatasetInfo) -> str:
    if info.snapshot_version > 0:
        return "Updating" if info.syncing else "Bound"
    if info.error:
        return "Failed"
    return "NotBound" if info.syncing else "Pending"


def _ready(info: metadata_pb2.DatasetInfo) -> Condition:
    if info.error:
        kept = f"; snapshot {info.snapshot_version} stays in use" if info.snapshot_version else ""
        reason = info.error_reason or "ListingFailed"
        state: ConditionStatus = "True" if info.snapshot_version else "False"
        return Condition(type=READY, status=state, reason=reason, message=f"{info.error}{kept}")
    if info.snapshot_version == 0:
        message = f"listed {info.listed_files} files, {format_bytes(info.listed_bytes)} so far"
        return Condition(type=READY, status="False", reason=REASON_LISTING, message=message)
    message = f"snapshot {info.snapshot_version}: {info.files} files, {format_bytes(info.bytes)}"
    return Condition(type=READY, status="True", reason=REASON_LISTED, message=message)


def volumes(dataset: Dataset, shown: Shown | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the PV and PVC through which pods mount the dataset; the PVC has the dataset's name. `shown`: what it
    shows of another Dataset."""
    meta, spec = dataset.metadata, dataset.spec
    size = max(
        dataset.status.snapshot.bytes if dataset.status and dataset.status.snapshot else 0, PV_CAPACITY_MIN_BYTES
    )
    # The label is for who does not look at the PV: there the claim's own namespace has the dataset.
    labels = {names.DATASET_LABEL: meta.name} if len(meta.name) <= 63 and shown is None else {}
    namespace, name = (meta.namespace, meta.name) if shown is None else shown.key
    attributes = {names.CSI_ATTRIBUTE_DATASET: name, names.CSI_ATTRIBUTE_NAMESPACE: namespace}
    if shown is not None and shown.path:
        attributes[names.CSI_ATTRIBUTE_SUB_PATH] = shown.path
    capacity, pv_name = {"storage": str(size)}, volume_name(meta.namespace, meta.name)
    # Kubelet mounts a volume in the first of its modes, so one for reading only must not stand before one for writing.
    access_modes = sorted(spec.access_modes, key=lambda mode: mode == "ReadOnlyMany")
    pv = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": pv_name, "labels": labels},
        "spec": {
            "capacity": capacity,
            "accessModes": access_modes,
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": names.STORAGE_CLASS,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta.namespace,
                "name": meta.name,
            },
            "csi": {
                "driver": names.CSI_DRIVER,
                "volumeHandle": meta.uid,
                "volumeAttributes": attributes,
                **({} if shown is None else {"readOnly": True}),
            },
        },
    }
    pvc = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": f"{names.DATA_GROUP}/{names.API_VERSION}",
                    "kind": "Dataset",
                    "name": meta.name,
                    "uid": meta.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {
            "accessModes": access_modes,
            "resources": {"requests": capacity},
            "storageClassName": names.STORAGE_CLASS,
            "volumeName": pv_name,
        },
    }
    return pv, pvc
