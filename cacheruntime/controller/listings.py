"""When a Dataset is listed again: `spec.metadataSync`, requests by annotation, failures.

Pure. Everything follows from what metadata remembers of the last listing and from the object, so a controller that
starts anew finds the same due times as the one before. Invariants: while a listing runs none is due; a failed one is
tried again after pauses that double, whatever the policy.
"""

from dataclasses import dataclass
from typing import Final, Literal

from api import names
from api.conditions import Condition, parse_timestamp, timestamp
from api.data_v1alpha1 import REASON_LISTED, SYNCED, Dataset, DatasetStatus, MetadataSync, MetadataSyncStatus
from api.gen import metadata_pb2
from api.quantities import duration_seconds

RETRY_FIRST_SECONDS: Final = 2.0
RETRY_MAX_SECONDS: Final = 120.0
ALWAYS_REST_SECONDS: Final = 2.0
"""Least pause of policy Always. It also rests for as long as the last listing took: so an under store is being listed
at most half of the time."""
JITTER: Final = 0.1
"""Of a pause, added at most: datasets that were made together should not be listed together for ever."""
INTERVAL_MAX_SECONDS: Final = 3650 * 86_400.0
"""An interval may be any number; a time has to be one that can be written."""
LONGEST_REST_SECONDS: Final = 600.0
"""Clocks are set anew, machines sleep: a due time is looked at again this often."""

Why = Literal["retry", "asked", "Interval", "Always"]


@dataclass(frozen=True, slots=True)
class Listing:
    """The next listing: when it is due (seconds since 1970; None = none is by itself), and why."""

    due: float | None = None
    why: Why | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is to begin now."""
        return self.due is not None and self.due <= now

    def rest_seconds(self, now: float) -> float | None:
        """How long from now until it is looked at again; None: when something changes."""
        return None if self.due is None else min(max(0.0, self.due - now), LONGEST_REST_SECONDS)


def next_listing(sync: MetadataSync, info: metadata_pb2.DatasetInfo, asked: float | None, chance: float) -> Listing:
    """Return the next listing. `asked`: see `asked_at`; `chance`, in [0, 1): the same one each time for one dataset and
    last listing."""
    ended = _ended(info)
    if info.syncing or ended is None:
        return Listing()  # the listing under way, or the first, which metadata begins by itself
    stretch = 1 + JITTER * chance
    if info.listing.failures:
        pause = min(RETRY_FIRST_SECONDS * 2 ** min(info.listing.failures - 1, 16), RETRY_MAX_SECONDS)
        retry = Listing(ended + pause * stretch, "retry")
        return _sooner(retry, asked if asked is not None and asked > ended else None)
    began = info.listing.good_began_at_ns / 1e9
    return _sooner(_by_policy(sync, info, ended, stretch), asked if asked is not None and began < asked else None)


def asked_at(dataset: Dataset) -> float | None:
    """Return when a listing is to begin at the earliest and is asked for, by annotation, in seconds since 1970; None =
    none is. ValueError says what is wrong with it."""
    text = dataset.metadata.annotations.get(names.DATASET_SYNC_ANNOTATION)
    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except ValueError:
        what = f"the annotation {names.DATASET_SYNC_ANNOTATION} is {text[:100]!r}"
        raise ValueError(f"{what}; it must be a time like 2026-03-02T10:00:00Z") from None


def _ended(info: metadata_pb2.DatasetInfo) -> float | None:
    # Of a snapshot listed before metadata remembered listings there is only the time of the snapshot.
    ended_ns = info.listing.ended_at_ns or info.synced_at_ns
    return ended_ns / 1e9 if ended_ns else None


def _by_policy(sync: MetadataSync, info: metadata_pb2.DatasetInfo, ended: float, stretch: float) -> Listing:
    if sync.policy == "Interval" and sync.interval is not None:
        pause = min(max(1, duration_seconds(sync.interval)), INTERVAL_MAX_SECONDS)
        return Listing(ended + pause * stretch, "Interval")
    if sync.policy == "Always":
        took = max(0.0, ended - info.listing.began_at_ns / 1e9) if info.listing.began_at_ns else 0.0
        return Listing(ended + max(ALWAYS_REST_SECONDS, took) * stretch, "Always")
    return Listing()


def _sooner(listing: Listing, asked: float | None) -> Listing:
    if asked is None or (listing.due is not None and listing.due <= asked):
        return listing
    return Listing(asked, "asked")


def sync_status(info: metadata_pb2.DatasetInfo, listing: Listing) -> MetadataSyncStatus | None:
    """Return what the Dataset's status says of listings; None before the first has ended."""
    last = info.listing
    if not last.ended_at_ns:
        return None
    return MetadataSyncStatus(
        listed_at=timestamp(last.good_began_at_ns // 10**9) if last.good_began_at_ns else None,
        added=last.added,
        changed=last.changed,
        removed=last.removed,
        tried_at=timestamp(last.ended_at_ns // 10**9),
        failures=last.failures,
        next_at=None if listing.due is None else timestamp(listing.due),
    )


def condition(info: metadata_pb2.DatasetInfo) -> Condition | None:
    """Return the condition Synced; None before the first listing has ended."""
    last = info.listing
    if not last.ended_at_ns:
        return None
    if last.failures:
        kept = f"; snapshot {info.snapshot_version} stays in use" if info.snapshot_version else ""
        message = f"{info.error}{kept}; failed {last.failures} times in a row"
        return Condition(type=SYNCED, status="False", reason=info.error_reason or "ListingFailed", message=message)
    message = f"{last.added} files added, {last.changed} changed, {last.removed} removed"
    return Condition(type=SYNCED, status="True", reason=REASON_LISTED, message=message)


def is_new_failure(before: DatasetStatus | None, now: MetadataSyncStatus | None) -> bool:
    """Whether a listing failed that the status did not know of."""
    if now is None or not now.failures:
        return False
    known = before.metadata_sync if before is not None else None
    return known is None or (known.failures, known.tried_at) != (now.failures, now.tried_at)
