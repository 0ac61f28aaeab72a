"""The interface to a database that keeps namespaces: consistent reads, and writes committed in groups.

Owns the contract; what the rows mean is the core's business. Every method blocks: the shell calls them in
threads. A `Reader` shows one committed state for as long as its `read` runs.
Invariant: `write` returns only when all of its works are durable (survive a power loss), and a work that raised
a MetadataError has left nothing behind.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from metadata.core.datasets import Dataset
from metadata.core.entries import Changes, Entry
from metadata.core.held import HeldFile, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import ListingOrigin, ListingProgress, UnfinishedListing
from metadata.core.workers import Registration
from metadata.errors import MetadataError

T = TypeVar("T")


class Reader(Protocol):
    """One consistent state."""

    def datasets(self) -> list[Dataset]:
        """Every dataset, by namespace and name."""
        ...

    def dataset(self, uid: str) -> Dataset | None:
        """The dataset of that uid."""
        ...

    def dataset_named(self, namespace: str, name: str) -> Dataset | None:
        """The newest dataset of that name."""
        ...

    def fenced_datasets(self) -> list[Dataset]:
        """The few that have fences, in no order."""
        ...

    def entry(self, dataset_id: int, path: str) -> Entry | None:
        """The entry at `path`, which is not the root."""
        ...

    def children(self, dataset_id: int, path: str, *, after: str = "", limit: int = -1) -> list[Entry]:
        """Entries directly in a directory whose name sorts after `after`, by name; `limit` < 0 = all."""
        ...

    def below(self, dataset_id: int, path: str) -> Iterator[Entry]:
        """Every entry below a directory, by (parent, name)."""
        ...

    def bytes_below(self, dataset_id: int, path: str) -> int:
        """Sum of the sizes of the files below a directory."""
        ...

    def etags(self, dataset_id: int, paths: Iterable[str]) -> dict[str, str]:
        """Current etags of those of `paths` that are files."""
        ...

    def replaced_since(self, dataset_id: int, version: int) -> set[str]:
        """Paths of which a row was removed or replaced in a version after `version`."""
        ...

    def listed(self, listing_id: int) -> Iterator[Entry]:
        """The entries staged by a listing, by (parent, name)."""
        ...

    def unfinished_listings(self) -> list[UnfinishedListing]:
        """Listings that can go on after a restart, by id."""
        ...

    def request_version(self, request_id: str) -> int | None:
        """The version a mutation of that request id made, if it was applied lately."""
        ...

    def registrations(self) -> list[Registration]:
        """The last registration of every worker."""
        ...

    def held(self, dataset_id: int, etag: str) -> HeldFile | None:
        """The held version of that etag."""
        ...

    def turn(self, dataset_id: int, path: str) -> Turn | None:
        """Who has the turn of a path."""
        ...

    def left(self, dataset_id: int) -> list[LeftObject]:
        """Objects that renames left, by path."""
        ...

    def left_at(self, dataset_id: int, path: str) -> LeftObject | None:
        """The object that a rename left at a path."""
        ...

    def all_left(self) -> dict[str, list[LeftObject]]:
        """Objects that renames left, of every dataset that has any, by its uid."""
        ...


class Transaction(Reader, Protocol):
    """A state that can be changed; sees its own changes."""

    def put_dataset(self, dataset: Dataset) -> Dataset:
        """Insert (id 0) or update; returns the record with its id."""
        ...

    def remove_dataset(self, uid: str) -> int | None:
        """Forget the record; its entries stay until `purge`. Returns the id it had."""
        ...

    def purge(self, dataset_id: int, limit: int) -> bool:
        """Delete at most `limit` rows that belong to a removed dataset; True while some are left."""
        ...

    def orphans(self) -> list[int]:
        """Ids of removed datasets that still have rows: a purge that a restart interrupted."""
        ...

    def apply(self, dataset_id: int, changes: Changes, version: int) -> tuple[int, int]:
        """Make `version` of the changes; returns by how much files and bytes grew."""
        ...

    def insert(self, dataset_id: int, entries: Sequence[Entry], version: int) -> None:
        """Add entries of `version` whose paths the dataset does not have yet: a restore, which need not look first."""
        ...

    def adopt_listing(self, dataset_id: int, listing_id: int, version: int) -> tuple[int, int]:
        """Take everything a listing staged as the first content of an empty dataset; returns files and bytes."""
        ...

    def forget_history(self, dataset_id: int, up_to_version: int) -> None:
        """Delete removed rows of versions up to that one."""
        ...

    def begin_listing(self, origin: ListingOrigin | None = None) -> int:
        """Make room to stage a listing; returns its id. One without an origin is gone after a restart."""
        ...

    def stage(self, listing_id: int, entries: Sequence[Entry], progress: ListingProgress | None = None) -> None:
        """Add entries to a listing, and keep its progress with them; of two with one path a directory wins.

        A restart, also after a power loss, finds progress no further than the entries.
        """
        ...

    def drop_listing(self, listing_id: int) -> None:
        """Throw a staged listing away; no error when it is gone."""
        ...

    def remember_request(self, request_id: str, version: int) -> None:
        """Keep what a request id made; the oldest of too many are forgotten."""
        ...

    def put_registration(self, registration: Registration) -> None:
        """Keep a worker's registration in place of its last one."""
        ...

    def set_etag(self, dataset_id: int, path: str, etag: str, version: int) -> None:
        """Make `version`, in which a file's etag is another one and nothing else differs: the entry stays the one of
        the version that added it, and the old etag is history like that of a replaced file."""
        ...

    def put_held(self, dataset_id: int, held: HeldFile) -> None:
        """Keep a held version in place of what was known of it."""
        ...

    def forget_held(self, dataset_id: int, before_ns: int) -> None:
        """Delete what ended before that time and is left with no holder."""
        ...

    def put_turn(self, dataset_id: int, path: str, turn: Turn) -> None:
        """Give a path's turn to somebody, whoever has it."""
        ...

    def end_turn(self, dataset_id: int, turn_id: str) -> None:
        """Take a turn of all its paths away; no error when it is gone."""
        ...

    def put_left(self, dataset_id: int, left: LeftObject) -> None:
        """Keep an object that a rename left, in place of what was left at its path."""
        ...

    def drop_left(self, dataset_id: int, path: str) -> None:
        """Forget what was left at a path; no error when nothing is."""
        ...


class Store(Protocol):
    """A database."""

    def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the newest committed state; from any thread."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """A state that stays while the context lasts; for one thread at a time."""
        ...

    def write(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | MetadataError]:
        """Run the works in order and commit them together; one thread only. Each gives its result or its error.

        Raises Unavailable when nothing could be committed, StoreBroken when it is not known what was.
        """
        ...

    def close(self) -> None:
        """Release everything. No other call may be running."""
        ...


class StoreBroken(Exception):
    """The disk failed in the middle of a commit: only a restart, which looks at what is there, may go on."""
