"""Identities of the parts: a role and a name, carried by certificates as the URI `headrace://ROLE/NAME`.

Owns the roles and both spellings of an identity: the URI that is checked, and the DNS name a gRPC client asks for (its
library checks only those). Pure.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SCHEME: Final = "headrace://"
_DOMAIN: Final = "headrace.internal"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""What Kubernetes takes as a node's name."""


class Role(StrEnum):
    """What a process is; docs/SECURITY.md has what each may do."""

    METADATA = "metadata"
    WORKER = "worker"
    """The cache worker of the node that it is named after."""
    NODE = "node"
    """FUSE daemons and the CSI plugin of the node that it is named after."""
    CACHE_CONTROLLER = "cache-controller"
    JOB_CONTROLLER = "job-controller"
    ADMIN = "admin"
    """People and their tools."""


class NotAnIdentity(ValueError):
    """The text names no identity of ours; one sentence."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who one side of a connection is."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise NotAnIdentity(
                f"identity name {self.name[:300]!r} is no lower-case DNS name; use the node's, or a short word"
            )

    @property
    def uri(self) -> str:
        """As a certificate's subject alternative name and a token's audience have it."""
        return f"{SCHEME}{self.role}/{self.name}"

    @property
    def server_name(self) -> str:
        """The DNS name a client of this server checks. Instances of the metadata service are one to their clients."""
        return f"{self.role}.{_DOMAIN}" if self.role is Role.METADATA else f"{self.name}.{self.role}.{_DOMAIN}"

    def __str__(self) -> str:
        return self.uri


def parse_identity(uri: str) -> Identity:
    """Return the identity a URI names; NotAnIdentity."""
    role, _, name = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or role not in {each.value for each in Role}:
        raise NotAnIdentity(f"{uri[:300]!r} is no identity; write it like {SCHEME}worker/node-1")
    return Identity(Role(role), name)


#: Whom every client of the metadata service expects there.
METADATA_SERVER: Final = Identity(Role.METADATA, "metadata")
