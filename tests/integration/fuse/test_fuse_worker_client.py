"""The worker's client over a real unix socket: descriptors, deadlines, and the death of the worker."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.byteplane import Op
from fuse.client import staging_file
from fuse.client.vault import NoVault
from fuse.client.worker_client import WorkerClient
from fuse.client.write_back import WRITE_BYTES_MAX
from fuse.core.read_plan import BLOCK_BYTES, WHOLE_FILE_BYTES, needed_range
from fuse.errors import AccessDenied, Ended, NoSpace, NotFound, Stale, Unavailable, Unsupported
from fuse.metrics import Metrics
from tests.builders.socket_worker import SocketWorker

DATA = bytes(range(256)) * 64


@pytest.fixture(params=[False, True], ids=["sends", "seals"])
async def worker(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SocketWorker]:
    worker = SocketWorker(tmp_path / "worker.sock")
    worker.seals = request.param
    worker.files[("u", "a")] = DATA
    worker.start()
    yield worker
    assert [os.pread(descriptor, 1 << 30, 0) for descriptor, _ in worker.sealed] == [data for _, data in worker.sealed]
    await worker.stop()


@pytest.fixture
async def client(worker: SocketWorker, tmp_path: Path) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(
        str(tmp_path / "worker.sock"), node="n", metrics=Metrics(), patience_seconds=10.0, request_seconds=10.0
    )
    yield client
    await client.close()


async def _until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def _next_worker(client: WorkerClient, worker: SocketWorker) -> None:
    worker.kill()
    await _until(lambda: not client.generation)
    worker.start()


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Kept(NoVault):
    """What outlives a daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: dict[int, int] = {}

    def keep(self, number: int, descriptor: int) -> None:
        self.let_go(number)
        self.descriptors[number] = os.dup(descriptor)

    def let_go(self, number: int) -> None:
        if number in self.descriptors:
            os.close(self.descriptors.pop(number))

    def take(self, number: int) -> int | None:
        return os.dup(self.descriptors[number])


@pytest.fixture
async def daemons(worker: SocketWorker, tmp_path: Path) -> AsyncIterator[Callable[[], WorkerClient]]:
    """Makes clients of daemons that follow one another."""
    kept, made = Kept(), list[WorkerClient]()

    def make() -> WorkerClient:
        metrics = Metrics()
        made.append(WorkerClient(str(tmp_path / "worker.sock"), node="n", metrics=metrics, vault=kept))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    for number in list(kept.descriptors):
        kept.let_go(number)


def _count_copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    copied: list[int] = []
    copy = staging_file._copy

    def counted(source: int, target: int, bytes_max: int) -> None:
        copied.append(os.fstat(source).st_size)
        copy(source, target, bytes_max)

    monkeypatch.setattr(staging_file, "_copy", counted)
    return copied


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_successor_waits_for_the_commit_under_way(
    daemons: Callable[[], WorkerClient], worker: SocketWorker, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """No byte of the file is copied for it, and the time it is shown with stays: the successor knows it from the file
    only."""
    copied = _count_copies(monkeypatch)
    dying = daemons()
    staging = dying.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    if not is_done:
        worker.held_op = Op.COMMIT
        worker.hold.clear()
    first = asyncio.ensure_future(staging.commit(0o600, 7))
    await _until(lambda: worker.calls["COMMIT"] == 1 and (first.done() or not is_done))
    await dying.close()
    await asyncio.gather(first, return_exceptions=True)

    left = daemons().restage(staging.number, "u", "new", "", 0)
    again = asyncio.ensure_future(left.staging.commit(0o600, left.mtime_ns))
    await _until(lambda: worker.calls["COMMIT"] == 2)
    worker.hold.set()
    committed = await again
    assert not copied and worker.calls["CREATE"] == 2
    assert committed.mtime_ns == (7 if worker.seals else left.mtime_ns)
    # What is written on changes no object (the fixture looks), and is all there.
    await left.staging.write(len(DATA), b"more")
    await left.staging.commit(0o600, 8)
    assert worker.files[("u", "new")] == DATA + b"more"
    assert copied == ([len(DATA)] if worker.seals else [])
    left.staging.close()


async def test_a_successor_that_was_told_another_mode_commits_anew(
    daemons: Callable[[], WorkerClient], worker: SocketWorker
) -> None:
    dying = daemons()
    staging = dying.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    await staging.commit(0o600, 7)
    await dying.close()
    left = daemons().restage(staging.number, "u", "new", "", 0)
    committed = await left.staging.commit(0o644, 9)
    assert committed.mtime_ns == 9 and worker.modes[("u", "new")] == (0o644, 9)
    assert len({os.fstat(descriptor).st_ino for descriptor, _ in worker.sealed}) == 2 * worker.seals
    left.staging.close()


@pytest.mark.parametrize("brings", [True, False])
async def test_bytes_are_read_through_the_passed_descriptor(
    client: WorkerClient, worker: SocketWorker, brings: bool
) -> None:
    worker.brings = brings
    pin = client.pin("u", "a", "e", len(DATA))
    assert not worker.calls
    assert not pin.is_resident(0, len(DATA))
    await pin.ensure(0, len(DATA))
    assert bytes(await pin.read(100, 1000)) == DATA[100:1100]
    assert (worker.calls["OPEN"], worker.calls["ENSURE"]) == (1, 0 if brings else 1)
    assert client.metrics.ensured_bytes["origin"] == len(DATA)
    pin.close()
    await _until(lambda: worker.handles == 0)


async def test_of_a_large_file_only_what_is_read_is_brought(client: WorkerClient, worker: SocketWorker) -> None:
    size_bytes = 2 * WHOLE_FILE_BYTES
    pin = client.pin("u", "a", "e", size_bytes)
    await pin.ensure(0, WHOLE_FILE_BYTES)
    assert (worker.calls["OPEN"], worker.calls["ENSURE"]) == (1, 1)
    assert not pin.is_resident(0, size_bytes)
    pin.close()


LARGE = os.urandom(5 * BLOCK_BYTES + 77)


def _sent(client: WorkerClient) -> int:
    return sum(client.metrics.inline_bytes.values())


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES // 4, BLOCK_BYTES, BLOCK_BYTES * 4])
async def test_a_reader_in_order_is_sent_what_the_node_does_not_keep(
    client: WorkerClient, worker: SocketWorker, block_bytes: int
) -> None:
    """Whatever the size of the worker's own blocks is."""
    worker.files[("u", "large")] = LARGE
    worker.block_size_bytes = block_bytes
    pin = client.pin("u", "large", "e", len(LARGE))
    for at in range(0, len(LARGE), BLOCK_BYTES):
        length = min(BLOCK_BYTES, len(LARGE) - at)
        pin.ensure_soon(at, length, in_order=True)
        await pin.ensure(at, length)
        assert bytes(await pin.read(at, length)) == LARGE[at : at + length]
    assert (worker.calls["ENSURE"], _sent(client)) == (0, len(LARGE))
    assert client.inline.taken_bytes < 5 * BLOCK_BYTES, "blocks that were read make room"
    # Across two blocks, one of which was sent.
    at = len(LARGE) - 77 - 10
    await pin.ensure(at, 20)
    assert bytes(await pin.read(at, 20)) == LARGE[at : at + 20]
    pin.close()
    assert client.inline.taken_bytes == 0


@pytest.mark.parametrize("name", ["a", "large"])
@pytest.mark.parametrize("refused", [Op.OPEN, Op.ENSURE])
async def test_where_the_cache_has_no_room_even_for_a_moment_bytes_are_sent(
    client: WorkerClient, worker: SocketWorker, name: str, refused: Op
) -> None:
    worker.files[("u", "large")] = LARGE
    worker.refusals[refused] = errno.ENOBUFS
    data = worker.files[("u", name)]
    worker.brings = refused is Op.OPEN
    pin = client.pin("u", name, "e", len(data))
    for at in (0, len(data) // 2, len(data) - 10):
        length = min(100, len(data) - at)
        await pin.ensure(*needed_range(at, length, len(data)))
        assert pin.is_resident(at, length)
        assert bytes(await pin.read(at, length)) == data[at : at + length]
    assert _sent(client) > 0
    pin.close()
    assert client.inline.taken_bytes == 0


async def test_a_worker_that_dies_while_it_sends_is_followed_by_the_next(
    client: WorkerClient, worker: SocketWorker
) -> None:
    worker.files[("u", "large")] = LARGE
    pin = client.pin("u", "large", "e", len(LARGE))
    worker.sends_bytes_max = BLOCK_BYTES // 2
    reading = asyncio.create_task(pin.ensure(0, BLOCK_BYTES))
    worker.refusals[Op.ENSURE] = errno.ENOBUFS

    def has_died() -> bool:
        return worker.sends_bytes_max is None and not client.generation

    await _until(has_died)
    worker.start()
    await reading
    assert bytes(await pin.read(0, BLOCK_BYTES)) == LARGE[:BLOCK_BYTES]
    assert client.metrics.retries["READ"] == 1
    pin.close()
    assert client.inline.taken_bytes == 0


async def test_what_comes_after_its_deadline_harms_nothing(worker: SocketWorker, tmp_path: Path) -> None:
    worker.files[("u", "large")] = LARGE
    hasty = WorkerClient(
        str(tmp_path / "worker.sock"), node="n", metrics=Metrics(), patience_seconds=10.0, request_seconds=0.3
    )
    try:
        worker.refusals[Op.ENSURE] = errno.ENOBUFS
        worker.held_op = Op.READ
        worker.hold.clear()
        pin = hasty.pin("u", "large", "e", len(LARGE))
        reading = asyncio.create_task(pin.ensure(0, BLOCK_BYTES))
        await _until(lambda: worker.calls["READ"] >= 2)
        worker.hold.set()
        await reading
        assert bytes(await pin.read(0, BLOCK_BYTES)) == LARGE[:BLOCK_BYTES]
        await pin.ensure(BLOCK_BYTES, BLOCK_BYTES)
        assert bytes(await pin.read(BLOCK_BYTES, BLOCK_BYTES)) == LARGE[BLOCK_BYTES : 2 * BLOCK_BYTES]
        pin.close()
        assert hasty.inline.taken_bytes == 0
    finally:
        await hasty.close()


async def test_a_close_goes_with_the_next_request(client: WorkerClient, worker: SocketWorker) -> None:
    first, second = (client.pin("u", "a", "e", len(DATA)) for _ in range(2))
    await first.ensure(0, len(DATA))
    first.close()
    assert worker.handles == 1
    await second.ensure(0, len(DATA))
    assert worker.calls["CLOSE"] == 1
    second.close()
    await _until(lambda: worker.handles == 0)


async def test_who_waits_for_an_open_that_fails_learns_why(client: WorkerClient, worker: SocketWorker) -> None:
    worker.refusals[Op.OPEN] = errno.ESTALE
    pin = client.pin("u", "a", "e", len(DATA))
    ends = await asyncio.gather(pin.ensure(0, len(DATA)), pin.whole_file(), return_exceptions=True)
    assert [type(end) for end in ends] == [Stale, Stale]
    worker.refusals.clear()
    await pin.ensure(0, len(DATA))
    pin.close()


async def test_requests_for_one_range_become_one(client: WorkerClient, worker: SocketWorker) -> None:
    pin = client.pin("u", "a", "e", len(DATA))
    await asyncio.gather(*(pin.ensure(0, len(DATA)) for _ in range(20)), pin.ensure(10, 20))
    assert (worker.calls["OPEN"], worker.calls["ENSURE"]) == (1, 0)
    pin.close()


async def test_a_reader_goes_on_with_the_next_worker(client: WorkerClient, worker: SocketWorker) -> None:
    pin = client.pin("u", "a", "e", len(DATA))
    await pin.ensure(0, len(DATA))
    worker.kill()
    await _until(lambda: not pin.is_resident(0, 1))
    reading = asyncio.ensure_future(pin.ensure(0, len(DATA)))
    await asyncio.sleep(0.1)
    assert not reading.done()
    worker.start()
    await reading
    assert bytes(await pin.read(0, len(DATA))) == DATA
    assert worker.calls["OPEN"] == 2
    pin.close()


@pytest.mark.parametrize("op", [Op.OPEN, Op.ENSURE])
async def test_a_request_in_work_is_sent_again_to_the_next_worker(
    client: WorkerClient, worker: SocketWorker, op: Op
) -> None:
    worker.brings = op is Op.OPEN
    worker.held_op = op
    worker.hold.clear()
    pin = client.pin("u", "a", "e", len(DATA))
    reading = asyncio.ensure_future(pin.ensure(0, len(DATA)))
    await _until(lambda: worker.calls[op.name] == 1)
    worker.kill()
    worker.hold.set()
    worker.start()
    await reading
    assert client.metrics.retries[op.name] == 1
    pin.close()


async def test_without_a_worker_the_wait_ends(tmp_path: Path) -> None:
    client = WorkerClient(str(tmp_path / "none.sock"), node="n", metrics=Metrics(), patience_seconds=0.2)
    with pytest.raises(Unavailable, match=r"none\.sock"):
        await client.pin("u", "a", "e", 1).ensure(0, 1)
    await client.close()


@pytest.mark.parametrize("op", [Op.OPEN, Op.ENSURE])
async def test_a_worker_that_does_not_answer_is_unavailable(tmp_path: Path, worker: SocketWorker, op: Op) -> None:
    client = WorkerClient(
        str(tmp_path / "worker.sock"), node="n", metrics=Metrics(), patience_seconds=0.2, request_seconds=0.1
    )
    worker.brings = op is Op.OPEN
    worker.held_op = op
    worker.hold.clear()
    with pytest.raises(Unavailable):
        await client.pin("u", "a", "e", len(DATA)).ensure(0, 1)
    worker.hold.set()
    await client.close()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ESTALE, Stale), (errno.EACCES, AccessDenied), (errno.ENOENT, NotFound)]
)
async def test_a_refusal_comes_as_its_domain_error(
    client: WorkerClient, worker: SocketWorker, number: int, error: type[Exception]
) -> None:
    worker.refusals[Op.OPEN] = number
    with pytest.raises(error, match="told to refuse"):
        await client.pin("u", "a", "e", 1).ensure(0, 1)


async def test_what_was_written_is_committed(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.open()
    await staging.write(0, b"hello")
    await staging.write(5, b" world")
    assert bytes(await staging.read(0, 100)) == b"hello world"
    committed = await staging.commit(0o644, 1)
    assert committed.size_bytes == 11
    assert worker.files[("u", "new")] == b"hello world"
    staging.close()
    await _until(lambda: worker.handles == 0)


async def test_written_bytes_survive_the_worker(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    worker.kill()
    worker.start()
    await staging.write(len(DATA), b"end")
    await staging.commit(0o644, 1)
    assert worker.files[("u", "new")] == DATA + b"end"
    staging.close()


async def test_a_commit_whose_answer_was_lost_is_sent_again(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    worker.held_op = Op.COMMIT
    worker.hold.clear()
    committing = asyncio.ensure_future(staging.commit(0o644, 1))
    await _until(lambda: worker.calls["COMMIT"] == 1)
    worker.kill()
    worker.hold.set()
    worker.start()
    await committing
    assert worker.files[("u", "new")] == DATA
    staging.close()


async def test_who_writes_on_after_a_commit_changes_no_object(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, b"one")
    await staging.commit(0o644, 1)
    await staging.write(3, b"two")
    assert bytes(await staging.read(0, 100)) == b"onetwo"
    await staging.commit(0o644, 1)
    await staging.truncate(4)
    await staging.commit(0o644, 1)
    assert worker.files[("u", "new")] == b"onet"
    await staging.commit(0o600, 1)  # another mode alone
    assert [data for _, data in worker.sealed] == ([b"one", b"onetwo", b"onet", b"onet"] if worker.seals else [])
    staging.close()
    await _until(lambda: worker.handles == 0)


@pytest.mark.parametrize("outcome", ["committed", "refused", "lost"])
async def test_a_write_beside_a_commit_is_whole_and_changes_no_object(
    client: WorkerClient, worker: SocketWorker, outcome: str
) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, b"one")
    worker.held_op = Op.COMMIT
    worker.hold.clear()
    committing = asyncio.ensure_future(staging.commit(0o644, 1))
    await _until(lambda: worker.calls["COMMIT"] == 1)
    writing = asyncio.ensure_future(staging.write(3, b"two"))
    cutting = asyncio.ensure_future(staging.truncate(5))
    await asyncio.sleep(0.05)
    assert writing.done() is not worker.seals
    if outcome == "refused":
        worker.refusals[Op.COMMIT] = errno.ENOSPC
        worker.held_op = None
    if outcome == "lost":
        worker.kill()
        worker.start()
    worker.hold.set()
    if outcome == "refused":
        with pytest.raises(NoSpace):
            await committing
    else:
        await committing
    assert await writing == 3
    await cutting
    worker.refusals.clear()
    await staging.commit(0o644, 1)
    assert worker.files[("u", "new")] == b"onetw"
    staging.close()


async def test_a_file_closed_while_it_is_copied_leaves_nothing_behind(
    client: WorkerClient, worker: SocketWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.connected()
    before = _descriptors()
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    await staging.commit(0o644, 1)
    if not worker.seals:
        await _next_worker(client, worker)
    began, may_go_on = threading.Event(), threading.Event()
    copy = staging_file._copy

    def slow_copy(source: int, target: int, bytes_max: int) -> None:
        began.set()
        may_go_on.wait(10)
        copy(source, target, bytes_max)

    monkeypatch.setattr(staging_file, "_copy", slow_copy)
    writing = asyncio.ensure_future(staging.write(0, b"more"))
    await asyncio.to_thread(began.wait, 10)
    staging.close()
    # What would be closed a second time is somebody else's by then.
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    may_go_on.set()
    with pytest.raises(Ended):
        await writing
    for other in others:
        os.close(other)
    await _until(lambda: worker.handles == 0)
    assert _descriptors() == before + len(worker.sealed)


async def test_a_copy_without_room_leaves_nothing_behind_and_may_be_tried_again(
    client: WorkerClient, worker: SocketWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.connected()
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    await staging.commit(0o644, 1)
    if not worker.seals:
        await _next_worker(client, worker)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(staging_file, "_copy", full)
        for _ in range(3):
            with pytest.raises(NoSpace):
                await staging.write(len(DATA), b"more")
    await _until(lambda: worker.handles == worker.seals)
    assert await staging.write(len(DATA), b"more") == 4
    await staging.commit(0o644, 1)
    assert worker.files[("u", "new")] == DATA + b"more"
    staging.close()
    await _until(lambda: worker.handles == 0)


async def test_of_a_sealed_file_no_more_is_copied_than_is_left_of_it(
    client: WorkerClient, worker: SocketWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, DATA)
    await staging.commit(0o644, 1)
    copied: list[int] = []
    copy = staging_file._copy

    def counted_copy(source: int, target: int, bytes_max: int) -> None:
        copy(source, target, bytes_max)
        copied.append(os.fstat(target).st_size)

    monkeypatch.setattr(staging_file, "_copy", counted_copy)
    for size_bytes in (100, len(DATA), 0):
        await staging.truncate(size_bytes)
        await staging.commit(0o644, 1)
    assert copied == ([100, 100, 0] if worker.seals else [])
    assert worker.files[("u", "new")] == b""
    staging.close()


async def test_no_commit_crosses_a_copy(
    client: WorkerClient, worker: SocketWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would name the staging file that is left, and the worker would not know that any more."""
    staging = client.stage("u", "new", "", 0)
    await staging.write(0, b"one")
    await staging.commit(0o644, 1)
    worker.held_op = Op.CREATE
    worker.hold.clear()
    writing = asyncio.ensure_future(staging.write(3, b"two"))
    await _until(lambda: worker.calls["CREATE"] == 1 + worker.seals)
    committing = asyncio.ensure_future(staging.commit(0o644, 1))
    await asyncio.sleep(0.05)
    worker.hold.set()
    await committing
    await writing
    assert worker.calls["CREATE"] == 1 + worker.seals
    await staging.commit(0o644, 1)
    assert worker.files[("u", "new")] == b"onetwo"
    staging.close()
    await _until(lambda: worker.handles == 0)


async def test_where_the_room_ends_a_write_is_short_and_the_next_one_is_refused(
    client: WorkerClient, worker: SocketWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = client.stage("u", "new", "", 0)
    await staging.open()
    data = bytes(3 * WRITE_BYTES_MAX)
    pwrite = os.pwrite

    def until_full(descriptor: int, piece: bytes, offset: int) -> int:
        if offset >= WRITE_BYTES_MAX:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, piece, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", until_full)
        assert await staging.write(0, data) == WRITE_BYTES_MAX
        with pytest.raises(NoSpace):
            await staging.write(WRITE_BYTES_MAX, data[WRITE_BYTES_MAX:])
    committed = await staging.commit(0o644, 1)
    assert committed.size_bytes == WRITE_BYTES_MAX, "no more than was said to be written"
    staging.close()


async def test_after_a_rename_commits_go_to_the_new_path(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "old", "", 0)
    await staging.write(0, b"one")
    await staging.commit(0o644, 1)
    await client.rename("u", "old", "new")
    staging.moved("new", "another-etag")
    await staging.write(3, b" two")
    await staging.commit(0o644, 1)
    assert worker.files == {("u", "a"): DATA, ("u", "new"): b"one two"}
    worker.kill()
    worker.start()
    await staging.write(7, b" three")
    await staging.commit(0o644, 1)
    assert worker.files == {("u", "a"): DATA, ("u", "new"): b"one two three"}
    staging.close()


async def test_a_file_renamed_while_its_staging_file_is_made_is_committed_under_its_new_name(
    client: WorkerClient, worker: SocketWorker
) -> None:
    staging = client.stage("u", "a", "", 0)
    worker.held_op = Op.CREATE
    worker.hold.clear()
    writing = asyncio.ensure_future(staging.write(0, b"one"))
    await _until(lambda: worker.calls["CREATE"] == 1)
    await client.rename("u", "a", "new")
    staging.moved("new", "another-etag")
    worker.hold.set()
    await writing
    await staging.commit(0o644, 1)
    assert worker.files == {("u", "new"): b"one"}
    staging.close()
    await _until(lambda: worker.handles == 0)


async def test_a_base_is_what_the_staging_file_starts_with(client: WorkerClient, worker: SocketWorker) -> None:
    staging = client.stage("u", "a", "e", len(DATA))
    await staging.write(len(DATA), b"more")
    await staging.commit(0o644, 1)
    assert worker.files[("u", "a")] == DATA + b"more"
    staging.close()


async def test_a_removal_done_by_the_worker_that_died_is_a_success(client: WorkerClient, worker: SocketWorker) -> None:
    worker.held_op = Op.REMOVE
    worker.hold.clear()
    removing = asyncio.ensure_future(client.remove("u", "a", directory=False))
    await _until(lambda: worker.calls["REMOVE"] == 1)
    del worker.files[("u", "a")]
    worker.kill()
    worker.hold.set()
    worker.start()
    await removing


async def test_no_descriptor_is_left_behind(client: WorkerClient, worker: SocketWorker) -> None:
    await client.connected()
    before = _descriptors()
    for _ in range(20):
        pin = client.pin("u", "a", "e", len(DATA))
        await pin.ensure(0, len(DATA))
        pin.close()
        staging = client.stage("u", "x", "", 0)
        await staging.write(0, b"x")
        staging.close()
    await _until(lambda: worker.handles == 0)
    assert _descriptors() == before


async def test_a_change_of_a_mode_that_finds_no_name_is_none_also_the_second_time(
    client: WorkerClient, worker: SocketWorker
) -> None:
    assert await client.set_mode("u", "a", 0o600) == 4
    worker.held_op, worker.refusals[Op.SET_MODE] = Op.SET_MODE, errno.ENOENT
    worker.hold.clear()
    changing = asyncio.ensure_future(client.set_mode("u", "gone", 0o600))
    await _until(lambda: worker.calls["SET_MODE"] == 2)
    worker.kill()
    worker.hold.set()
    worker.start()
    with pytest.raises(NotFound):
        await changing
    assert worker.calls["SET_MODE"] == 3


async def test_a_worker_of_an_earlier_release_is_not_asked_to_change_a_mode(
    client: WorkerClient, worker: SocketWorker
) -> None:
    worker.sets_modes = False
    with pytest.raises(Unsupported, match="of a release that cannot change modes"):
        await client.set_mode("u", "a", 0o600)
    assert not worker.calls["SET_MODE"]
