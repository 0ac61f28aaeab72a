"""Rows ↔ the core's data, for SQL stores.

Owns column order and JSON of nested records. Invariant: `entry(row(e, id, v)[1:]) == replace(e, version=v)`.
"""

from typing import Any, TypeAlias

import msgspec

from metadata.core import paths
from metadata.core.datasets import Dataset, LastListing, Mount, Specification
from metadata.core.entries import Entry, Kind
from metadata.core.fences import Fence
from metadata.core.held import HeldFile, HeldTally, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import ListingOrigin, ListingProgress, UnfinishedListing
from metadata.core.workers import Registration

ENTRY_COLUMNS = "parent, name, kind, size_bytes, etag, mtime_ns, mode, added_version"
DATASET_COLUMNS = (
    "id, specification, listed_mounts, version, files, bytes, synced_at_ns, error, error_reason, listing, held, fences"
)
EntryRow: TypeAlias = tuple[str, str, int, int, str, int, int, int]

_KINDS = (Kind.FILE, Kind.IMPLIED, Kind.MADE)
_specification = msgspec.json.Decoder(Specification)
_mounts = msgspec.json.Decoder(tuple[Mount, ...])
_listing = msgspec.json.Decoder(LastListing)
_origin = msgspec.json.Decoder(ListingOrigin)
_progress = msgspec.json.Decoder(ListingProgress)
_registration = msgspec.json.Decoder(Registration)
_tally = msgspec.json.Decoder(HeldTally)
_fences = msgspec.json.Decoder(tuple[Fence, ...])
_held = msgspec.json.Decoder(HeldFile)
_turn = msgspec.json.Decoder(Turn)
_left = msgspec.json.Decoder(LeftObject)
encode = msgspec.json.Encoder(order="deterministic").encode


def entry(row: Any) -> Entry:
    """The entry of a row in ENTRY_COLUMNS order."""
    parent, name, kind, size_bytes, etag, mtime_ns, mode, version = row
    path = f"{parent}/{name}" if parent else name
    return Entry(path, _KINDS[kind], size_bytes, etag, mtime_ns, mode, version)


def entry_row(entry: Entry, version: int) -> EntryRow:
    """The row of an entry, added by `version`."""
    parent, name = paths.split(entry.path)
    return parent, name, int(entry.kind), entry.size_bytes, entry.etag, entry.mtime_ns, entry.mode, version


def dataset(row: Any) -> Dataset:
    """The dataset of a row in DATASET_COLUMNS order."""
    number, specification, listed_mounts, version, files, size, synced_at_ns, error, reason, listing, held, fences = row
    return Dataset(
        _specification.decode(specification),
        number,
        version,
        files,
        size,
        synced_at_ns,
        error,
        reason,
        _mounts.decode(listed_mounts),
        _listing.decode(listing),
        _tally.decode(held),
        _fences.decode(fences),
    )


def registration(blob: bytes) -> Registration:
    """The registration of a row's blob."""
    return _registration.decode(blob)


def held(blob: bytes) -> HeldFile:
    """The held version of a row's blob."""
    return _held.decode(blob)


def turn(blob: bytes) -> Turn:
    """The turn of a row's blob."""
    return _turn.decode(blob)


def left(blob: bytes) -> LeftObject:
    """The left object of a row's blob."""
    return _left.decode(blob)


def unfinished_listing(listing_id: int, origin: bytes, progress: bytes) -> UnfinishedListing | None:
    """The listing of a row's blobs; None when another version of this program wrote them: it begins anew."""
    try:
        return UnfinishedListing(listing_id, _origin.decode(origin), _progress.decode(progress))
    except msgspec.DecodeError:
        return None
