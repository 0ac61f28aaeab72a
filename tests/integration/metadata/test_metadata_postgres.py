"""The metadata service on a PostgreSQL that dies, comes back, or is taken over; its password shows nowhere."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from metadata.errors import SettingsError, Unavailable
from metadata.stores.base import StoreBroken
from metadata.stores.postgres import PostgresStore
from tests.builders.postgres import PASSWORD, PostgresServer

Start = Callable[..., Any]
Connect = Callable[[Any], Any]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One that may be killed."""
    made = PostgresServer(tmp_path_factory.mktemp("postgres"))
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.nightly)])
async def test_a_server_that_is_killed_loses_nothing_acknowledged_and_is_waited_for(
    server: PostgresServer, metadata_process: Start, connect: Connect, tmp_path: Path, kills: int
) -> None:
    (tmp_path / "data").mkdir()
    process = metadata_process("--store", server.new_database())
    client = connect(process)
    await client.sync("u1", f"file://{tmp_path}/data")
    acknowledged: set[str] = set()
    refused = 0

    async def write(worker: int, turn: int) -> None:
        nonlocal refused
        number = 0
        while not is_over:
            path = f"t{turn}-w{worker}-{number}"
            try:
                await client.put("u1", path, 1, "e", request_id=path)
            except grpc.aio.AioRpcError as error:
                # CANCELLED: it arrived while the process ended, after a commit without an answer.
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
                refused += 1
                await asyncio.sleep(0.05)
            else:
                acknowledged.add(path)
                number += 1

    for turn in range(kills):
        is_over = False
        writers = [asyncio.create_task(write(worker, turn)) for worker in range(8)]
        before = len(acknowledged)
        while len(acknowledged) < before + 50:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.kill)
        while not refused:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.start)
        before = len(acknowledged)
        async with asyncio.timeout(60):
            while len(acknowledged) < before + 50:
                if not process.is_running:
                    # Killed in the middle of a commit: only a new look tells what stands.
                    await asyncio.to_thread(process.kill)
                    await asyncio.to_thread(process.start)
                await asyncio.sleep(0.01)
        is_over = True
        await asyncio.gather(*writers)
        assert refused, "the server died unnoticed: nothing was shown"
        refused = 0
        assert acknowledged <= set(await client.names("u1"))


async def test_the_process_that_started_last_owns_the_database(
    server: PostgresServer, metadata_process: Start, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    url = server.new_database()
    first = metadata_process("--store", url)
    old = connect(first)
    await old.sync("u1", f"file://{tmp_path}/data")
    await old.put("u1", "by-the-first", 1, "e")
    second = metadata_process("--store", url)
    new = connect(second)
    with pytest.raises(grpc.aio.AioRpcError, match="another metadata process has taken the database over"):
        await old.put("u1", "late", 1, "e")
    assert await asyncio.to_thread(first._process.wait, 20) == 1
    first.kill()
    await new.put("u1", "by-the-second", 1, "e")
    assert await new.names("u1") == ["by-the-first", "by-the-second"]


def test_a_store_that_was_taken_over_writes_nothing(server: PostgresServer) -> None:
    url = server.new_database()
    old, new = PostgresStore(url), PostgresStore(url)
    with pytest.raises(StoreBroken, match="taken the database over"):
        old.write([lambda tx: tx.remember_request("r", 1)])
    assert new.read(lambda reader: reader.request_version("r")) is None
    old.close()
    new.close()


def test_reads_go_on_when_the_server_is_back_and_say_so_while_it_is_not(server: PostgresServer) -> None:
    store = PostgresStore(server.new_database())
    assert store.read(lambda reader: reader.datasets()) == []
    server.kill()
    with pytest.raises(Unavailable, match="the metadata database cannot be read"):
        store.read(lambda reader: reader.datasets())
    with pytest.raises(Unavailable, match="the metadata database cannot be written"):
        store.write([lambda tx: tx.remember_request("r", 1)])
    server.start()
    assert store.read(lambda reader: reader.datasets()) == []
    store.write([lambda tx: tx.remember_request("r", 1)])
    assert store.read(lambda reader: reader.request_version("r")) == 1
    store.close()


def test_the_password_comes_from_a_file_and_is_in_no_message(server: PostgresServer, tmp_path: Path) -> None:
    url = server.new_database()
    with pytest.raises(SettingsError, match="has a password in it; put it into a file") as error:
        PostgresStore(url.replace("headrace@", f"headrace:{PASSWORD}@"))
    assert PASSWORD not in str(error.value)
    wrong = tmp_path / "wrong"
    wrong.write_text("*:*:*:headrace:not-it\n")
    wrong.chmod(0o600)
    with pytest.raises(SettingsError, match=r"cannot be used: .*password authentication failed") as error:
        PostgresStore(f"{url.partition('?')[0]}?passfile={wrong}")
    assert "not-it" not in str(error.value)
    with pytest.raises(SettingsError, match="write postgresql://USER@HOST:PORT/DATABASE"):
        PostgresStore("postgresql://host/db?nonsense=1")
    with pytest.raises(SettingsError, match="cannot be used"):
        PostgresStore("postgresql://headrace@127.0.0.1:9/none")
