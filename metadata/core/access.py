"""Who may call what, and who may have a token for which dataset.

Owns both tables (docs/SECURITY.md explains them). What is not in a table is refused. Pure.
"""

from typing import Final

from api.trust.identity import Identity, Role
from metadata.core.datasets import Dataset
from metadata.errors import Forbidden

_CONTROLLERS: Final = frozenset({Role.CACHE_CONTROLLER, Role.JOB_CONTROLLER})
_READERS: Final = _CONTROLLERS | {Role.NODE, Role.WORKER}
_WORKERS: Final = frozenset({Role.WORKER})

CALLERS: Final[dict[str, frozenset[Role]]] = {
    "NamespaceService.Sync": frozenset({Role.CACHE_CONTROLLER}),
    "NamespaceService.RemoveDataset": frozenset({Role.CACHE_CONTROLLER}),
    "NamespaceService.GetDataset": _READERS,
    "NamespaceService.ListDatasets": _READERS,
    "NamespaceService.Lookup": _READERS,
    "NamespaceService.ReadDirectory": _READERS,
    "NamespaceService.Manifest": _READERS,
    "NamespaceService.WatchDatasets": _READERS,
    # By the worker that made them durable in the under store.
    "NamespaceService.PutFile": _WORKERS,
    "NamespaceService.MakeDirectory": _WORKERS,
    "NamespaceService.Remove": _WORKERS,
    "NamespaceService.Rename": _WORKERS,
    "NamespaceService.SetMode": _WORKERS,
    "NamespaceService.ListLeft": _WORKERS,
    "NamespaceService.ForgetLeft": _WORKERS,
    "HeldService.PutHeld": _WORKERS,
    "HeldService.TakeTurn": _WORKERS,
    "HeldService.EndTurn": _WORKERS,
    "HeldService.ClaimHeld": _WORKERS,
    "HeldService.FinishHeld": _WORKERS,
    "HeldService.FindHeld": _WORKERS,
    "HeldService.ForgetHeld": _WORKERS,
    "ResidencyService.Register": _WORKERS,
    "ResidencyService.Report": _WORKERS,
    "ResidencyService.ListWorkers": _CONTROLLERS | _WORKERS,
    "ResidencyService.ByNode": _CONTROLLERS,
    "ResidencyService.Locate": _CONTROLLERS,
    "FenceService.Raise": frozenset({Role.JOB_CONTROLLER}),
    # By who mounts for the node's pods, or runs them, and sees them end.
    "FenceService.Lift": frozenset({Role.NODE}),
    "FenceService.List": _CONTROLLERS | {Role.NODE},
    "CheckpointService.List": _CONTROLLERS,
    "TrustService.IssueToken": _READERS,
    "TrustService.TokenKeys": _WORKERS,
}
"""Roles by method; an administrator may call every one of them."""
_ABOUT_ITSELF: Final = frozenset(
    {
        "ResidencyService.Register",
        "ResidencyService.Report",
        "HeldService.TakeTurn",
        "HeldService.ClaimHeld",
        "HeldService.ForgetHeld",
        "NamespaceService.ListLeft",
        "FenceService.Lift",
    }
)


def check(method: str, caller: Identity, node: str) -> None:
    """Forbidden unless the caller may call the method; `node` is the request's field of that name, if it has one."""
    allowed = CALLERS.get(method, frozenset())
    if caller.role not in allowed and not (caller.role is Role.ADMIN and method in CALLERS):
        who = ", ".join(sorted(allowed)) or "nobody"
        raise Forbidden(f"{caller} may not call {method.partition('.')[2]}; that is for: {who}.")
    if method in _ABOUT_ITSELF and caller.role in (Role.WORKER, Role.NODE) and node != caller.name:
        raise Forbidden(f"node is {node[:300]!r}, and {caller} may tell of itself only.")


def check_token(caller: Identity, audience: Identity, dataset: Dataset, *, write: bool) -> None:
    """Forbidden unless the caller may have a token of that audience for the dataset.

    A node's readers are served by its own worker only, which takes tokens of its own node's audience. A worker needs
    one to ask a peer for blocks, also of datasets whose blocks it may not keep: its readers may read them. Loads and
    eviction read, removing a checkpoint writes."""
    if audience != caller and caller.role is not Role.ADMIN:
        raise Forbidden(f"audience is {audience}, and {caller} may have tokens for itself only.")
    match audience.role:
        case Role.WORKER | Role.CACHE_CONTROLLER:
            if write:
                raise Forbidden(f"{audience} may not write {dataset.label}: it copies, loads and evicts blocks.")
        case Role.NODE | Role.JOB_CONTROLLER | Role.ADMIN:
            pass
        case _:
            raise Forbidden(f"{audience} has no use for tokens.")
    if write and not dataset.specification.writable:
        raise Forbidden(f"{dataset.label} is read-only; its accessModes must have ReadWriteMany to be written.")
