"""Fluid's Dataset, DataLoad and runtimes (data.fluid.io/v1alpha1) as ours.

Owns the mapping of their fields (reference: fluid api/v1alpha1). A runtime belongs to one Dataset there, and is a pool
for many here: it keeps its name, and its Dataset names it."""

from __future__ import annotations

from collections.abc import Collection

from api import names
from api.quantities import to_int
from headrace.convert.fields import Body, Fields

FLUID = "data.fluid.io"
RUNTIMES = ("AlluxioRuntime", "GooseFSRuntime", "JindoRuntime", "JuiceFSRuntime", "EFCRuntime", "VineyardRuntime")
SCHEMES = ("dataset", "file", "hdfs", "http", "https", "oss", "s3", "webhdfs")


def convert_dataset(name: str, source: Fields, runtimes: Collection[str]) -> Body:
    """The Dataset's spec; `runtimes`: names of runtimes that are converted along with it."""
    spec: Body = {"mounts": [_mount(mount, index) for index, mount in enumerate(source.parts("mounts"))]}
    source.copy(spec, "sharedOptions", "sharedEncryptOptions", "accessModes", "nodeAffinity", "tolerations")
    if name in runtimes:
        spec["runtime"] = name
    else:
        source.note("no runtime of this name is in the file: it uses the CacheRuntime named default")
    source.copy(spec, "placement")
    if spec.get("placement") == "Exclusive":
        source.note("placement Exclusive has no effect: a pool of workers serves many datasets")
    source.take("runtimes")
    source.finish()
    return spec


def _mount(source: Fields, index: int) -> Body:
    found: Body = {}
    point = str(source.take("mountPoint", ""))
    scheme, separator, rest = point.partition("://")
    if separator and scheme == "local":
        point = f"file://{rest}"
    elif scheme == "pvc":
        source.note(
            f"mountPoint {point!r} has no counterpart: pods of another namespace cannot mount a claim; write the "
            "URL of the store behind it, or file:// of where its file system is mounted for metadata and all workers"
        )
    elif not separator or scheme not in SCHEMES:
        source.note(f"mountPoint {point!r} has no counterpart; write a URL of {', '.join(SCHEMES)}")
    found["mountPoint"] = point
    found["name"] = source.take("name") or f"mount-{index}"
    source.copy(found, "path", "options", "encryptOptions", "readOnly", "shared")
    source.finish()
    return found


def convert_load(source: Fields) -> Body:
    """The DataLoad's spec."""
    spec: Body = {}
    source.copy(spec, "dataset", "loadMetadata", "policy", "schedule", "ttlSecondsAfterFinished")
    first = source.part("runAfter")
    first.take("apiVersion")
    if first.take("kind", "DataLoad") == "DataLoad":
        named: Body = {}
        first.copy(named, "name", "namespace")
        if named:
            spec["runAfter"] = {"kind": "DataLoad", **named}
    else:
        first.note("only DataLoads can come first; start this one when the other has ended")
    first.finish()
    targets = []
    for target in source.parts("target"):
        found: Body = {}
        target.copy(found, "path", "replicas")
        target.finish()
        targets.append(found)
    if targets:
        spec["target"] = targets
    source.finish()
    return spec


def convert_runtime(source: Fields) -> Body:
    """The CacheRuntime's spec."""
    spec: Body = {}
    source.copy(spec, "replicas")
    store = source.part("tieredstore")
    levels = [level for part in store.parts("levels") for level in _levels(part)]
    store.finish()
    if levels:
        spec["tieredstore"] = {"levels": levels}
    worker, fuse = source.part("worker"), source.part("fuse")
    found: Body = {}
    worker.copy(found, "resources", "tolerations")
    metadata: Body = {}
    pods = worker.part("podMetadata")
    pods.copy(metadata, "labels", "annotations")
    pods.finish()
    if metadata:
        found["podMetadata"] = metadata
    selector = worker.take("nodeSelector")
    if selector:
        spec["nodeSelector"] = selector
    worker.finish()
    if found:
        spec["worker"] = found
    if levels or found:
        source.note(
            f"tieredstore and worker have an effect on nodes with the label {names.POOL_LABEL}: NAMESPACE.NAME of this "
            "CacheRuntime only"
        )
    policy = fuse.take("cleanPolicy", "OnDemand")
    if policy != "OnDemand":
        fuse.note(f"cleanPolicy {policy} was left out: a node's client ends with its last pod")
    fuse.finish()
    source.finish()
    return spec


def _levels(source: Fields) -> list[Body]:
    """One level a path: there several paths share one entry."""
    paths = [path.strip() for path in str(source.take("path", "")).split(",") if path.strip()]
    quotas = [quota.strip() for quota in str(source.take("quotaList", "")).split(",") if quota.strip()]
    quota = source.take("quota")
    if not quotas and quota is not None:
        # They divide a single quota among the paths.
        quotas = [str(quota)] if len(paths) == 1 else _shares(source, str(quota), len(paths))
    common: Body = {"mediumtype": source.take("mediumtype", "SSD")}
    source.copy(common, "high", "low")
    if source.take("volumeType", "hostPath") != "hostPath":
        source.note("volumeType was left out: levels are folders of the node")
    if len(quotas) != len(paths):
        source.note(f"{len(paths)} paths and {len(quotas)} quotas do not match; the level was left out")
        paths = []
    source.finish()
    return [{**common, "path": path, "quota": quota} for path, quota in zip(paths, quotas, strict=False)]


def _shares(source: Fields, quota: str, paths: int) -> list[str]:
    try:
        return [str(to_int(quota) // max(1, paths))] * paths
    except ValueError as error:
        source.note(str(error))
        return []
