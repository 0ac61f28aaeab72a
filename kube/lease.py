"""Leader election by a Lease: a hint which replica should act.

Owns acquiring, renewing and giving up one Lease. A LEASE DOES NOT FENCE: a leader that was
stopped or cut off may go on writing after another took over, until it notices. So every
write of a leader must be safe with two leaders (uid and resourceVersion preconditions).

Invariants: time is the local monotonic clock, counted from when a change of the Lease was
first *seen here*; nobody's wall clock is compared. A leader stops being one
`renew_seconds` after the last renewal it knows succeeded (counted from when that renewal
was sent), which is before `duration_seconds` when another may take over.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import structlog

from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from kube.events import micro_time
from kube.objects import Lease
from kube.resources import LEASES

_log = structlog.get_logger(__name__)


class LeadershipLost(Exception):
    """The Lease was lost, or could not be renewed in time."""


@dataclass(slots=True)
class _Observed:
    """The Lease as last seen, and when (monotonic) its content last changed."""

    resource_version: str
    spec: Any
    changed_at: float


class LeaderElector:
    """One candidate for one Lease. Used by one task; `run` or `lead` may be called again."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration_seconds: float = 15,
        renew_seconds: float = 10,
        retry_seconds: float = 2,
        clock: Callable[[], float] = time.monotonic,
        jitter: Random | None = None,
    ) -> None:
        """`identity` must differ between replicas. Defaults are kube-scheduler's."""
        if not retry_seconds < renew_seconds < duration_seconds:
            raise ValueError(
                f"retry_seconds {retry_seconds} < renew_seconds {renew_seconds} < "
                f"duration_seconds {duration_seconds} must hold"
            )
        if not identity:
            raise ValueError("identity is empty; give each replica its own, such as host name and pid")
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration_seconds = duration_seconds
        self._renew_seconds = renew_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._jitter = jitter or Random()
        self._observed: _Observed | None = None
        self._renewed_at = float("-inf")

    @property
    def is_leader(self) -> bool:
        """Whether the last known renewal is still good; a hint, see the module's docstring."""
        return self._clock() - self._renewed_at < self._renew_seconds

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen; "" when nobody or not known."""
        return (self._observed.spec.holder_identity or "") if self._observed else ""

    async def run(
        self,
        on_started: Callable[[], Awaitable[None]],
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        """Wait for leadership, run `on_started()` while it lasts, then give the Lease back.

        `on_started` is cancelled when leadership is lost; then LeadershipLost is raised (exit, or
        call again). Returns when `on_started` returns. `on_stopped` runs in every case.
        """
        async with self.lead() as lost:
            work = asyncio.ensure_future(on_started())
            waiting = asyncio.ensure_future(lost.wait())
            try:
                await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise LeadershipLost(f"lease {self._namespace}/{self._name} was lost by {self._identity}")
            finally:
                waiting.cancel()
                work.cancel()
                await asyncio.wait({work, waiting})
                if on_stopped is not None:
                    on_stopped()
            work.result()

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[asyncio.Event]:
        """Wait for leadership; yields an event that is set when it is lost. Releases on leaving."""
        await self.acquire()
        lost = asyncio.Event()
        renewing = asyncio.create_task(self._renew_until_lost(lost))
        try:
            yield lost
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
            await self._release()

    async def acquire(self) -> None:
        """Try until the Lease is ours; errors are logged and survived."""
        while True:
            if await self.try_acquire_or_renew(within_seconds=self._renew_seconds):
                break
            await asyncio.sleep(self._retry_seconds * (1 + self._jitter.random() * 0.2))
        _log.info("leadership_acquired", lease=f"{self._namespace}/{self._name}", identity=self._identity)

    async def _renew_until_lost(self, lost: asyncio.Event) -> None:
        try:
            while True:
                await asyncio.sleep(min(self._retry_seconds, self._remaining_seconds()))
                remaining = self._remaining_seconds()
                if remaining <= 0:
                    break
                await self.try_acquire_or_renew(within_seconds=remaining)
                if self._observed is not None and self.holder != self._identity:
                    break
        finally:
            self._renewed_at = float("-inf")
            lost.set()
        _log.warning(
            "leadership_lost",
            lease=f"{self._namespace}/{self._name}",
            identity=self._identity,
            holder=self.holder,
        )

    def _remaining_seconds(self) -> float:
        return max(0.0, self._renewed_at + self._renew_seconds - self._clock())

    async def try_acquire_or_renew(self, *, within_seconds: float) -> bool:
        """Renew, or take the Lease if it is free or its holder was silent too long.

        Returns whether it is ours now. Errors and a deadline missed are logged and mean False.
        """
        try:
            async with asyncio.timeout(within_seconds):
                return await self._acquire_or_renew()
        except (Conflict, AlreadyExists):
            # Somebody wrote in between: look again at the next try.
            self._forget_version()
        except TimeoutError:
            self._forget_version()
            _log.warning("lease_timeout", lease=f"{self._namespace}/{self._name}")
        except KubeError as error:
            self._forget_version()
            _log.warning("lease_error", lease=f"{self._namespace}/{self._name}", error=str(error))
        return False

    async def _acquire_or_renew(self) -> bool:
        mine = self._observed is not None and self.holder == self._identity
        if not mine or self._observed is None or not self._observed.resource_version:
            try:
                self._observe(await self._client.get(LEASES, self._name, self._namespace))
            except NotFound:
                sent_at = self._clock()
                lease = await self._client.create(LEASES, self._body(None), self._namespace)
                self._observe(lease)
                self._renewed_at = sent_at
                return True
        if self._is_held_by_another():
            return False
        assert self._observed is not None
        sent_at = self._clock()
        body = self._body(self._observed)
        self._observe(await self._client.replace(LEASES, self._name, body, self._namespace))
        self._renewed_at = sent_at
        return True

    def _is_held_by_another(self) -> bool:
        assert self._observed is not None
        spec = self._observed.spec
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return False
        # The holder's own duration counts: it may be configured otherwise than we are.
        duration = spec.lease_duration_seconds or self._duration_seconds
        return self._clock() - self._observed.changed_at < duration

    def _observe(self, body: dict[str, Any]) -> None:
        lease = msgspec.convert(body, Lease)
        before = self._observed
        changed = before is None or before.spec != lease.spec
        changed_at = self._clock() if before is None or changed else before.changed_at
        self._observed = _Observed(lease.metadata.resource_version, lease.spec, changed_at)

    def _forget_version(self) -> None:
        if self._observed is not None:
            self._observed.resource_version = ""

    def _body(self, observed: _Observed | None) -> dict[str, Any]:
        now = micro_time(datetime.now(UTC))
        acquired, transitions = now, 0
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if observed is not None:
            metadata["resourceVersion"] = observed.resource_version
            transitions = observed.spec.lease_transitions
            if observed.spec.holder_identity == self._identity:
                acquired = observed.spec.acquire_time or now
            else:
                transitions += 1
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                # Rounded up: a follower that waits longer is safe, one that waits less is not.
                "leaseDurationSeconds": max(1, -int(-self._duration_seconds // 1)),
                "acquireTime": acquired,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _release(self) -> None:
        """Give the Lease up so that another need not wait; harmless when it is no longer ours."""
        self._renewed_at = float("-inf")
        observed = self._observed
        if observed is None or self.holder != self._identity or not observed.resource_version:
            return
        body = self._body(observed)
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._renew_seconds):
                self._observe(await self._client.replace(LEASES, self._name, body, self._namespace))
        except (KubeError, TimeoutError) as error:
            _log.info("lease_not_released", lease=f"{self._namespace}/{self._name}", error=str(error))
        else:
            _log.info("leadership_released", lease=f"{self._namespace}/{self._name}", identity=self._identity)
