"""What Fluid's controllers read from our standard output: one line of JSON, spelled as they parse it.

Pure. Invariant: a key stands there only when its value is known; Fluid takes a missing one as unknown."""

from __future__ import annotations

import json

from api.data_v1alpha1 import Dataset
from api.gen import metadata_pb2
from cacheruntime.fluid.errors import FluidError


def mounted(dataset: Dataset) -> str:
    """Return mountUFS's answer: the paths as the Dataset of Fluid's has them, for it compares the letters."""
    return json.dumps({"mounted": [mount.path for mount in dataset.spec.mounts]})


def is_mounted(dataset: Dataset, info: metadata_pb2.DatasetInfo) -> bool:
    """Whether its files are listed, so that readers see all of them; FluidError when that failed."""
    if info.syncing:
        return False
    if info.error:
        where = f"Dataset {dataset.metadata.namespace}/{dataset.metadata.name}"
        raise FluidError(f"{where} cannot be listed: {info.error_reason or 'ListingFailed'}: {info.error}")
    return info.snapshot_version > 0


def listing(dataset: Dataset, info: metadata_pb2.DatasetInfo) -> str:
    """Return how far the listing is, as why it is not mounted yet."""
    return (
        f"Dataset {dataset.metadata.namespace}/{dataset.metadata.name} is being listed: {info.listed_files} files, "
        f"{binary_size(info.listed_bytes)} so far; it goes on, ask again"
    )


def summary(info: metadata_pb2.DatasetInfo | None, capacity_bytes: int) -> str:
    """Return reportSummary's answer; `info` None: the dataset is not mounted yet. `capacity_bytes`: of the live workers
    that may keep its blocks.

    `cached` counts distinct verified bytes, copies apart, and `cachedPercentage` is of the dataset, as in every other
    runtime of Fluid's (its guide says of the capacity, which nothing there reads so)."""
    if info is None:
        return json.dumps({})
    found = {"cacheCapacity": binary_size(capacity_bytes)}
    if info.snapshot_version:
        percent = 100.0 * info.cached_bytes / info.bytes if info.bytes else 0.0
        found |= {
            "cached": binary_size(info.cached_bytes),
            "cachedPercentage": f"{percent:.1f}",
            "fileNum": str(info.files),
            "ufsTotal": binary_size(info.bytes),
        }
    if info.HasField("reads"):
        found["cacheHitRatio"] = f"{(info.reads.local_bytes + info.reads.peer_bytes) / 10:.1f}"
    return json.dumps(found)


def binary_size(size_bytes: int) -> str:
    """Return bytes in Fluid's spelling: `0.00B`, `1.50GiB`."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.2f}{unit}"
