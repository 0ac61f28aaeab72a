"""Backups: every pair of stores, files that are torn or damaged, processes that are killed in the middle."""

import gzip
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from headrace.__main__ import app
from metadata.core.datasets import Dataset, LastListing, Mount, Specification
from metadata.core.entries import Changes, Entry, Kind
from metadata.errors import AlreadyExists, InvalidRequest, SettingsError
from metadata.shell import backup
from metadata.stores.base import Transaction
from metadata.stores.registry import open_store
from tests.builders.postgres import PASSWORD, PostgresServer

NewUrl = Callable[[], str]
MOUNT = Mount("s3://b/p", "in", "m", {"endpoint": "http://x"}, {"accessKeyId": "ns/s/k"}, True)
KINDS = ["sqlite", "postgres"]
State = list[tuple[Dataset, list[Entry]]]


def quiet(_step: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    def make(kind: str) -> str:
        if kind == "postgres":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            return server.new_database()
        return f"sqlite://{tmp_path}/{time.monotonic_ns()}/meta.db"

    return make


def fill(url: str, state: State) -> None:
    store = open_store(url)

    def work(transaction: Transaction) -> None:
        for dataset, entries in state:
            dataset_id = transaction.put_dataset(replace(dataset, id=0)).id
            for entry in entries:
                transaction.apply(dataset_id, Changes(upserts=[entry]), entry.version)

    (result,) = store.write([work])
    store.close()
    assert result is None


def content(url: str) -> State:
    store = open_store(url)
    try:
        return store.read(
            lambda reader: [(replace(each, id=0), list(reader.below(each.id, ""))) for each in reader.datasets()]
        )
    finally:
        store.close()


def a_dataset(number: int, version: int = 1) -> Dataset:
    specification = Specification(f"u{number}", "ns", f"d{number}", (MOUNT,), ("n1",), True, True, 2)
    return Dataset(
        specification,
        version=version,
        files=1,
        bytes=7,
        synced_at_ns=5,
        error="Ω",
        error_reason="E",
        listed_mounts=(MOUNT,),
        listing=LastListing(1, 2, 3, 4, 5, 6, 7),
    )


def some_state(files: int = 3000) -> State:
    chance = random.Random(4)
    entries = [
        Entry(f"dir/f{number:06}", Kind.FILE, number, f"e{number}", 5, 0o640, chance.randint(1, 9))
        for number in range(files)
    ]
    entries.append(Entry("dir", Kind.IMPLIED, mode=0o755, version=1))
    return [(a_dataset(1, 9), entries), (a_dataset(2), [])]


def ordered(state: State) -> State:
    return [(dataset, sorted(entries, key=lambda entry: entry.path)) for dataset, entries in state]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_a_backup_of_either_store_restores_into_either(
    new_url: Callable[[str], str], tmp_path: Path, source: str, target: str
) -> None:
    old, new = new_url(source), new_url(target)
    fill(old, some_state())
    written = backup.write(old, tmp_path / "b", written_at_ns=1, progress=quiet)
    assert (written.datasets, written.entries) == (2, 3001)
    assert written.size_bytes == (tmp_path / "b").stat().st_size
    assert backup.restore(new, tmp_path / "b", progress=quiet) == written
    assert ordered(content(new)) == ordered(some_state()) == ordered(content(old))
    with pytest.raises(AlreadyExists, match=r"has 2 datasets, ns/d1 among them; restore into an empty one"):
        backup.restore(new, tmp_path / "b", progress=quiet)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["b"]


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
NAME = TEXT.filter(lambda name: bool(name) and "/" not in name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAME, st.tuples(st.integers(0, 1 << 62), TEXT, st.integers(1, 1 << 40)), max_size=30))
def test_any_names_come_back(tmp_path: Path, files: dict[str, tuple[int, str, int]]) -> None:
    folder = tmp_path / str(time.monotonic_ns())
    state = [
        (
            a_dataset(1),
            [Entry(name, Kind.FILE, size, etag, 3, 0o600, version) for name, (size, etag, version) in files.items()],
        )
    ]
    fill(f"sqlite://{folder}/old.db", state)
    backup.write(f"sqlite://{folder}/old.db", folder / "b", written_at_ns=1, progress=quiet)
    backup.restore(f"sqlite://{folder}/new.db", folder / "b", progress=quiet)
    assert ordered(content(f"sqlite://{folder}/new.db")) == ordered(state)


def test_torn_and_damaged_files_are_refused_and_leave_nothing(new_url: Callable[[str], str], tmp_path: Path) -> None:
    old = new_url("sqlite")
    fill(old, some_state(300))
    file = tmp_path / "b"
    backup.write(old, file, written_at_ns=1, progress=quiet)
    whole, plain = file.read_bytes(), gzip.decompress(file.read_bytes())
    new = new_url("sqlite")
    chance = random.Random(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        if chance.random() < 0.5:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        try:
            backup.restore(new, file, progress=quiet)
        except InvalidRequest:
            refused += 1
            assert not Path(new.removeprefix("sqlite://")).exists(), "it was looked at first"
        else:  # A bit of gzip's own header, which says nothing.
            assert ordered(content(new)) == ordered(content(old))
            new = new_url("sqlite")
    assert refused > 140
    lines = plain.splitlines(keepends=True)
    for wrong in (
        lines[:-1],  # no end
        [*lines, lines[1]],  # more behind it
        [lines[0], *lines[2:]],  # entries of no dataset
        lines[1:],  # no head
        [*lines[:2], *lines[3:]],  # a line less
        [plain[: len(plain) // 2]],
        [b'{"type":"head","format":"other","version":1,"written_at_ns":1}\n'],
    ):
        file.write_bytes(gzip.compress(b"".join(wrong)))
        with pytest.raises(InvalidRequest, match=r"^the backup"):
            backup.restore(new, file, progress=quiet)
    file.write_bytes(gzip.compress(plain.replace(b'"version":1,"written', b'"version":2,"written', 1)))
    with pytest.raises(InvalidRequest, match="version 2, this program knows 1; run the newer one"):
        backup.restore(new, file, progress=quiet)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_that_is_killed_leaves_an_empty_database(
    new_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    old, new = new_url("sqlite"), new_url(kind)
    fill(old, some_state(200))
    store = open_store(old)
    many = [Entry(f"many/f{number:06}", Kind.FILE, number, "e", 5, 0o640, 1) for number in range(60_000)]
    store.write([lambda transaction: transaction.apply(1, Changes(upserts=many), 1)])
    store.close()
    backup.write(old, tmp_path / "b", written_at_ns=1, progress=quiet)
    # Killed by its own progress: in the middle of the transaction, whatever the machine's speed.
    program = (
        "import os, signal, sys; from pathlib import Path; from metadata.shell import backup\n"
        "def tell(step, done, total):\n"
        "    if step == 'restoring' and done > 30_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.restore(sys.argv[1], Path(sys.argv[2]), progress=tell)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, new, str(tmp_path / "b")], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert content(new) == []
    backup.restore(new, tmp_path / "b", progress=quiet)
    assert ordered(content(new)) == ordered(content(old))


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_beside_a_store_that_is_served_takes_nothing_over(
    new_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    url = new_url(kind)
    fill(url, some_state(2500))
    serving = open_store(url)
    writes = 0

    def write_between(_step: str, _done: int, _total: int) -> None:
        nonlocal writes
        entry = Entry(f"late-{writes}", Kind.FILE, 1, "e", 5, 0o640, 10)
        (result,) = serving.write([lambda transaction: transaction.apply(1, Changes(upserts=[entry]), 10)])
        assert not isinstance(result, Exception)
        writes += 1

    try:
        backup.write(url, tmp_path / "b", written_at_ns=1, progress=write_between)
        assert writes == 2
        serving.write([lambda transaction: transaction.remember_request("r", 1)])
    finally:
        serving.close()
    new = new_url("sqlite")
    backup.restore(new, tmp_path / "b", progress=quiet)
    assert ordered(content(new)) == ordered(some_state(2500)), "one state: that of the beginning"


def test_the_command_says_what_it_did_and_what_is_wrong(new_url: Callable[[str], str], tmp_path: Path) -> None:
    run = CliRunner()
    old, new, file = new_url("sqlite"), new_url("sqlite"), str(tmp_path / "b")
    fill(old, some_state(10))
    done = run.invoke(app, ["meta", "backup", "--store", old, file])
    assert done.exit_code == 0 and done.output.startswith("2 datasets, 11 entries, "), done.output
    assert Path(file).stat().st_mode & 0o777 == 0o600
    done = run.invoke(app, ["meta", "restore", file], env={"HEADRACE_METADATA_STORE": new})
    assert (done.exit_code, done.output) == (0, f"2 datasets, 11 entries restored from {file}\n")
    for words, message in (
        (["backup", "--store", f"sqlite://{tmp_path}/none.db", file], "there is no database"),
        (["backup", "--store", old, f"{tmp_path}/none/b"], "No such file or directory"),
        (["backup", "--store", "mysql://x", file], "has no usable scheme"),
        (["restore", "--store", new, file], "restore into an empty one"),
        (["restore", "--store", new_url("sqlite"), f"{tmp_path}/none"], "No such file or directory"),
    ):
        done = run.invoke(app, ["meta", *words])
        assert done.exit_code == 1 and message in str(done.exception), (words, done.exception)


def test_a_database_of_another_version_and_a_wrong_password_are_refused(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    with pytest.raises(SettingsError, match="is no metadata database"):
        backup.write(url, tmp_path / "b", written_at_ns=1, progress=quiet)
    with pytest.raises(SettingsError, match="has a password in it") as error:
        backup.write(url.replace("headrace@", f"headrace:{PASSWORD}@"), tmp_path / "b", written_at_ns=1, progress=quiet)
    assert PASSWORD not in str(error.value)
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(SettingsError, match="is no metadata database"):
        backup.write(f"sqlite://{tmp_path}/x.db", tmp_path / "b", written_at_ns=1, progress=quiet)
    assert not list(tmp_path.glob("*b*.tmp")) and not (tmp_path / "b").exists()
