"""Datasets of another namespace: who may show which, and what a Dataset that shows another one says.

Pure. A Dataset whose only mount is `dataset://NAMESPACE/NAME[/PATH]` shows that one, or a directory of it: the same
files, cached once, for reading only. Another namespace's is shown, and loaded by DataLoads, only while a DatasetGrant
in the namespace of its owner says so. Invariants: without a grant nobody learns whether a Dataset is there; what is
shown shows nothing else itself, so that a grant reaches no further than it says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from api.conditions import Condition, set_condition
from api.data_v1alpha1 import READY, Dataset, DatasetGrant, DatasetStatus

Key = tuple[str, str]
SCHEME = "dataset://"
NOT_GRANTED = "NotGranted"
_SOURCE = re.compile(r"dataset://([a-z0-9][-a-z0-9]*)/([a-z0-9][-.a-z0-9]*)((?:/[^/]+)*)/?")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a Dataset shows of another one; `path` has no slashes at its ends, "" = all of it."""

    key: Key
    path: str


def shows_another(dataset: Dataset) -> bool:
    """Whether it has a mount that is another Dataset."""
    return any(mount.mount_point.startswith(SCHEME) for mount in dataset.spec.mounts)


def named_by(mounts: Any) -> frozenset[Key]:
    """Return the Datasets that mounts name, as the API server sent them: of any shape."""
    points = (
        [mount.get("mountPoint") for mount in mounts if isinstance(mount, dict)] if isinstance(mounts, list) else []
    )
    found = (_SOURCE.fullmatch(point) for point in points if isinstance(point, str))
    return frozenset((one[1], one[2]) for one in found if one is not None)


def shown(dataset: Dataset) -> Shown:
    """Return what it shows. ValueError says what is wrong with its mounts."""
    if len(dataset.spec.mounts) != 1:
        raise ValueError("a mount that is another Dataset must be the only one; make a Dataset for each of them")
    (mount,) = dataset.spec.mounts
    found = _SOURCE.fullmatch(mount.mount_point)
    parts = found[3].strip("/").split("/") if found is not None and found[3] else []
    if found is None or any(part in (".", "..") for part in parts):
        raise ValueError(
            f"mountPoint {mount.mount_point[:200]!r} must be dataset://NAMESPACE/NAME, or with /PATH behind"
        )
    if dataset.spec.is_writable:
        raise ValueError(
            "another Dataset is shown for reading only; take ReadWriteMany and ReadWriteOnce out of "
            "accessModes, or write to it in its own namespace"
        )
    key = (found[1], found[2])
    if key == (dataset.metadata.namespace, dataset.metadata.name):
        raise ValueError("a Dataset cannot show itself")
    return Shown(key, "/".join(parts))


def is_granted(of: Key, to: str, grants: Iterable[DatasetGrant]) -> bool:
    """Whether a namespace may have a Dataset: its own, or one whose owner grants it."""
    return of[0] == to or any(
        grant.metadata.namespace == of[0] and of[1] in grant.spec.datasets and to in grant.spec.namespaces
        for grant in grants
    )


def refusal(of: Key, to: str) -> str:
    """Return why a namespace may not have a Dataset, and what to do."""
    where = "/".join(of)
    return (
        f"Dataset {where} is not there, or not granted to namespace {to}: its owner makes a DatasetGrant in namespace "
        f"{of[0]} with {of[1]} in spec.datasets and {to} in spec.namespaces"
    )


def refused_status(dataset: Dataset, reason: str, message: str, now_seconds: float) -> DatasetStatus:
    """Return the status of a Dataset that shows nothing (any more): nothing of the other one is left in it."""
    old = dataset.status or DatasetStatus()
    condition = Condition(type=READY, status="False", reason=reason, message=message)
    return DatasetStatus(
        phase="Failed",
        conditions=set_condition(old.conditions, condition, now_seconds),
        observed_generation=dataset.metadata.generation,
    )


def status(dataset: Dataset, of: Dataset, path: str, now_seconds: float) -> DatasetStatus:
    """Return the status of a Dataset that shows `of`: sizes and what is cached are those of all of `of`."""
    old, theirs = dataset.status or DatasetStatus(), of.status or DatasetStatus()
    ready = next((one for one in theirs.conditions if one.type == READY), None)
    what = f"shows {path or 'all'} of Dataset {of.metadata.namespace}/{of.metadata.name}"
    condition = Condition(
        type=READY,
        status=ready.status if ready is not None else "False",
        reason=ready.reason if ready is not None else "Listing",
        message=f"{what}: {ready.message if ready is not None else 'it is not listed yet'}"[:4096],
    )
    return old.model_copy(
        update={
            "phase": theirs.phase,
            "ufs_total": theirs.ufs_total,
            "file_num": theirs.file_num,
            "cache_states": theirs.cache_states,
            "snapshot": theirs.snapshot,
            "conditions": set_condition(old.conditions, condition, now_seconds),
            "observed_generation": dataset.metadata.generation,
        }
    )
