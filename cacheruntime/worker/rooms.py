"""The tiers' ledgers beside what their media really have left.

Owns measuring, the words for a medium that fails, and calling core/admission.py. Does not know files. Invariant:
a medium that refused bytes is asked for none until its pause is over.
"""

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cacheruntime.core import admission
from cacheruntime.core.admission import Admission, Placement
from cacheruntime.core.disk_health import DiskHealth
from cacheruntime.core.eviction import Candidate
from cacheruntime.core.shares import HoldingOf
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import CacheError, MediumFailed, NoRoom
from cacheruntime.worker.metrics import Metrics

log = structlog.get_logger()

BLOCKED_SECONDS: Final = 15.0
"""A medium that refused bytes is left alone this long; then one file tries again."""
MEASURED_SECONDS: Final = 0.05
"""How long a medium's free room is taken as known; what we write meanwhile is charged anyway."""
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

MEDIUM_ERRNOS: Final = frozenset(
    {errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EREMOTEIO, errno.EUCLEAN, errno.ETIMEDOUT}
)
"""The medium's own fault; others (no descriptors left, say) are not cured by leaving it alone."""

Candidates = Callable[[], Iterable[Candidate]]


@dataclass(frozen=True, slots=True)
class TierFolder:
    """A tier and the directory that holds it."""

    tier: Tier
    directory: Path


class Rooms:
    """Room on all tiers, fastest first."""

    def __init__(
        self, folders: list[TierFolder], clock: Callable[[], float], metrics: Metrics, *, slow_seconds: float
    ) -> None:
        """`slow_seconds`: a block that takes longer to read or write is slow."""
        self._folders = folders
        self._clock = clock
        self._metrics = metrics
        self._measured_until = float("-inf")
        self.tiers = [folder.tier for folder in folders]
        self._health = [DiskHealth(slow_seconds) for _ in folders]

    def directory(self, tier: int) -> Path:
        """Folder of a tier."""
        return self._folders[tier].directory

    def place(
        self,
        uid: str,
        wanted_bytes: int,
        candidates: Candidates,
        *,
        as_home: bool,
        is_pinned: bool,
        holding: HoldingOf,
    ) -> Placement:
        """Choose the tier of a new file of dataset `uid`."""
        self._measure()
        return admission.place(
            self.tiers,
            candidates,
            wanted_bytes=wanted_bytes,
            uid=uid,
            as_home=as_home,
            is_pinned=is_pinned,
            holding=holding,
            now_seconds=self._clock(),
        )

    def admit(
        self,
        tier: int,
        uid: str,
        size_bytes: int,
        candidates: Candidates,
        *,
        reserved_bytes: int,
        as_home: bool,
        is_pinned: bool,
        holding: HoldingOf,
    ) -> Admission:
        """Decide whether bytes of dataset `uid` may stay in a tier."""
        self._measure()
        return admission.admit(
            self.tiers,
            candidates,
            tier=tier,
            size_bytes=size_bytes,
            reserved_bytes=reserved_bytes,
            uid=uid,
            as_home=as_home,
            is_pinned=is_pinned,
            holding=holding,
            now_seconds=self._clock(),
        )

    def forget_measure(self) -> None:
        """What media have left is not what we thought."""
        self._measured_until = float("-inf")

    def failed(self, number: int, error: OSError, asked_seconds: float | None = None) -> CacheError:
        """Note that a medium failed, and return what that means to who wanted it. `asked_seconds`: when it was asked,
        if that was a while ago."""
        tier, folder, now = self.tiers[number], str(self.directory(number)), self._clock()
        if error.errno in FULL_ERRNOS:
            tier.blocked_until_seconds = now + BLOCKED_SECONDS
            self._metrics.tier_full.labels(tier.medium).inc()
            log.error("tier_full", medium=tier.medium, folder=folder, error=error.strerror)
            return NoRoom(f"the {tier.medium} tier's medium is full: {error.strerror}")
        if error.errno not in MEDIUM_ERRNOS:
            log.error("tier_failed", medium=tier.medium, folder=folder, error=error.strerror)
            return CacheError(f"the {tier.medium} tier failed: {error.strerror}", is_retryable=True)
        if self._health[number].failed(now if asked_seconds is None else asked_seconds, now):
            self._pause(number, "failed", error.strerror or str(error))
        return MediumFailed(f"the {tier.medium} tier failed: {error.strerror}")

    def answered(self, number: int, asked_seconds: float) -> None:
        """A medium did what it was asked at that time, or is still waited for."""
        if self._health[number].answered(asked_seconds, self._clock()):
            self._pause(number, "slow", f"answers take more than {self._health[number].slow_seconds} s")

    def _pause(self, number: int, why: str, error: str) -> None:
        tier, until = self.tiers[number], self._health[number].paused_until_seconds
        tier.blocked_until_seconds = max(tier.blocked_until_seconds, until)
        tier.unread_until_seconds = until
        self._metrics.tier_paused.labels(tier.medium, why).inc()
        log.error(
            "tier_paused",
            medium=tier.medium,
            folder=str(self.directory(number)),
            why=why,
            error=error,
            seconds=round(until - self._clock(), 1),
        )

    def _measure(self) -> None:
        if self._clock() < self._measured_until:
            return
        self._measured_until = self._clock() + MEASURED_SECONDS
        for folder in self._folders:
            try:
                status = os.statvfs(folder.directory)
                folder.tier.device_free_bytes = status.f_bavail * status.f_frsize
            except OSError as error:
                folder.tier.device_free_bytes = 0
                log.error("tier_not_measured", folder=str(folder.directory), error=error.strerror)
