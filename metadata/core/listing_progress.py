"""What a listing has to remember to go on after a restart.

Owns the two records and the decision whether an interrupted listing may go on. They are stored with the staged
entries, in one commit. Invariants: the entries of every key that `left` does not name are staged; changes made
through us since the listing began are still known when it goes on, so that it undoes none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from metadata.core.datasets import Dataset, Mount
from metadata.core.listing import ListingCounts

RESUME_WITHIN_NS: Final = 3600 * 10**9
"""A listing older than this begins anew: one snapshot should not be of too many moments."""


@dataclass(frozen=True, slots=True)
class ListingOrigin:
    """What a listing is of, and since when; does not change while it runs."""

    uid: str
    dataset_id: int
    base_version: int
    """The snapshot version when it began."""
    mounts: tuple[Mount, ...]
    began_at_ns: int


@dataclass(frozen=True, slots=True)
class ListingProgress:
    """How far a listing has come."""

    mount: int = 0
    """Index of the mount under way; those before it are done."""
    left: tuple[tuple[str, str], ...] | None = None
    """Key ranges (after, until) of that mount that are not staged yet; None = not begun, () = all staged."""
    counts: ListingCounts = field(default_factory=ListingCounts)


@dataclass(frozen=True, slots=True)
class UnfinishedListing:
    """A listing as the store keeps it."""

    id: int
    origin: ListingOrigin
    progress: ListingProgress


def may_go_on(listing: UnfinishedListing, dataset: Dataset | None, now_ns: int, kept_versions: int) -> bool:
    """Whether the listing still leads to a snapshot of the dataset as it is now."""
    origin = listing.origin
    return (
        dataset is not None
        and dataset.id == origin.dataset_id
        and dataset.specification.mounts == origin.mounts
        # Names removed since it began would come back if their history had been cut.
        and dataset.version - origin.base_version < kept_versions
        and 0 <= now_ns - origin.began_at_ns <= RESUME_WITHIN_NS
    )


def advanced(
    progress: ListingProgress, mount: int, left: Sequence[tuple[str, str]], counts: ListingCounts
) -> ListingProgress:
    """The progress once so much of `mount` is staged; keeps a copy of the counts, which go on."""
    return replace(progress, mount=mount, left=tuple(left), counts=replace(counts))
