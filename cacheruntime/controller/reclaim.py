"""When the cached bytes of a Dataset that nobody uses are given back: `spec.reclaim`.

Pure. Its files stay known and stay in the under store: the next reader fetches them again. Everything follows from the
object's own status, so a controller that starts anew goes on where the one before was. Invariants: nothing is given
back while somebody uses the Dataset, while a DataLoad fills it, or while it is not known who uses it; nothing of a
Dataset with pinned paths is; between two times lies the whole idle time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from api.conditions import parse_timestamp, timestamp
from api.data_v1alpha1 import Dataset, DatasetStatus, Reference
from api.quantities import duration_seconds
from cacheruntime.controller.listings import LONGEST_REST_SECONDS

IDLE_TTL: Final = "1h"
"""`spec.reclaim.idleTTL` when it is not given."""
LOOK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Idleness:
    """How long nobody has used a Dataset, and what follows."""

    unused_since: str | None
    """RFC 3339; None: it is in use, or that is not known."""
    is_due: bool = False
    """Its cached bytes are to be given back now."""
    rest_seconds: float | None = None
    """How long until they may be; None: when something changes."""


def idle_seconds(dataset: Dataset) -> int:
    """How long nobody has to have used it."""
    return duration_seconds(dataset.spec.reclaim.idle_ttl or IDLE_TTL)


def idleness(
    dataset: Dataset, users: Sequence[Reference] | None, *, is_loading: bool, cached_bytes: int, now: float
) -> Idleness:
    """Return what is to be done at `now` (seconds since 1970). `users` None: they are not known now; `cached_bytes`:
    with copies."""
    status = dataset.status or DatasetStatus()
    reclaim = dataset.spec.reclaim
    # Nothing tells when a load ends or users become known.
    look_seconds = LOOK_SECONDS if reclaim.policy == "WhenUnused" and cached_bytes else None
    if users is None:
        return Idleness(status.unused_since, rest_seconds=look_seconds)
    if users or is_loading:
        return Idleness(None, rest_seconds=None if users else look_seconds)
    since = status.unused_since or timestamp(now)
    if reclaim.policy != "WhenUnused" or dataset.spec.cache.pinned or not cached_bytes:
        return Idleness(since)
    # Readers that Kubernetes does not know of may have filled it again since.
    begin = max(parse_timestamp(since), parse_timestamp(status.reclaimed_at) if status.reclaimed_at else 0.0)
    left = begin + idle_seconds(dataset) - now
    if left > 0:
        return Idleness(since, rest_seconds=min(left, LONGEST_REST_SECONDS))
    return Idleness(since, is_due=True)
