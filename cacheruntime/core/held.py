"""Held versions on this node: what is written beside their bytes, and when one of them is uploaded.

Owns the record and the decisions; the files are worker/held_files.py's, the work worker/holding.py's and
held_uploads.py's. Pure: time is passed in, in seconds of the caller's clocks.

    kept --old enough, ours or the writer's worker is gone--> claimed --uploaded--> ended
      ^                                                         |
      '---------the store failed, or somebody had the turn------'

Invariants: a record names everything that is needed to find out what became of its bytes; a copy is dropped only when
metadata says that it is not needed, or the commit it was made for was never acknowledged.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from api.held import HeldName, held_name
from cacheruntime.core.homes import rank

RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0
"""An under store that is away for long is asked once a minute for each file."""


class RecordError(ValueError):
    """Bytes that are no record of a held version."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside the bytes; JSON, so that people can read it when metadata is lost."""

    etag: str
    uid: str
    path: str
    """Where it was committed; metadata knows its name of now."""
    size_bytes: int
    block_size_bytes: int
    checksums: list[int]
    """CRC32C of each block."""
    held_at_ns: int
    disk: str = ""
    """Of the first holder (held_files.disk_id)."""


_decoder = msgspec.json.Decoder(Record)
_encoder = msgspec.json.Encoder()


def encode(record: Record) -> bytes:
    """Return the record's bytes."""
    return _encoder.encode(record)


def decode(raw: bytes) -> Record:
    """Return the record; RecordError."""
    try:
        record = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise RecordError(str(error)) from error
    blocks = -(-record.size_bytes // record.block_size_bytes) if record.block_size_bytes > 0 else -1
    if held_name(record.etag) is None or blocks != len(record.checksums):
        raise RecordError(f"the record of {record.etag!r} does not fit itself")
    return record


def partners(id: str, me: str, live: Iterable[str]) -> list[str]:
    """Return who may hold a file beside this node, best first: spread over all, whatever the files' names."""
    return rank(id, "", 0, tuple(sorted(set(live) - {me})))


def quota_bytes(quotas: Sequence[tuple[str, int]], percent: float) -> int:
    """Return how much may be held; `quotas` are media and bytes. Memory holds nothing: it ends with its node."""
    return int(sum(quota for medium, quota in quotas if medium != "MEM") * percent / 100)


@dataclass(slots=True)
class Schedule:
    """When one held version is to be uploaded from here."""

    held_at_seconds: float
    not_before_seconds: float = 0.0
    failures: int = 0

    def is_due(self, now_seconds: float, name: HeldName, me: str, live: Collection[str], settings: "Settings") -> bool:
        """Whether to claim it now. The holder that is not the writer's waits as long as that one lives and is not
        hopelessly late."""
        age = now_seconds - self.held_at_seconds
        if now_seconds < self.not_before_seconds or age < settings.settle_seconds:
            return False
        return name.holders[0] == me or name.holders[0] not in live or age >= settings.takeover_seconds

    def failed(self, now_seconds: float) -> None:
        """The under store did not take it."""
        wait = min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2 ** min(self.failures, 10))
        self.failures += 1
        self.not_before_seconds = now_seconds + wait

    def later(self, now_seconds: float, seconds: float) -> None:
        """Nothing failed; look again then."""
        self.not_before_seconds = now_seconds + seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """`settle_seconds`: so old a file is uploaded, so that temporary files have their names by then.
    `takeover_seconds`: so old one the other holder helps."""

    settle_seconds: float
    takeover_seconds: float
