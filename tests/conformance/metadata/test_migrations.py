"""Databases of earlier versions are brought up to date with all they hold, also after an interruption."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from metadata.core.entries import Kind
from metadata.errors import SettingsError
from metadata.stores import postgres, sqlite
from metadata.stores.base import Reader, Store
from metadata.stores.registry import open_store

SPECIFICATION = '{"uid":"u","namespace":"ns","name":"old","mounts":[]}'
ENTRY = (
    "INSERT INTO entries (dataset_id, parent, name, kind, size_bytes, etag, mtime_ns, mode, added_version)"
    f" VALUES (1, '', 'kept', {int(Kind.FILE)}, 3, 'e', 9, 420, 7)"
)


@dataclass
class Site:
    """A database that does not exist yet, and the code that brings it up to date."""

    url: str
    module: Any
    execute: Callable[[str], object]
    blob: Callable[[str], str]
    """How the database spells these bytes."""

    @property
    def steps(self) -> int:
        return len(self.module.MIGRATIONS)


@pytest.fixture(params=["sqlite", "postgres"])
def new_site(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Site]:
    if request.param == "sqlite":
        return partial(_sqlite_site, tmp_path, count())
    return partial(_postgres_site, request.getfixturevalue("postgres_server"))


def _sqlite_site(folder: Path, numbers: Iterator[int]) -> Site:
    path = folder / f"metadata-{next(numbers)}.db"

    def execute(statement: str) -> object:
        connection = apsw.Connection(str(path))
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    return Site(f"sqlite://{path}", sqlite, execute, lambda text: f"x'{text.encode().hex()}'")


def _postgres_site(server: Any) -> Site:
    url: str = server.new_database()

    def execute(statement: str) -> object:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount

    return Site(url, postgres, execute, lambda text: f"'{text}'")


def make_old(site: Site, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A database of the version that knew so many steps, with a dataset and a file."""
    with monkeypatch.context() as patch:
        patch.setattr(site.module, "MIGRATIONS", site.module.MIGRATIONS[:steps])
        # What was not there yet cannot be cleared either.
        for name in ("_clear_staging", "_take_over"):
            patch.setattr(site.module, name, lambda *_, **__: None, raising=False)
        open_store(site.url).close()
    site.execute(
        "INSERT INTO datasets (uid, namespace, name, specification, listed_mounts, version, files, bytes,"
        f" synced_at_ns, error, error_reason) VALUES ('u', 'ns', 'old', {site.blob(SPECIFICATION)}, {site.blob('[]')},"
        " 7, 1, 3, 5, '', '')"
    )
    site.execute(ENTRY)


def check_all_is_there(store: Store) -> None:
    def read(reader: Reader) -> tuple[int, list[str]]:
        (dataset,) = reader.datasets()
        return dataset.version, [entry.path for entry in reader.children(dataset.id, "")]

    assert store.read(read) == (7, ["kept"])


def test_a_database_of_each_earlier_version_is_brought_up_to_date(
    new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in range(1, new_site().steps):
        each = new_site()
        make_old(each, monkeypatch, steps)
        store = open_store(each.url)
        try:
            check_all_is_there(store)
        finally:
            store.close()


def test_a_step_that_is_interrupted_leaves_the_database_as_it_was(
    new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in range(1, new_site().steps):
        each = new_site()
        make_old(each, monkeypatch, steps)
        with monkeypatch.context() as patch:
            patch.setattr(each.module, "MIGRATIONS", _broken_off(each.module.MIGRATIONS, steps))
            with pytest.raises(SettingsError, match="nowhere"):
                open_store(each.url)
        store = open_store(each.url)
        try:
            check_all_is_there(store)
        finally:
            store.close()


def test_a_database_of_a_later_version_is_refused(
    new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site()
    open_store(site.url).close()
    with monkeypatch.context() as patch:
        patch.setattr(site.module, "MIGRATIONS", site.module.MIGRATIONS[:-1])
        with pytest.raises(SettingsError, match="run the newer version"):
            open_store(site.url)
    open_store(site.url).close()


def test_processes_that_start_at_once_on_a_new_postgresql_database_all_get_on(postgres_server: Any) -> None:
    for _ in range(5):
        url = postgres_server.new_database()
        barrier, failed = threading.Barrier(4), list[BaseException]()

        def start(url: str = url, barrier: threading.Barrier = barrier, failed: list[BaseException] = failed) -> None:
            barrier.wait()
            try:
                open_store(url).close()
            except SettingsError as error:
                failed.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        store = open_store(url)
        try:
            assert store.read(lambda reader: reader.datasets()) == []
        finally:
            store.close()


def _broken_off(migrations: tuple[Any, ...], steps: int) -> tuple[Any, ...]:
    """The next step ends with a statement that fails, when all others of it were executed."""
    step, failing = migrations[steps], "INSERT INTO nowhere VALUES (1)"
    broken = f"{step};{failing}" if isinstance(step, str) else (*step, failing)
    return (*migrations[:steps], broken, *migrations[steps + 1 :])
