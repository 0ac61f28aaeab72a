"""SQLite through apsw: the embedded store.

Owns connections, the commit protocol and where files lie: PATH (WAL, synchronous=FULL), PATH.listing for staged
listings (synchronous=NORMAL: a power loss costs the newest commits and damages nothing; thrown away at a start that
finds none that can go on) and PATH.lock (one process only). SQL of the two roles is
in `sqlite_reader.py` and `sqlite_transaction.py`.
Invariants: one thread writes; a commit is on the disk before `write` returns; SQLite before 3.51.3 is refused,
since its WAL-reset bug loses commits with two connections.
"""

import fcntl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import structlog

from metadata.errors import MetadataError, SettingsError, Unavailable
from metadata.stores.base import Reader, StoreBroken, Transaction
from metadata.stores.migrations import MIGRATIONS
from metadata.stores.sqlite_reader import SqliteReader
from metadata.stores.sqlite_transaction import SqliteTransaction

OLDEST_SQLITE: Final = (3, 51, 3)
CACHE_KIB: Final = 32 << 10
"""Page cache of one connection: the upper levels of the tree of tens of millions of entries."""
BUSY_MILLISECONDS: Final = 10_000

_DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError)
_TROUBLE: Final = (
    *_DAMAGED,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)
"""What the file, the disk and the machine are to blame for; every other error is a bug of ours."""

log = structlog.get_logger()

T = TypeVar("T")


def require_version(version: str) -> None:
    """Raise SettingsError when SQLite is one of those that lose commits."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise SettingsError(f"SQLite {version} can lose commits in WAL mode; {oldest} or newer is needed.")


class SqliteStore:
    """`Store` over one database file."""

    def __init__(self, path: Path) -> None:
        """Open or create the database; SettingsError says what is wrong with the file or the folder."""
        require_version(apsw.sqlite_lib_version())
        self._path = path
        self._listing_path = path.with_name(f"{path.name}.listing")
        self._connections: list[apsw.Connection] = []
        self._connections_lock = threading.Lock()
        self._own = threading.local()
        self._lock_file = _take_lock(path)
        try:
            # Before it is attached: a file that is in use cannot be taken away.
            if not _has_unfinished(self._listing_path):
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self._listing_path}{suffix}").unlink(missing_ok=True)
            self._writer = self._connect(may_create=True)
            _migrate(self._writer)
            _clear_staging(self._writer)
        except (apsw.Error, OSError) as error:
            self.close()
            raise SettingsError(f"the database {path} cannot be opened: {error}.") from error
        except SettingsError:
            self.close()
            raise

    def read(self, work: Callable[[Reader], T]) -> T:
        try:
            connection = self._thread_connection()
            with _reading(connection):
                return work(SqliteReader(connection))
        except _TROUBLE as error:
            raise _unavailable("read", error) from error

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        try:
            connection = self._connect()
            try:
                with _reading(connection):
                    yield SqliteReader(connection)
            finally:
                self._drop(connection)
        except _TROUBLE as error:
            raise _unavailable("read", error) from error

    def write(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | MetadataError]:
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise _unavailable("written", error) from error
        try:
            results = [self._attempt(work) for work in works]
            writer.execute("COMMIT")
        except apsw.FullError as error:
            self._roll_back()
            raise Unavailable("the disk of the metadata database is full; nothing was changed.") from error
        except apsw.IOError as error:
            # After a failed fsync the kernel may have dropped the pages: a second try would lie.
            raise StoreBroken(f"the disk of the metadata database failed: {error}") from error
        except _TROUBLE as error:
            self._roll_back()
            raise _unavailable("written", error) from error
        except BaseException:
            self._roll_back()
            raise
        return results

    def close(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._lock_file.close()

    def _attempt(self, work: Callable[[Transaction], T]) -> T | MetadataError:
        writer = self._writer
        writer.execute("SAVEPOINT work")
        try:
            result: T | MetadataError = work(SqliteTransaction(writer))
        except MetadataError as error:
            writer.execute("ROLLBACK TO work")
            result = error
        writer.execute("RELEASE work")
        return result

    def _roll_back(self) -> None:
        with suppress(apsw.Error):  # a full disk may have ended the transaction already
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _thread_connection(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect()
        return connection

    def _connect(self, *, may_create: bool = False) -> apsw.Connection:
        """Without `may_create` a file that was taken away is an error, never a new and empty database."""
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if may_create else 0)
        connection = apsw.Connection(str(self._path), flags=flags)
        with self._connections_lock:
            self._connections.append(connection)
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute("ATTACH ? AS staging", (str(self._listing_path),))
            connection.execute("PRAGMA staging.journal_mode = WAL")
            connection.execute("PRAGMA staging.synchronous = NORMAL")
        except apsw.Error:
            self._drop(connection)
            raise
        return connection

    def _drop(self, connection: apsw.Connection) -> None:
        with self._connections_lock:
            self._connections.remove(connection)
        connection.close()


@contextmanager
def snapshot_of(path: Path) -> Iterator[Reader]:
    """One committed state of a database that a service may be serving; SettingsError when it is not there, or of
    another version of this program. Needs no lock, and while it lasts the write-ahead log is not cleaned up."""
    require_version(apsw.sqlite_lib_version())
    if not path.is_file():
        raise SettingsError(f"there is no database {path}.")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        raise SettingsError(f"the database {path} cannot be opened: {error}.") from error
    try:
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            connection.execute("PRAGMA query_only = 1")
            schema: int = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").get
        except apsw.Error as error:
            raise SettingsError(f"{path} is no metadata database: {error}.") from error
        if schema != len(MIGRATIONS):
            raise SettingsError(
                f"the database has schema {schema}, this version {len(MIGRATIONS)}; run the version that serves it."
            )
        with _reading(connection):
            yield SqliteReader(connection)
    finally:
        connection.close()


@contextmanager
def _reading(connection: apsw.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # a disk that fails may have ended it
            connection.execute("ROLLBACK")


def _unavailable(done: str, error: apsw.Error) -> Unavailable:
    """`done`: what cannot be done with the database."""
    if isinstance(error, _DAMAGED):
        return Unavailable(f"the metadata database is damaged ({error}); stop the service and restore a backup.")
    return Unavailable(f"the metadata database cannot be {done}: {error}.")


def _take_lock(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise SettingsError(f"the folder {path.parent} of the database is not usable: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SettingsError(f"the database {path} is in use by another metadata process.") from None
    return file


def _migrate(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY) STRICT")
    applied: int = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").get
    if applied > len(MIGRATIONS):
        raise SettingsError(
            f"the database has schema {applied}, this version knows {len(MIGRATIONS)}; run the newer version."
        )
    for number, script in enumerate(MIGRATIONS[applied:], start=applied + 1):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(script)
        connection.execute("INSERT INTO migrations VALUES (?)", (number,))
        connection.execute("COMMIT")


def _has_unfinished(path: Path) -> bool:
    """Whether the staging file holds a listing that may go on. Damaged files hold none: the listing begins anew."""
    if not path.is_file():
        return False
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'unfinished'").get:
                return False  # of an older version of this program
            return bool(connection.execute("SELECT count(*) FROM unfinished").get)
        finally:
            connection.close()
    except apsw.Error as error:
        log.warning("metadata.staging_unreadable", path=str(path), message=str(error))
        return False


def _clear_staging(connection: apsw.Connection) -> None:
    """Keep the listings that may go on, and nothing else."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS staging.unfinished"
        " (listing_id INTEGER PRIMARY KEY, origin BLOB NOT NULL, progress BLOB NOT NULL) STRICT"
    )
    kept = {listing.id for listing in SqliteReader(connection).unfinished_listings()}
    names = connection.execute("SELECT name FROM staging.sqlite_schema WHERE name GLOB 'listing_*'").fetchall()
    for listing_id in {int(str(name).removeprefix("listing_")) for (name,) in names} - kept:
        SqliteTransaction(connection).drop_listing(listing_id)
    connection.execute("COMMIT")
