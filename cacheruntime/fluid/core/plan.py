"""What a runtime config means here: the Dataset, the tiers of a worker, who may keep blocks, where metadata is.

Pure. Invariants: a tier and its temporary room fit into the quota Fluid gave the volume (beyond it the kubelet evicts
the pod); secrets are named by file and never read here; what has no counterpart is refused in one sentence
(FluidError)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from api.data_v1alpha1 import Dataset
from api.dataload_v1alpha1 import DataLoad
from api.gen import metadata_pb2
from api.quantities import to_int
from cacheruntime.core.tiers import HIGH, LOW, MEDIA
from cacheruntime.fluid.core.config import Component, DatasetName, LoadTask, MountConfig, RuntimeConfig, TierLevel
from cacheruntime.fluid.errors import FluidError

TEMPORARY_PERCENT = 10
TEMPORARY_BYTES = 64 << 20
"""Of a tier, on top of its quota: the worker's defaults, which the entry point also hands it."""
FILE_SYSTEM = "fuse.headrace"
"""Type of our mounts, which the CacheRuntimeClass names as its fileSystemType."""
OPTIONS = ("replicas",)
"""Copies of each block the workers keep."""
ORDINALS = 256
"""Names of workers that may keep blocks, at least: scaling out then needs no new mount."""
NATIVE = ("local://", "pvc://")
"""Fluid's own mounts, which it expects nobody to name in `mounted`."""
WRITABLE = {"ReadWriteMany": "ReadWriteMany", "ReadWriteOnce": "ReadWriteOnce", "ReadWriteOncePod": "ReadWriteOnce"}


def dataset_of(config: RuntimeConfig, who: DatasetName, secrets: str) -> Dataset:
    """Return Fluid's Dataset as one of ours; `secrets` is the folder Fluid mounts Secrets in. FluidError."""
    if not config.mounts:
        raise FluidError(f"Dataset {who} has no mounts; give it one in spec.mounts")
    taken: dict[str, int] = {}
    for index, mount in enumerate(config.mounts):
        first = taken.setdefault(mount.ufs_path, index)
        if first != index:
            raise FluidError(
                f"mounts {first} and {index} of Dataset {who} are both at {mount.ufs_path}; give them paths"
            )
    options = _options(config)
    body: dict[str, Any] = {
        "metadata": {"namespace": who.namespace, "name": who.name, "uid": dataset_uid(who)},
        "spec": {
            "mounts": [_mount(mount, index, secrets) for index, mount in enumerate(config.mounts)],
            "accessModes": _access_modes(config.access_modes),
            "cache": {
                "replicas": options.get("replicas", "1"),
                "localCopies": bool(config.client.tiered_store_levels),
            },
        },
    }
    try:
        return Dataset.model_validate(body)
    except ValidationError as error:
        first_error = error.errors()[0]
        place = ".".join(map(str, first_error["loc"]))
        raise FluidError(f"Dataset {who} cannot be served: {place}: {first_error['msg']}") from None


def dataset_uid(who: DatasetName) -> str:
    """Return an identity that every pod of the runtime finds by itself: Fluid tells none of the Dataset's."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"fluid://{who}"))


def name_secrets_as_fluid(request: metadata_pb2.SyncRequest) -> None:
    """Take the namespace off the paths of secrets: Fluid mounts those of one namespace, as <secret>/<key>."""
    for mount in request.mounts:
        # A list: a protobuf map that is changed while it is gone through leaves entries out, now and then.
        for name, path in list(mount.secret_options.items()):
            mount.secret_options[name] = path.removeprefix(f"{request.namespace}/")


def load_of(task: LoadTask, who: DatasetName, run: str, started_at: str) -> DataLoad:
    """Return a DataLoad of Fluid's as one of ours; `run` tells two apart."""
    body = {
        "metadata": {"namespace": who.namespace, "name": who.name, "uid": run},
        "spec": {
            "dataset": {"namespace": who.namespace, "name": who.name},
            "target": [{"path": path, "replicas": copies} for path, copies in task.targets],
            "loadMetadata": task.load_metadata,
        },
        "status": {"startedAt": started_at},
    }
    try:
        return DataLoad.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise FluidError(f"DataLoad of {who}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def keepers(config: RuntimeConfig) -> list[str]:
    """Return the names of the workers that keep blocks: the worker pods, and with a tiered store of their own the
    clients. A client's worker without one only fetches for its readers.

    [] = everybody."""
    if config.client.tiered_store_levels:
        return []
    count = max(config.worker.replicas, ORDINALS)
    return [f"{config.worker.name}-{ordinal}" for ordinal in range(count)]


def metadata_address(config: RuntimeConfig, who: DatasetName, port: int) -> str:
    """Return HOST:PORT of the master's pod; FluidError."""
    master = config.master
    if not master.enabled or not master.name:
        raise FluidError(f"CacheRuntime {who} has no master; it holds the dataset's names, so do not disable it")
    if not master.service.name:
        raise FluidError("the master of the CacheRuntimeClass has no service; give it service: {headless: {}}")
    return f"{master.name}-0.{master.service.name}.{who.namespace}:{port}"


def check_master(config: RuntimeConfig, who: DatasetName) -> None:
    """FluidError when there would be two masters: each would know half of the workers."""
    if config.master.replicas > 1:
        raise FluidError(
            f"CacheRuntime {who} asks for {config.master.replicas} masters; one process owns a dataset's names, "
            "so set spec.master.replicas to 1"
        )


def tier_arguments(component: Component, who: DatasetName, pod: str) -> list[str]:
    """Return `--tier` values for the worker of a pod; [] when it has no tiered store. FluidError.

    Folders are named for the pod: a path of the node may serve several datasets, and two workers of one."""
    found = []
    for number, level in enumerate(component.tiered_store_levels):
        where = f"tieredStore.levels[{number}] of {component.name or 'the component'}"
        found += _level(level, where, f"headrace/{who.namespace}/{pod}")
    return found


def room_of(quota_bytes: int) -> int:
    """Return the quota of a tier that keeps to `quota_bytes` with its temporary room; 0 or less = too small."""
    return min(quota_bytes * 100 // (100 + TEMPORARY_PERCENT), quota_bytes - TEMPORARY_BYTES)


def is_ours(mountinfo: str, path: str) -> bool:
    """Whether what is on top at a path is a mount of ours; `mountinfo` is the text of /proc/self/mountinfo."""
    top = ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        # A space in a path is written as octal, and so on; Fluid's paths are of names of objects and have none.
        if len(words) > 4 and words[4] == path:
            top = rest.split(" ")[0]
    return top == FILE_SYSTEM


def _mount(mount: MountConfig, index: int, secrets: str) -> dict[str, Any]:
    where = f"mounts[{index}].mountPoint {mount.mount_point!r}"
    if mount.mount_point.startswith(NATIVE):
        raise FluidError(
            f"{where} is a mount of Fluid's own, whose bytes never come to a cache; name the store itself, as s3:// or oss://"
        )
    if mount.mount_point.startswith("dataset://"):
        raise FluidError(f"{where} refers to another Dataset, which Fluid serves by its ThinRuntime and not by a cache")
    return {
        "mountPoint": mount.mount_point,
        "name": mount.name or f"mount-{index}",
        "path": mount.ufs_path,
        # As Fluid has it: a secret option goes before a plain one of the same name.
        "options": {name: value for name, value in mount.options.items() if name not in mount.encrypt_options},
        "encryptOptions": [
            {"name": name, "valueFrom": {"secretKeyRef": _secret_of(name, path, index, secrets)}}
            for name, path in sorted(mount.encrypt_options.items())
        ],
        "readOnly": mount.read_only,
        "shared": mount.shared,
    }


def _secret_of(option: str, path: str, index: int, secrets: str) -> dict[str, str]:
    try:
        parts = PurePosixPath(path).relative_to(secrets).parts
    except ValueError:
        parts = ()
    if len(parts) != 2 or ".." in parts:
        raise FluidError(
            f"mounts[{index}].encryptOptions.{option} is no file <secret>/<key> below {secrets}; "
            "only a Secret that Fluid mounted is read"
        )
    return {"name": parts[0], "key": parts[1]}


def _access_modes(modes: Sequence[str]) -> list[str]:
    known = {"ReadOnlyMany": "ReadOnlyMany", **WRITABLE}
    for mode in modes:
        if mode not in known:
            raise FluidError(f"accessModes has {mode!r}; there are {', '.join(known)}")
    return sorted({known[mode] for mode in modes}) or ["ReadOnlyMany"]


def _options(config: RuntimeConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for component in (config.master, config.worker, config.client):
        for name in component.options:
            if name not in OPTIONS:
                raise FluidError(
                    f"{component.name or 'the CacheRuntime'} has the option {name!r}; there are {', '.join(OPTIONS)}, "
                    "all else is set by the component's env (HEADRACE_METADATA_*, HEADRACE_WORKER_*, HEADRACE_FUSE_*)"
                )
    # A runtime's own options are in every component; those of the master are the last word, for they name the dataset.
    for component in (config.client, config.worker, config.master):
        found |= component.options
    return found


def _level(level: TierLevel, where: str, folder: str) -> list[str]:
    if level.medium_type not in MEDIA:
        raise FluidError(f"{where}: the medium {level.medium_type!r} is none of {', '.join(MEDIA)}")
    if not level.mount_paths or len(level.mount_paths) != len(level.quotas):
        raise FluidError(
            f"{where} has {len(level.mount_paths)} paths and {len(level.quotas)} quotas; each path needs one"
        )
    high = _watermark(level.high, HIGH, f"{where}.high")
    low = _watermark(level.low, min(LOW, high), f"{where}.low")
    if low > high:
        raise FluidError(f"{where}: low {low} is above high {high}")
    return [
        f"{level.medium_type}:{path.rstrip('/')}/{folder}:{_room(quota, where)},high={high},low={low}"
        for path, quota in zip(level.mount_paths, level.quotas, strict=True)
    ]


def _room(quota: str, where: str) -> int:
    try:
        room_bytes = room_of(to_int(quota))
    except ValueError as error:
        raise FluidError(f"{where}.quota {quota!r}: {error}") from None
    if room_bytes <= 0:
        raise FluidError(f"{where}.quota is {quota}; it must be above {TEMPORARY_BYTES >> 20}Mi, the room of readers")
    return room_bytes


def _watermark(text: str, default: float, where: str) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise FluidError(f"{where} is {text!r}; it must be a part of the quota like 0.9")
    return value
