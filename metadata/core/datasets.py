"""A dataset's record: what it is made of, and the state of its newest snapshot.

Owns checking what a Sync says, and deciding whether it needs a listing. Invariants: mount paths are distinct;
`version` only grows; a failed listing changes `error`, its count and its times, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from metadata.core import paths
from metadata.core.fences import Fence
from metadata.core.held import NOTHING_HELD, HeldTally
from metadata.errors import InvalidRequest, Precondition, Unavailable

MOUNTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Mount:
    """One under store and where it shows; `secret_options` maps option names to files, never values."""

    mount_point: str
    path: str = ""
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)
    secret_options: dict[str, str] = field(default_factory=dict)
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class CacheTerms:
    """What the dataset may have of the cache beside others; bytes of all workers together, no maximum = 0."""

    priority: int = 0
    guaranteed_bytes: int = 0
    maximum_bytes: int = 0
    pinned: tuple[str, ...] = ()
    origin_bytes_per_second: int = 0


EVERY_NODE = ("*",)


@dataclass(frozen=True, slots=True)
class Specification:
    """What the dataset's owner asks for."""

    uid: str
    namespace: str
    name: str
    mounts: tuple[Mount, ...]
    eligible_nodes: tuple[str, ...] = ()
    writable: bool = False
    local_copies: bool = False
    replicas: int = 1
    terms: CacheTerms = CacheTerms()
    write_back: bool = False
    """A commit returns once two workers hold the file; the upload follows."""
    former_nodes: tuple[str, ...] = ()
    """`eligible_nodes` before they changed last, `EVERY_NODE` for all; what was cached there may be there still."""


@dataclass(frozen=True, slots=True)
class LastListing:
    """How the listings went so far; times in ns since 1970, 0 = there was none."""

    began_at_ns: int = 0
    ended_at_ns: int = 0
    failures: int = 0
    """Listings in a row that failed, up to the last one; 0 = that one went well."""
    good_began_at_ns: int = 0
    """Beginning of the last one that went well: the snapshot has all that the under store had then."""
    added: int = 0
    changed: int = 0
    removed: int = 0
    """Files that differed from the snapshot before, in the last one that went well."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The record; `id` is the store's own number, 0 before it is stored."""

    specification: Specification
    id: int = 0
    version: int = 0
    files: int = 0
    bytes: int = 0
    synced_at_ns: int = 0
    error: str = ""
    error_reason: str = ""
    listed_mounts: tuple[Mount, ...] = ()
    """The mounts the newest snapshot was listed from."""
    listing: LastListing = LastListing()
    held: HeldTally = NOTHING_HELD
    """Files that two workers hold and the under store does not have yet."""
    fences: tuple[Fence, ...] = ()
    """Who may not change what."""

    @property
    def uid(self) -> str:
        """The Kubernetes UID of the Dataset."""
        return self.specification.uid

    @property
    def label(self) -> str:
        """`namespace/name`, for messages."""
        return f"{self.specification.namespace}/{self.specification.name}"


def check(specification: Specification) -> Specification:
    """Return the specification, or raise InvalidRequest naming the field."""
    for field_name in ("uid", "namespace", "name"):
        if not getattr(specification, field_name):
            raise InvalidRequest(f"{field_name} is empty; a dataset has a uid, a namespace and a name.")
    if not 1 <= len(specification.mounts) <= MOUNTS_MAX:
        raise InvalidRequest(f"mounts has {len(specification.mounts)} entries; a dataset has 1 to {MOUNTS_MAX}.")
    seen: set[str] = set()
    for index, mount in enumerate(specification.mounts):
        if not mount.mount_point:
            raise InvalidRequest(f"mounts[{index}].mount_point is empty; write s3://bucket/prefix or file:///dir.")
        paths.checked(f"mounts[{index}].path", mount.path, may_be_root=True)
        if mount.path in seen:
            raise InvalidRequest(f"mounts[{index}].path {mount.path!r} is used twice; each mount needs its own.")
        seen.add(mount.path)
    terms = specification.terms
    if 0 < terms.maximum_bytes < terms.guaranteed_bytes:
        raise InvalidRequest(
            f"terms.maximum_bytes is {terms.maximum_bytes}; it must be 0 (no limit) or at least guaranteed_bytes, "
            f"{terms.guaranteed_bytes}."
        )
    for index, path in enumerate(terms.pinned):
        paths.checked(f"terms.pinned[{index}]", path, may_be_root=True)
    return specification


def with_specification(dataset: Dataset | None, specification: Specification) -> Dataset:
    """The record after a Sync said `specification`; keeps the snapshot and the last error."""
    if dataset is None:
        return Dataset(specification)
    before = dataset.specification
    former = before.former_nodes
    if before.eligible_nodes != specification.eligible_nodes:
        former = before.eligible_nodes or EVERY_NODE
    return replace(dataset, specification=replace(specification, former_nodes=former))


def needs_listing(
    dataset: Dataset, *, force: bool = False, has_new_mounts: bool = False, leaves_failed: bool = False
) -> bool:
    """Whether a Sync has to list: never listed, asked to, failed last time, or other mounts than the snapshot's.

    `leaves_failed`: what failed is not tried again before that is asked for, or the mounts are new."""
    if dataset.error_reason and leaves_failed:
        return force or has_new_mounts
    return (
        force
        or dataset.version == 0
        or bool(dataset.error_reason)
        or dataset.listed_mounts != dataset.specification.mounts
    )


def listed(dataset: Dataset, listing: LastListing) -> Dataset:
    """The record after a listing that went well; the snapshot is the caller's."""
    return replace(dataset, synced_at_ns=listing.ended_at_ns, error="", error_reason="", listing=listing)


def failed(dataset: Dataset, began_at_ns: int, ended_at_ns: int, reason: str, message: str) -> Dataset:
    """The record after a listing that failed."""
    before = dataset.listing
    listing = replace(before, began_at_ns=began_at_ns, ended_at_ns=ended_at_ns, failures=before.failures + 1)
    return replace(dataset, error=message, error_reason=reason, listing=listing)


def uses_turns(dataset: Dataset) -> bool:
    """Whether paths are changed in the under store in turns: held versions may wait for theirs."""
    return dataset.specification.write_back or dataset.held.files > 0


def require_snapshot(dataset: Dataset) -> Dataset:
    """Return the dataset, or raise Unavailable while it has no snapshot."""
    if dataset.version == 0:
        why = f"its listing failed: {dataset.error}" if dataset.error else "its first listing is not complete."
        raise Unavailable(f"dataset {dataset.label} has no snapshot yet; {why}")
    return dataset


def require_writable(dataset: Dataset, path: str) -> None:
    """Raise Precondition when `path` may not be changed through us."""
    require_snapshot(dataset)
    if not dataset.specification.writable:
        raise Precondition(f"dataset {dataset.label} is read-only: its accessModes do not include ReadWriteMany.")
    mount = mount_of(dataset.specification.mounts, path)
    if mount is None:
        raise Precondition(f"{path!r} is below no mount of dataset {dataset.label}.")
    if mount.read_only:
        raise Precondition(f"{path!r} of dataset {dataset.label} is on a mount that is readOnly.")


def mount_of(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that holds `path`: the one with the longest path at or above it; None between mounts."""
    above = [mount for mount in mounts if paths.is_at_or_below(path, mount.path)]
    return max(above, key=lambda mount: len(mount.path), default=None)
