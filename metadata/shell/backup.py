"""Backup and restore of a metadata database, from the command line.

Owns files and the order of steps; what a backup is, is core/backup.py's. A backup reads one consistent state, also of a
database that is being served, and takes nothing over. A restore checks the whole file first and then fills an empty
database in one transaction: whatever fails, or is killed, leaves it empty.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

from api.held import is_held
from metadata.core import backup
from metadata.core.datasets import Dataset
from metadata.core.entries import Entry
from metadata.core.held import NOTHING_HELD, HeldTally, new_file
from metadata.errors import AlreadyExists, InvalidRequest
from metadata.stores.base import Reader, Transaction
from metadata.stores.registry import open_snapshot, open_store

COMPRESSION: Final = 1
"""Names compress to a tenth at the fastest level; more levels take longer than the database."""
Progress = Callable[[str, int, int], None]
"""Told of a step's name, entries done and entries in all."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a backup holds."""

    datasets: int
    entries: int
    size_bytes: int


def write(url: str, file: Path, *, written_at_ns: int, progress: Progress) -> Totals:
    """Write the state of the database at `url` to `file`, which appears whole or not at all. SettingsError about the
    database, OSError about the file."""
    counted = [0, 0]
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")

    def content(reader: Reader) -> Iterator[tuple[Dataset, Iterator[Entry]]]:
        datasets = reader.datasets()
        expected = sum(dataset.files for dataset in datasets)
        for dataset in datasets:
            counted[0] += 1
            yield dataset, entries(reader, dataset, expected)

    def entries(reader: Reader, dataset: Dataset, expected: int) -> Iterator[Entry]:
        for entry in reader.below(dataset.id, ""):
            counted[1] += 1
            if counted[1] % backup.BATCH_ENTRIES == 0:
                progress("writing", counted[1], max(expected, counted[1]))
            yield entry

    try:
        with open_snapshot(url) as reader, temporary.open("xb") as raw:
            temporary.chmod(0o600)
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
                for line in backup.lines(content(reader), written_at_ns):
                    packed.write(line)
            raw.flush()
            os.fsync(raw.fileno())
            size = raw.tell()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Totals(counted[0], counted[1], size)


def restore(url: str, file: Path, *, progress: Progress) -> Totals:
    """Fill the empty database at `url` with a backup. InvalidRequest when the file is no whole backup, AlreadyExists
    when the database has datasets, SettingsError about the database, OSError about the file."""
    checker = backup.Checker()
    for _ in _records(file, checker):
        progress("checking", checker.entries, 0)
    store = open_store(url)
    try:
        here = store.read(lambda reader: reader.datasets())
        if here:
            raise AlreadyExists(
                f"the database has {len(here)} datasets, {here[0].label} among them; restore into an empty one."
            )

        def work(transaction: Transaction) -> None:
            _fill(transaction, _records(file, backup.Checker()), checker.entries, progress)

        (result,) = store.write([work])
        if isinstance(result, Exception):
            raise result
    finally:
        store.close()
    return Totals(checker.datasets, checker.entries, file.stat().st_size)


def _fill(transaction: Transaction, records: Iterator[backup.Record], expected: int, progress: Progress) -> None:
    done = 0
    dataset: Dataset
    for record in records:
        if isinstance(record, backup.DatasetRecord):
            # What was held is counted as its entries come.
            dataset = transaction.put_dataset(replace(record.dataset, id=0, held=NOTHING_HELD))
            continue
        held = [entry for entry in record.entries if is_held(entry.etag)]
        if held:
            for entry in held:
                row = new_file(entry.etag, entry.path, entry.size_bytes, leaves_object=True)
                transaction.put_held(dataset.id, row)
            size = sum(entry.size_bytes for entry in held)
            tally = HeldTally(dataset.held.files + len(held), dataset.held.bytes + size)
            dataset = transaction.put_dataset(replace(dataset, held=tally))
        by_version = sorted(record.entries, key=lambda entry: entry.version)
        for version, entries in groupby(by_version, key=lambda entry: entry.version):
            transaction.insert(dataset.id, list(entries), version)
        done += len(record.entries)
        progress("restoring", done, expected)


def _records(file: Path, checker: backup.Checker) -> Iterator[backup.Record]:
    try:
        with gzip.open(file, "rb") as packed:
            while line := packed.readline(backup.LINE_BYTES_MAX):
                record = checker.record(line)
                if record is not None:
                    yield record
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidRequest(f"the backup {file} is torn, damaged or no backup: {error}.") from error
    checker.finish()
