"""PostgreSQL, or what speaks its protocol, through psycopg: the store that outgrows one machine.

Owns connections, the commit protocol, ownership and schema. SQL of the two roles is in `postgres_reader.py` and
`postgres_transaction.py`; it keeps to what CockroachDB and YugabyteDB accept: no advisory locks, no LISTEN, no
unlogged tables, names as bytes, so that their order is that of the bytes whatever the database's collation.

Invariants: a commit is acknowledged by the server before `write` returns. The process that started last owns the
database: every write checks that this is still so in its own transaction, so an older process that was cut off
writes nothing more. A password comes from a file (`passfile=` of the URL), never from the URL, and is in no error.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeVar

import psycopg
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict

from metadata.errors import InvalidRequest, MetadataError, SettingsError, Unavailable
from metadata.stores.base import Reader, StoreBroken, Transaction
from metadata.stores.postgres_migrations import MIGRATIONS
from metadata.stores.postgres_reader import PostgresReader
from metadata.stores.postgres_transaction import PostgresTransaction

CONNECT_SECONDS: Final = 5
LOCK_MILLISECONDS: Final = 10_000
READ_MILLISECONDS: Final = 60_000
WRITE_MILLISECONDS: Final = 600_000
"""Taking over a listing of tens of millions of entries is one statement."""
SERIALIZATION_TRIES: Final = 5
START_TRIES: Final = 20
START_PAUSE_SECONDS: Final = 0.1
"""A database that resolves conflicts by refusing one side (CockroachDB always, SQLSTATE 40001) asks to be tried
again; there is one writer, so that conflicts come from a process that is being replaced."""

_TROUBLE: Final = (
    psycopg.OperationalError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.InsufficientPrivilege,
    errors.InternalError_,
    errors.DataCorrupted,
    errors.IndexCorrupted,
)
"""What the server, its settings and the way to it are to blame for; other errors are bugs of ours."""
_DONE_MEANWHILE: Final = (
    errors.UniqueViolation,  # of a record, and of PostgreSQL's own list of tables
    errors.DuplicateTable,
    errors.DuplicateColumn,
    errors.DuplicateObject,
    errors.SerializationFailure,
    errors.DeadlockDetected,
)
"""Another process that starts did the same."""
_REFUSED: Final = (psycopg.DataError, errors.ProgramLimitExceeded)
"""A value that no column or index holds: NUL in a text, a path of more than an index row. It will not hold it later
either, so that whoever sent it is told, and nobody else."""

T = TypeVar("T")


class PostgresStore:
    """`Store` over one database."""

    def __init__(self, url: str) -> None:
        """Connect, migrate, and take the database over; SettingsError says what is wrong, without the password."""
        self._url = _checked(url)
        self._token = secrets.token_hex(16)
        self._connections: list[Connection] = []
        self._connections_lock = threading.Lock()
        self._own = threading.local()
        self._writer: Connection | None = None
        try:
            writer = self._connect(WRITE_MILLISECONDS)
            self._writer = writer
            _among_others(writer, _migrate)
            _among_others(writer, partial(_take_over, token=self._token))
        except psycopg.Error as error:
            self.close()
            raise SettingsError(f"the database {_place(self._url)} cannot be used: {_sentence(error)}.") from None
        except SettingsError:
            self.close()
            raise

    def read(self, work: Callable[[Reader], T]) -> T:
        # A server that came back has dropped our connections: the first use of each finds that out.
        for is_last in (False, True):
            connection: Connection | None = getattr(self._own, "connection", None)
            try:
                if connection is None:
                    connection = self._own.connection = self._connect(READ_MILLISECONDS)
                with _reading(connection):
                    return work(PostgresReader(connection))
            except _REFUSED as error:
                raise _cannot_hold(error) from None
            except _TROUBLE as error:
                if connection is not None:
                    self._own.connection = None
                    self._drop(connection)
                if is_last or not _is_lost(error):
                    raise Unavailable(f"the metadata database cannot be read: {_sentence(error)}.") from None
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        try:
            connection = self._connect(0)
        except psycopg.OperationalError as error:
            raise Unavailable(f"the metadata database cannot be read: {_sentence(error)}.") from None
        try:
            with _reading(connection):
                yield PostgresReader(connection)
        except _TROUBLE as error:
            raise Unavailable(f"the metadata database cannot be read: {_sentence(error)}.") from None
        finally:
            self._drop(connection)

    def write(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | MetadataError]:
        for _ in range(SERIALIZATION_TRIES):
            try:
                return self._commit(works)
            except (errors.SerializationFailure, errors.DeadlockDetected):
                continue
        raise Unavailable(f"the metadata database refused a change {SERIALIZATION_TRIES} times; nothing was changed.")

    def close(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _commit(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | MetadataError]:
        writer = self._open_writer()
        try:
            writer.execute("BEGIN")
            self._check_owner(writer)
            results = [_attempt(writer, work) for work in works]
        except errors.DiskFull:
            self._roll_back(writer)
            raise Unavailable("the disk of the metadata database is full; nothing was changed.") from None
        except (errors.SerializationFailure, errors.DeadlockDetected):
            self._roll_back(writer)
            raise
        except _TROUBLE as error:
            self._roll_back(writer)
            if isinstance(error, errors.ReadOnlySqlTransaction):
                # Of several servers another one writes now: the next connection finds it.
                self._drop(writer)
            raise Unavailable(f"the metadata database cannot be written: {_sentence(error)}.") from None
        except BaseException:
            self._roll_back(writer)
            raise
        try:
            writer.execute("COMMIT")
        except (errors.SerializationFailure, errors.DeadlockDetected):
            self._roll_back(writer)
            raise
        except psycopg.Error as error:
            # Sent, and not answered: whether it stands only a new look can tell.
            raise StoreBroken(
                f"the connection to the metadata database failed in a commit: {_sentence(error)}"
            ) from None
        return results

    def _check_owner(self, writer: Connection) -> None:
        row = writer.execute("SELECT token FROM owner WHERE one = 1 FOR UPDATE").fetchone()
        if row is None or row[0] != self._token:
            raise StoreBroken("another metadata process has taken the database over")

    def _open_writer(self) -> Connection:
        if self._writer is None or self._writer.closed:
            try:
                self._writer = self._connect(WRITE_MILLISECONDS)
            except psycopg.OperationalError as error:
                raise Unavailable(f"the metadata database cannot be written: {_sentence(error)}.") from None
        return self._writer

    def _roll_back(self, writer: Connection) -> None:
        try:
            writer.execute("ROLLBACK")
        except psycopg.Error:
            # The server ends a transaction whose connection is gone.
            self._drop(writer)
            self._writer = None

    def _connect(self, statement_milliseconds: int) -> Connection:
        """`statement_milliseconds` 0: no limit."""
        options = f"-c statement_timeout={statement_milliseconds} -c lock_timeout={LOCK_MILLISECONDS}"
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="headrace-metadata",
            options=options,
            # A machine that vanished is noticed within half a minute.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=4,
        )
        with self._connections_lock:
            self._connections.append(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        with self._connections_lock, suppress(ValueError):
            self._connections.remove(connection)
        connection.close()


@contextmanager
def snapshot_of(url: str) -> Iterator[Reader]:
    """One committed state of a database that a service may be serving: it is not taken over. SettingsError when it
    cannot be used, or is of another version of this program."""
    place = _place(_checked(url))
    try:
        connection = psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="headrace-meta-backup"
        )
    except psycopg.Error as error:
        raise SettingsError(f"the database {place} cannot be used: {_sentence(error)}.") from None
    with connection:
        try:
            row = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()
        except psycopg.Error as error:
            raise SettingsError(f"{place} is no metadata database: {_sentence(error)}.") from None
        schema = int(row[0]) if row else 0
        if schema != len(MIGRATIONS):
            raise SettingsError(
                f"the database has schema {schema}, this version {len(MIGRATIONS)}; run the version that serves it."
            )
        try:
            with _reading(connection):
                yield PostgresReader(connection)
        except psycopg.OperationalError as error:
            raise Unavailable(f"the metadata database cannot be read: {_sentence(error)}.") from None


def _attempt(writer: Connection, work: Callable[[Transaction], T]) -> T | MetadataError:
    writer.execute("SAVEPOINT work")
    try:
        result: T | MetadataError = work(PostgresTransaction(writer))
    except MetadataError as error:
        writer.execute("ROLLBACK TO SAVEPOINT work")
        result = error
    except _REFUSED as error:
        writer.execute("ROLLBACK TO SAVEPOINT work")
        result = _cannot_hold(error)
    writer.execute("RELEASE SAVEPOINT work")
    return result


@contextmanager
def _reading(connection: Connection) -> Iterator[None]:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _checked(url: str) -> str:
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "store postgresql://… is not usable; write postgresql://USER@HOST:PORT/DATABASE?passfile=FILE."
        ) from None
    if parts.get("password"):
        # It would be in `ps`, in the environment and in the log of settings.
        raise SettingsError(
            "store postgresql://… has a password in it; put it into a file as libpq reads it "
            "(HOST:PORT:DATABASE:USER:PASSWORD) and write ?passfile=FILE."
        )
    return url


def _place(url: str) -> str:
    parts = conninfo_to_dict(url)
    return f"{parts.get('dbname', '')} at {parts.get('host', 'the local socket')}:{parts.get('port', 5432)}"


def _sentence(error: psycopg.Error) -> str:
    """The first line of an error, without the full stop; libpq's has hosts and names in it, never passwords."""
    return (str(error).strip().splitlines() or ["no reason was given"])[0].rstrip(".")


def _cannot_hold(error: psycopg.Error) -> InvalidRequest:
    return InvalidRequest(f"the metadata database cannot hold that: {_sentence(error)}.")


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone (class 08, a shutdown, no answer at all) rather than the statement at fault."""
    code = error.sqlstate
    return code is None or code.startswith(("08", "57P"))


def _among_others(connection: Connection, work: Callable[[Connection], None]) -> None:
    """Do what several processes that start at once all do: who comes second finds it done. Told by its being refused,
    as not every database has locks for that."""
    for is_last in (*(False,) * START_TRIES, True):
        try:
            work(connection)
        except _DONE_MEANWHILE:
            connection.rollback()
            if is_last:
                raise
            time.sleep(START_PAUSE_SECONDS)
        else:
            return


def _migrate(connection: Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY)")
    row = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()
    applied = int(row[0]) if row else 0
    if applied > len(MIGRATIONS):
        raise SettingsError(
            f"the database has schema {applied}, this version knows {len(MIGRATIONS)}; run the newer version."
        )
    for number, statements in enumerate(MIGRATIONS[applied:], start=applied + 1):
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (%s)", (number,))
        connection.execute("COMMIT")


def _take_over(connection: Connection, token: str) -> None:
    """From now on writes of older processes are refused, and what they staged is thrown away, but for
    listings that can go on."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM owner")
    connection.execute("INSERT INTO owner (one, token) VALUES (1, %s)", (token,))
    kept = [listing.id for listing in PostgresReader(connection).unfinished_listings()]
    connection.execute("DELETE FROM listing_entries WHERE NOT listing_id = ANY(%s)", (kept,))
    connection.execute("DELETE FROM listings WHERE NOT id = ANY(%s)", (kept,))
    connection.execute("COMMIT")
