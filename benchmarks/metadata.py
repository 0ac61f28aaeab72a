"""The metadata store on this machine: listing rate, lookups, opening; without gRPC.

Owns a database file in a temporary directory for as long as it runs. The page cache is warm: what is read was just
written. Goal: 100,000 objects/s into the store, from entries in memory: an under store's own speed is not in it.
`bucket-listing` is the whole way instead: a bucket that answers at once, the metadata process, a snapshot in SQLite.
`watch-…` is metadata_watch.py's.
Lookups and opening have no goal here, since the figures asked for (1 ms, 5 s) are the service's, with gRPC and a new
process.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import frame
from benchmarks.bucket_listing import DIRECTORY_FILES, BucketProcess, listed_by_boto3, listed_by_us
from benchmarks.metadata_watch import watch_cases
from metadata.core.datasets import Dataset, Specification
from metadata.core.entries import Entry, Kind
from metadata.errors import MetadataError
from metadata.stores.base import Reader, Store
from metadata.stores.registry import open_store

FILES: Final = 1_000_000
QUICK_FILES: Final = 50_000
FILES_A_DIRECTORY: Final = 1_000
STAGE_ENTRIES: Final = 5_000
"""As the service stages them."""
LOOKUPS: Final = 20_000
UNIT_MILLISECONDS: Final = 1e3


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = frame.parser("metadata", "The metadata store: listing rate, lookup times, opening again.")
    parser.add_argument(
        "--files", type=int, metavar="N", help=f"files of the dataset ({FILES}; --quick: {QUICK_FILES})"
    )
    options = parser.parse_args(arguments)
    files = options.files or (QUICK_FILES if options.quick else FILES)
    listing: list[frame.Run] = []
    lookups: list[frame.Run] = []
    opening: list[frame.Run] = []
    bucket: list[frame.Run] = []
    for number in range(options.runs):
        frame.progress(f"run {number + 1} of {options.runs}: {files} files")
        with tempfile.TemporaryDirectory(prefix="headrace-metadata-") as folder:
            rate, p99, opened = _measure(f"sqlite://{Path(folder).resolve()}/metadata.db", files)
        listing.append((rate,))
        lookups.append((p99 * UNIT_MILLISECONDS,))
        opening.append((opened,))
        in_bucket = files - files % DIRECTORY_FILES
        with BucketProcess(in_bucket) as endpoint:
            bucket.append((listed_by_us(endpoint, in_bucket), listed_by_boto3(endpoint, in_bucket)))
    note = f"SQLite, {files} files, page cache warm, same process, no gRPC"
    process = f"metadata process with SQLite, {files} objects in directories of {DIRECTORY_FILES}, bucket beside it"
    cases = [
        frame.Case("bucket-listing", "objects/s", [run[:1] for run in bucket], goal=100_000, note=process),
        frame.Case(
            "bucket-listing-and-plain-list",
            "objects/s",
            bucket,
            yardstick="boto3's paginator, which keeps nothing",
            note=process,
        ),
        frame.Case("store-listing", "objects/s", listing, goal=100_000, note=note),
        frame.Case("store-lookup-p99", "ms", lookups, higher_is_better=False, note=note),
        frame.Case("store-open-to-first-answer", "s", opening, higher_is_better=False, note=note),
    ]
    cases += watch_cases(quick=options.quick, runs=options.runs)
    frame.report("metadata", cases, options.json, options.plot)
    return 0


def _measure(url: str, files: int) -> tuple[float, float, float]:
    """Objects listed a second, p99 of a lookup in seconds, seconds from open to the first answer."""
    store = open_store(url)
    try:
        dataset: Dataset = _do(store, lambda tx: tx.put_dataset(Dataset(Specification("u", "ns", "data", ()))))
        pages = list(_pages(files))
        started = time.perf_counter()
        listing = _do(store, lambda tx: tx.begin_listing())
        for page in pages:
            _do(store, partial(_stage, listing, page))
        listed, _ = _do(store, lambda tx: tx.adopt_listing(dataset.id, listing, 1))
        _do(store, lambda tx: tx.drop_listing(listing))
        rate = files / (time.perf_counter() - started)
        if listed != files:
            raise SystemExit(f"{listed} files are in the store, {files} were listed")
        p99 = _lookup_p99(store, dataset.id, files)
    finally:
        store.close()
    started = time.perf_counter()
    store = open_store(url)
    try:
        store.read(partial(_find, dataset.id, _path(files - 1)))
        return rate, p99, time.perf_counter() - started
    finally:
        store.close()


def _lookup_p99(store: Store, dataset_id: int, files: int) -> float:
    chance = random.Random(1)
    seconds = []
    for _ in range(LOOKUPS):
        work = partial(_find, dataset_id, _path(chance.randrange(files)))
        started = time.perf_counter()
        store.read(work)
        seconds.append(time.perf_counter() - started)
    return statistics.quantiles(seconds, n=100)[98]


def _pages(files: int) -> Iterator[list[Entry]]:
    page: list[Entry] = []
    for number in range(files):
        if number % FILES_A_DIRECTORY == 0:
            page.append(Entry(_path(number).rpartition("/")[0], Kind.IMPLIED, mode=0o755))
        page.append(Entry(_path(number), Kind.FILE, 100_000, f"{number:032x}", 1, 0o644))
        if len(page) >= STAGE_ENTRIES:
            yield page
            page = []
    yield page


def _path(number: int) -> str:
    return f"shard-{number // FILES_A_DIRECTORY:06}/image-{number:09}.jpg"


def _find(dataset_id: int, path: str, reader: Reader) -> None:
    if reader.entry(dataset_id, path) is None:
        raise SystemExit(f"{path!r} was listed and is not found")


def _stage(listing: int, page: list[Entry], transaction: Any) -> None:
    transaction.stage(listing, page)


def _do(store: Store, work: Any) -> Any:
    (result,) = store.write([work])
    if isinstance(result, MetadataError):
        raise SystemExit(result.message)
    return result
