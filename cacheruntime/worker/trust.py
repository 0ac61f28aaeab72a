"""Who may do what on this worker: the keys tokens are checked with, and a gate for each connection and call.

Owns keys, refusals and their metric; the rule itself is core/grants.py, tokens are api/trust/tokens.py. With trust off
every gate is open. Invariants: a token is verified once a connection, a request costs a look-up; metadata is asked for
keys and never about a token, and while it is away the last known keys are good.
"""

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api import byteplane as bp
from api.trust.channels import caller_of
from api.trust.identity import Identity, NotAnIdentity, Role
from api.trust.tokens import Claims, TokenRefused, key_id_in, key_id_of, public_key, verify
from cacheruntime.core.grants import WHY, Grants, Verdict
from cacheruntime.errors import CacheError, NotAuthorised
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics

KEYS_SECONDS: Final = 30.0
"""How long a key that was taken away is good here."""
ASK_SECONDS: Final = 1.0
"""Unknown keys make us ask so often at most, whoever sends them."""
_ERRNOS: Final = {
    Verdict.MISSING: errno.ENOKEY,
    Verdict.EXPIRED: errno.EKEYEXPIRED,
    Verdict.REVOKED: errno.EKEYREJECTED,
    Verdict.READ_ONLY: errno.EACCES,
}
BEARER: Final = "Bearer "

log = structlog.get_logger()


class TokenKeys:
    """The metadata service's public keys, by id."""

    def __init__(self, metadata: MetadataClient, clock: Callable[[], float]) -> None:
        self._metadata = metadata
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self.known: dict[str, Ed25519PublicKey] = {}

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(KEYS_SECONDS)

    async def refresh(self) -> None:
        """Ask now; keep what is known when metadata does not answer."""
        self._asked_at = self._clock()
        try:
            found = await self._metadata.token_keys()
        except CacheError as error:
            log.warning("token_keys_unknown", error=error.message)
            return
        fresh = {key_id_of(raw): public_key(raw) for raw in found}
        if fresh.keys() != self.known.keys():
            log.info("token_keys_changed", keys=sorted(fresh))
        self.known = fresh

    async def look_for(self, key_id: str) -> None:
        """Ask for a key that is not known, not more often than is good for metadata."""
        if key_id in self.known:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._refresh_soon())
        await asyncio.shield(self._asking)

    async def _refresh_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._asked_at + ASK_SECONDS - self._clock()))
        await self.refresh()


class Gate(Protocol):
    """What one connection may do."""

    def allows(self, uid: str) -> bool:
        """Whether the dataset may be read; nothing is counted."""
        ...

    def require(self, uid: str, *, write: bool = False) -> None:
        """NotAuthorised unless the dataset may be read, or written."""
        ...

    def require_name(self, namespace: str, name: str) -> None:
        """NotAuthorised unless the dataset of that name may be read."""
        ...

    async def accept(self, token: str) -> bp.Authorized:
        """Take a token; NotAuthorised."""
        ...


class OpenGate:
    """Trust is off."""

    def allows(self, uid: str) -> bool:
        """Yes."""
        return True

    def require(self, uid: str, *, write: bool = False) -> None:
        """Nothing is required."""

    def require_name(self, namespace: str, name: str) -> None:
        """Nothing is required."""

    async def accept(self, token: str) -> bp.Authorized:
        """Nobody needs it."""
        return bp.Authorized(uid="", may_write=True)


class ShutGate:
    """A certificate that has nothing to do here."""

    def __init__(self, message: str, metrics: Metrics) -> None:
        self._message = message
        self._metrics = metrics

    def allows(self, uid: str) -> bool:
        """No."""
        return False

    def require(self, uid: str, *, write: bool = False) -> None:
        """NotAuthorised."""
        self._metrics.refused.labels("role").inc()
        raise NotAuthorised(self._message, number=errno.EACCES)

    def require_name(self, namespace: str, name: str) -> None:
        """NotAuthorised."""
        self.require(name)

    async def accept(self, token: str) -> bp.Authorized:
        """NotAuthorised."""
        self.require("")
        raise AssertionError("refused")


class TokenGate:
    """A connection of `audience`: what it has shown tokens for, it may do."""

    def __init__(
        self, keys: TokenKeys, audience: Identity, metrics: Metrics, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._audience = audience.uri
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._grants = Grants()

    def allows(self, uid: str) -> bool:
        """Whether the dataset may be read."""
        return self._grants.may_read(uid, self._wall_clock(), self._keys.known)

    def require(self, uid: str, *, write: bool = False) -> None:
        """NotAuthorised unless a token allows it."""
        verdict = self._verdict(uid, write=write)
        if verdict is not Verdict.ALLOWED:
            self._metrics.refused.labels(verdict.value).inc()
            raise NotAuthorised(WHY[verdict].format(uid=repr(uid[:64])), number=_ERRNOS[verdict])

    def require_name(self, namespace: str, name: str) -> None:
        """NotAuthorised unless a token allows it. Whether there is such a dataset is not told."""
        self.require(self._grants.uid_of(namespace, name) or f"{namespace}/{name}")

    async def accept(self, token: str) -> bp.Authorized:
        """Verify a token and let it count; NotAuthorised."""
        claims = await verified(token, self._keys, self._audience, self._metrics, self._wall_clock)
        self._grants.add(claims)
        return bp.Authorized(uid=claims.uid, may_write=claims.may_write)

    def _verdict(self, uid: str, *, write: bool) -> Verdict:
        return self._grants.verdict(uid, write=write, now_seconds=self._wall_clock(), keys=self._keys.known)


async def verified(
    token: str, keys: TokenKeys, audience: str, metrics: Metrics, wall_clock: Callable[[], float] = time.time
) -> Claims:
    """Return what a token says; NotAuthorised."""
    try:
        await keys.look_for(key_id_in(token))
        return verify(token, keys.known, audience=audience, now_seconds=wall_clock())
    except TokenRefused as refused:
        metrics.refused.labels(refused.reason).inc()
        number = errno.EKEYEXPIRED if refused.reason == "expired" else errno.EKEYREJECTED
        raise NotAuthorised(refused.message, number=number) from None


class ControlGate:
    """Who may call WorkerControl: a controller by its certificate, about a dataset it has a token for."""

    def __init__(self, keys: TokenKeys, metrics: Metrics) -> None:
        self._keys = keys
        self._metrics = metrics

    def require_role(self, context: Any, role: Role) -> Identity | None:
        """NotAuthorised unless the caller has that role; None without certificates."""
        try:
            caller = caller_of(context)
        except NotAnIdentity as error:
            raise self._refused("identity", str(error)) from None
        if caller is not None and caller.role not in (role, Role.ADMIN):
            raise self._refused("role", f"{caller} may not call this; it is for the {role}")
        return caller

    async def require(self, context: Any, uid: str, role: Role, *, write: bool = False) -> None:
        """NotAuthorised unless the caller has that role and a token for the dataset; free without certificates."""
        caller = self.require_role(context, role)
        if caller is None:
            return
        given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if len(given) != 1 or not isinstance(given[0], str) or not given[0].startswith(BEARER):
            raise self._refused("missing", f"the call needs one authorization: {BEARER}TOKEN for dataset {uid[:64]!r}")
        claims = await verified(given[0].removeprefix(BEARER), self._keys, caller.uri, self._metrics)
        if claims.uid != uid:
            raise self._refused(
                "dataset", f"the token is for dataset {claims.uid[:64]!r}, and the call is about {uid[:64]!r}"
            )
        if write and not claims.may_write:
            raise self._refused(Verdict.READ_ONLY.value, WHY[Verdict.READ_ONLY].format(uid=repr(uid[:64])))

    def _refused(self, reason: str, message: str) -> NotAuthorised:
        self._metrics.refused.labels(reason).inc()
        return NotAuthorised(message, number=errno.EACCES)
