"""A block that was fetched: from where, why, and whether it may stay.

Owns the words for it. Invariant: what is `Fetched` has its checksum.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cacheruntime.worker.storing import Storing


class Source(StrEnum):
    """Where a block's bytes came from, seen from this node."""

    LOCAL = "local"
    PEER = "peer"
    ORIGIN = "origin"


class Why(StrEnum):
    """Why a block was read from the under store, seen from the node that read it."""

    HOME = "home"
    """We are its home, and nobody who was it before has it."""
    ASKED = "asked"
    """A peer takes us to be its home."""
    NO_HOME = "no_home"
    """None of the workers that may keep it is alive and unsuspected."""
    PEER_FAILED = "peer_failed"
    """Those who should have it failed, or refused."""
    HEDGE = "hedge"
    """The peer that was asked first is stalled."""
    MEDIUM = "medium"
    """It is resident here, and its medium does not give it now."""


class Keep(StrEnum):
    """Whether a block may stay on this node."""

    NO = "no"
    COPY = "copy"
    HOME = "home"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A block's bytes; not yet kept."""

    data: memoryview
    checksum: int
    source: Source
    is_settled: bool = False
    """It was stored while it was read, or its medium failed."""


class Keeper(Protocol):
    """Stores a block if it may stay."""

    async def keep(self, fetched: Fetched) -> None:
        """Store what was fetched."""
        ...

    def begin(self) -> Storing | None:
        """Return what stores the block while it is read; None: `keep` decides when it is here."""
        ...
