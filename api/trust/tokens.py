"""Capability tokens: what the metadata service signs and workers check without asking anybody.

Owns the format, signing and checking. Pure: the time is passed in. A token is `hr1.CLAIMS.SIGNATURE`, both parts
base64url without padding: MessagePack of `Claims`, and Ed25519 over everything before the last dot. There is one
algorithm, so there is nothing to negotiate.

Invariants: nothing of the claims is looked at before the signature is known to be right, but the key's id; no error
text has any part of a token in it.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX: Final = "hr1"
TOKEN_CHARACTERS_MAX: Final = 4096
SKEW_SECONDS: Final = 30.0
"""By how much the clocks of two machines may differ."""
KEY_ID_CHARACTERS: Final = 16

_M = TypeVar("_M", bound=msgspec.Struct)
Reason = Literal["malformed", "unknown-key", "signature", "expired", "not-yet", "audience"]


class TokenRefused(Exception):
    """A token that is not good here: one sentence, and a word for the metric."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What a token says: its bearer, who is `audience`, may read this dataset, and write it with `may_write`."""

    key_id: str
    uid: str
    namespace: str
    name: str
    may_write: bool
    audience: str
    issued_at_seconds: int
    """Since 1970, as the next one."""
    expires_at_seconds: int


class _KeyOnly(msgspec.Struct, frozen=True):
    key_id: str


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the id its public half is found by."""

    key_id: str
    private: Ed25519PrivateKey

    @classmethod
    def of(cls, private: Ed25519PrivateKey) -> "SigningKey":
        """Return the key with its id."""
        return cls(key_id_of(private.public_key().public_bytes_raw()), private)

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes others check with."""
        return self.private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"


def key_id_of(public_bytes: bytes) -> str:
    """Return a key's id, which follows from the key: nobody can give two keys one id."""
    return hashlib.sha256(public_bytes).hexdigest()[:KEY_ID_CHARACTERS]


def public_key(public_bytes: bytes) -> Ed25519PublicKey:
    """Return the key of 32 bytes; ValueError."""
    return Ed25519PublicKey.from_public_bytes(public_bytes)


def sign(claims: Claims, key: SigningKey) -> str:
    """Return the token; the claims' `key_id` is replaced by the key's."""
    body = msgspec.msgpack.encode(msgspec.structs.replace(claims, key_id=key.key_id))
    signed = f"{PREFIX}.{_encoded(body)}"
    return f"{signed}.{_encoded(key.private.sign(signed.encode()))}"


def key_id_in(token: str) -> str:
    """Return the id of the key a token says it is signed with; TokenRefused when it is no token."""
    return _read(_parts(token)[1], _KeyOnly).key_id


def verify(
    token: str,
    keys: Mapping[str, Ed25519PublicKey],
    *,
    audience: str,
    now_seconds: float,
    skew_seconds: float = SKEW_SECONDS,
) -> Claims:
    """Return what a token says, when it is one of ours, for this audience and for now; TokenRefused."""
    signed, body, signature = _parts(token)
    key_id = _read(body, _KeyOnly).key_id
    key = keys.get(key_id)
    if key is None:
        raise TokenRefused("unknown-key", "the token is signed with a key that is not known here; get another token")
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        raise TokenRefused("signature", "the token's signature is wrong; get another token") from None
    claims = _read(body, Claims)
    if claims.audience != audience:
        raise TokenRefused(
            "audience", f"the token is for {claims.audience[:300]}, and here it is used by {audience}; get one's own"
        )
    if now_seconds > claims.expires_at_seconds + skew_seconds:
        late = now_seconds - claims.expires_at_seconds
        raise TokenRefused("expired", f"the token expired {late:.0f} s ago; get another one")
    if now_seconds < claims.issued_at_seconds - skew_seconds:
        early = claims.issued_at_seconds - now_seconds
        raise TokenRefused("not-yet", f"the token is of a time {early:.0f} s from now; are the clocks right?")
    return claims


def _parts(token: str) -> tuple[bytes, bytes, bytes]:
    """What is signed, the body, the signature."""
    pieces = token.split(".")
    if not token.isascii() or len(token) > TOKEN_CHARACTERS_MAX or len(pieces) != 3 or pieces[0] != PREFIX:
        raise TokenRefused("malformed", f"that is no token: it must be {PREFIX}.CLAIMS.SIGNATURE")
    return f"{pieces[0]}.{pieces[1]}".encode(), _decoded(pieces[1]), _decoded(pieces[2])


def _read(body: bytes, kind: type[_M]) -> _M:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TokenRefused("malformed", "that is no token: its claims cannot be read") from None


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenRefused("malformed", "that is no token: a part of it is not base64url") from None
    return raw
