"""What one connection has shown tokens for.

Owns the two questions of every request: may it read, may it write this dataset now? Pure: time is passed in.
Invariants: a grant ends with its token and with the key it was signed with; a later token never shortens an
earlier one's.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import Enum
from typing import Final

from api.trust.tokens import SKEW_SECONDS, Claims


class Verdict(Enum):
    """Why a request may go on, or not; the value is the metric's label."""

    ALLOWED = "allowed"
    MISSING = "missing"
    """No token for the dataset was shown."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    """Its key is none of ours any more."""
    READ_ONLY = "read-only"
    """A token to read was shown, and this writes."""


@dataclass(frozen=True, slots=True)
class _Grant:
    key_id: str
    ends_at_seconds: float


class Grants:
    """One connection's."""

    def __init__(self) -> None:
        self._readers: dict[str, _Grant] = {}
        self._writers: dict[str, _Grant] = {}
        self._names: dict[tuple[str, str], str] = {}

    def add(self, claims: Claims, skew_seconds: float = SKEW_SECONDS) -> None:
        """Take a token that was verified."""
        fresh = _Grant(claims.key_id, claims.expires_at_seconds + skew_seconds)
        for grants in (self._readers, self._writers) if claims.may_write else (self._readers,):
            known = grants.get(claims.uid)
            # A key that is gone must not keep out the one that came after it.
            if known is None or known.key_id != fresh.key_id or known.ends_at_seconds < fresh.ends_at_seconds:
                grants[claims.uid] = fresh
        self._names[claims.namespace, claims.name] = claims.uid

    def may_read(self, uid: str, now_seconds: float, keys: Container[str]) -> bool:
        """Whether `verdict` allows reading, in a quarter of its time: asked for every small read."""
        grant = self._readers.get(uid)
        return grant is not None and now_seconds <= grant.ends_at_seconds and grant.key_id in keys

    def verdict(self, uid: str, *, write: bool, now_seconds: float, keys: Container[str]) -> Verdict:
        """Tell whether the dataset may be read (or written) at that time (since 1970), with these keys being good."""
        grant = (self._writers if write else self._readers).get(uid)
        if grant is None:
            return Verdict.READ_ONLY if write and uid in self._readers else Verdict.MISSING
        if now_seconds > grant.ends_at_seconds:
            return Verdict.EXPIRED
        return Verdict.ALLOWED if grant.key_id in keys else Verdict.REVOKED

    def uid_of(self, namespace: str, name: str) -> str | None:
        """Return the dataset of that name, if a token for it was shown."""
        return self._names.get((namespace, name))


WHY: Final = {
    Verdict.MISSING: "no token for dataset {uid} was shown on this connection; get one from the metadata service",
    Verdict.EXPIRED: "the token for dataset {uid} has expired; get another one",
    Verdict.REVOKED: "the token for dataset {uid} is signed with a key that is not good any more; get another one",
    Verdict.READ_ONLY: "the token for dataset {uid} is for reading, and this writes; get one for writing",
}
