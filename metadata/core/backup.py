"""What a backup is: lines of JSON, each one record, closed by a digest of all before it.

    Head · (DatasetRecord · EntriesRecord*)* · End

Owns the records and what makes a file whole. Pure. Both stores write and read it, so a backup of one restores into the
other. Not in it: the history of replaced entries and the ids of requests, which serve a running process only, and
workers, which register again.

Invariants: records come in the order above; `End` counts what came and has the SHA-256 of every byte before its line;
nothing comes behind it. A file for which `Checker.finish` does not raise was written whole and is unchanged.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from metadata.core.datasets import Dataset
from metadata.core.entries import Entry
from metadata.errors import InvalidRequest

FORMAT: Final = "headrace-metadata-backup"
VERSION: Final = 1
BATCH_ENTRIES: Final = 1_000
LINE_BYTES_MAX: Final = 64 << 20


class Head(msgspec.Struct, frozen=True, tag="head"):
    """First line."""

    format: str
    version: int
    written_at_ns: int


class DatasetRecord(msgspec.Struct, frozen=True, tag="dataset"):
    """A dataset; the entries up to the next one are its own."""

    dataset: Dataset


class EntriesRecord(msgspec.Struct, frozen=True, tag="entries"):
    """Some entries of the dataset before."""

    entries: list[Entry]


class End(msgspec.Struct, frozen=True, tag="end"):
    """Last line."""

    datasets: int
    entries: int
    sha256: str


Record = DatasetRecord | EntriesRecord
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Head | DatasetRecord | EntriesRecord | End, strict=True)


def lines(content: Iterable[tuple[Dataset, Iterable[Entry]]], written_at_ns: int) -> Iterator[bytes]:
    """Yield the lines of a backup."""
    digest = hashlib.sha256()
    datasets = entries = 0

    def line(record: Any) -> bytes:
        raw = _encoder.encode(record) + b"\n"
        digest.update(raw)
        return raw

    yield line(Head(FORMAT, VERSION, written_at_ns))
    for dataset, below in content:
        datasets += 1
        yield line(DatasetRecord(dataset))
        batch: list[Entry] = []
        for entry in below:
            batch.append(entry)
            entries += 1
            if len(batch) == BATCH_ENTRIES:
                yield line(EntriesRecord(batch))
                batch = []
        if batch:
            yield line(EntriesRecord(batch))
    yield _encoder.encode(End(datasets, entries, digest.hexdigest())) + b"\n"


class Checker:
    """Takes a backup's lines and gives its records; InvalidRequest says in what way it is no whole backup."""

    def __init__(self) -> None:
        self.datasets = 0
        self.entries = 0
        self._digest = hashlib.sha256()
        self._has_head = False
        self._end: End | None = None

    def record(self, line: bytes) -> Record | None:
        """Return the record of a line; None for the first and the last."""
        if self._end is not None:
            raise InvalidRequest("the backup has lines behind its end; it is not what was written.")
        try:
            found: Head | Record | End = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the backup is damaged or no backup: {error}.") from error
        if isinstance(found, End):
            self._ended(found)
            return None
        self._digest.update(line)
        if isinstance(found, Head):
            self._headed(found)
            return None
        if not self._has_head or (isinstance(found, EntriesRecord) and not self.datasets):
            raise InvalidRequest("the backup has records in no order; it is not what was written.")
        if isinstance(found, DatasetRecord):
            self.datasets += 1
        else:
            self.entries += len(found.entries)
        return found

    def finish(self) -> None:
        """All lines were given: raise when the end was not among them."""
        if self._end is None:
            raise InvalidRequest("the backup is torn: its end is missing.")

    def _headed(self, head: Head) -> None:
        if self._has_head or head.format != FORMAT:
            raise InvalidRequest(f"the backup's format is {head.format!r}, it must be {FORMAT!r}, once.")
        if head.version > VERSION:
            raise InvalidRequest(
                f"the backup has version {head.version}, this program knows {VERSION}; run the newer one."
            )
        self._has_head = True

    def _ended(self, end: End) -> None:
        if (end.datasets, end.entries, end.sha256) != (self.datasets, self.entries, self._digest.hexdigest()):
            raise InvalidRequest("the backup is damaged: its digest is not that of what was written.")
        self._end = end
