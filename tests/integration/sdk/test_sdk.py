"""The Python client against a real worker: what fsspec, numpy, pandas, safetensors and data loaders do with it."""

import errno
import io
import multiprocessing
import os
import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas
import pytest
import safetensors.numpy

from headrace_sdk import File, FileDataset, HeadraceFileSystem, checkpoint
from headrace_sdk.stream import BEGIN_BYTES
from metadata.core.formats.marker import marker_format
from tests.builders.cache_cluster import CacheCluster

BLOCK = 64 << 10
ROOT = "headrace://default/u-1"
SMALL = {f"train/{i % 3}/f{i:03}.bin": random.Random(i).randbytes(200 + 97 * i) for i in range(60)}
BIG = random.Random(99).randbytes(50 * BLOCK + 123)
TENSORS: dict[str, np.ndarray[Any, Any]] = {
    "w": np.arange(100_000, dtype=np.float32),
    "b": np.ones((3, 5), dtype=np.int64),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    folder = tmp_path_factory.mktemp("sdk")
    made = CacheCluster(folder, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)})
    try:
        table = io.StringIO()
        pandas.DataFrame({"a": range(1000), "b": [f"row {i}" for i in range(1000)]}).to_csv(table, index=False)
        array = io.BytesIO()
        np.save(array, TENSORS["w"])
        made.put_origin(
            {
                **SMALL,
                "big.bin": BIG,
                "empty": b"",
                "table.csv": table.getvalue().encode(),
                "array.npy": array.getvalue(),
                "model.safetensors": safetensors.numpy.save(TENSORS),
            }
        )
        made.add_worker("a")
        made.sync(writable=True)
        yield made
        assert made.metric("bugs_total") == 0
    finally:
        made.stop()


@pytest.fixture
def fs(cluster: CacheCluster) -> HeadraceFileSystem:
    return HeadraceFileSystem(socket=str(cluster.workers["a"].socket), skip_instance_cache=True)


def test_names_are_those_of_the_snapshot(fs: HeadraceFileSystem) -> None:
    assert sorted(fs.find(f"{ROOT}/train")) == [f"default/u-1/{name}" for name in sorted(SMALL)]
    assert fs.ls(f"{ROOT}/train", detail=False) == [f"default/u-1/train/{i}" for i in range(3)]
    assert fs.glob(f"{ROOT}/train/*/f00[0-2].bin") == [f"default/u-1/train/{i}/f00{i}.bin" for i in range(3)]
    info = fs.info(f"{ROOT}/big.bin")
    assert (info["type"], info["size"], info["name"]) == ("file", len(BIG), "default/u-1/big.bin")
    assert fs.isdir(ROOT) and fs.isdir(f"{ROOT}/train") and not fs.exists(f"{ROOT}/none")
    for missing in (f"{ROOT}/none", "headrace://default/none/x", f"{ROOT}/big.bin/x"):
        with pytest.raises(FileNotFoundError):
            fs.open(missing)
    with pytest.raises(IsADirectoryError):
        fs.open(f"{ROOT}/train")
    with pytest.raises(ValueError, match="write headrace://NAMESPACE/DATASET/PATH"):
        fs.info("headrace://default")


def test_a_directory_of_many_pages_is_listed_whole(cluster: CacheCluster, fs: HeadraceFileSystem) -> None:
    names = [f"many/{number:04}" for number in range(1203)]
    cluster.put_origin(dict.fromkeys(names, b"x"))
    cluster.sync(writable=True)
    assert fs.ls(f"{ROOT}/many", detail=False) == [f"default/u-1/{name}" for name in names]


def test_a_dataset_made_anew_under_its_name_is_found(fs: HeadraceFileSystem) -> None:
    def made_anew() -> None:
        fs._uids["default", "u-1"] = "of the one before"

    made_anew()
    assert fs.info(f"{ROOT}/big.bin")["size"] == len(BIG)
    made_anew()
    fs.pipe_file(f"{ROOT}/anew/a", b"written")
    made_anew()
    fs.mv(f"{ROOT}/anew/a", f"{ROOT}/anew/b")
    assert fs.cat_file(f"{ROOT}/anew/b") == b"written"
    made_anew()
    fs.rm_file(f"{ROOT}/anew/b")
    made_anew()
    fs.rmdir(f"{ROOT}/anew")
    for _ in range(10):
        made_anew()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(fs.cat_file, [f"{ROOT}/train/0/f000.bin"] * 16))
        assert found == [SMALL["train/0/f000.bin"]] * 16
    made_anew()
    with pytest.raises(FileNotFoundError):
        fs.rm_file(f"{ROOT}/none")


def test_a_file_or_a_directory_is_copied(fs: HeadraceFileSystem) -> None:
    fs.copy(f"{ROOT}/big.bin", f"{ROOT}/copied/big")
    assert fs.cat_file(f"{ROOT}/copied/big") == BIG
    fs.copy(f"{ROOT}/train/0", f"{ROOT}/copied/train", recursive=True)
    assert {name: fs.cat_file(name) for name in fs.find(f"{ROOT}/copied/train")} == {
        f"default/u-1/copied/{name.replace('train/0', 'train')}": data
        for name, data in SMALL.items()
        if name.startswith("train/0/")
    }
    fs.rm(f"{ROOT}/copied", recursive=True)


def test_tokens_are_looked_for_where_it_is_said(cluster: CacheCluster) -> None:
    socket = str(cluster.workers["a"].socket)
    data = FileDataset(f"{ROOT}/train", socket=socket, tokens="/elsewhere")
    for each in (data, pickle.loads(pickle.dumps(data))):
        assert each._fs.worker.tokens == "/elsewhere"
        assert each[0] == SMALL[sorted(SMALL)[0]]
    assert checkpoint.latest(f"{ROOT}/none", socket=socket, tokens="/elsewhere") is None


def test_random_reads_are_the_bytes(fs: HeadraceFileSystem) -> None:
    chance = random.Random(5)
    with fs.open(f"{ROOT}/big.bin") as file:
        assert isinstance(file, File)
        for _ in range(400):
            offset, length = chance.randrange(len(BIG) + 100), chance.choice((0, 1, 4096, BLOCK, 5 * BLOCK))
            if chance.random() < 0.5:
                assert file.pread(length, offset) == BIG[offset : offset + length]
            else:
                file.seek(offset)
                assert file.read(length) == BIG[offset : offset + length]
        with pytest.raises(OSError, match="before the file's start"):
            file.raw.seek(-1)
    with fs.open(f"{ROOT}/empty") as file:
        assert file.read() == b""
    assert fs.cat_file(f"{ROOT}/big.bin", start=-100) == BIG[-100:]
    assert fs.cat_file(f"{ROOT}/big.bin", 10, 20) == BIG[10:20]


def test_the_libraries_of_trainers_read_it(cluster: CacheCluster, fs: HeadraceFileSystem) -> None:
    options = {"socket": str(cluster.workers["a"].socket)}
    table = pandas.read_csv(f"{ROOT}/table.csv", storage_options=options)
    assert list(table["a"]) == list(range(1000)) and table["b"][999] == "row 999"
    with fs.open(f"{ROOT}/array.npy") as file:
        np.testing.assert_array_equal(np.load(file), TENSORS["w"])
    with fs.open(f"{ROOT}/model.safetensors") as file:
        loaded = safetensors.numpy.load_file(file.local_path())
    assert set(loaded) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(loaded[name], tensor)
    with fsspec.open(f"{ROOT}/table.csv", "rt", **options) as text:
        assert text.readline() == "a,b\n"


def test_a_resident_file_is_mapped_and_outlives_its_descriptor(cluster: CacheCluster, fs: HeadraceFileSystem) -> None:
    with fs.open(f"{ROOT}/big.bin") as file:
        memory = file.mmap()
        assert file.raw.is_resident
    before = cluster.metric("open_handles")
    assert memory[:] == BIG
    memory.close()
    with fs.open(f"{ROOT}/empty") as file, pytest.raises(ValueError, match="empty"):
        file.mmap()
    assert cluster.metric("open_handles") == before


def test_what_is_written_is_seen_whole_or_not_at_all(cluster: CacheCluster, fs: HeadraceFileSystem) -> None:
    with fs.open(f"{ROOT}/out/new", "wb") as file:
        file.write(BIG)
        assert not fs.exists(f"{ROOT}/out/new")
    assert (cluster.origin / "out/new").read_bytes() == BIG == fs.cat_file(f"{ROOT}/out/new")
    with pytest.raises(RuntimeError, match="in the middle"), fs.open(f"{ROOT}/out/new", "wb") as file:
        file.write(b"half")
        file.flush()
        raise RuntimeError("in the middle")
    assert fs.cat_file(f"{ROOT}/out/new") == BIG
    with fs.open(f"{ROOT}/out/new", "ab") as file:
        file.write(b"more")
        file.fsync()
        assert fs.cat_file(f"{ROOT}/out/new") == BIG + b"more"
        file.write(b" and more")
    assert fs.cat_file(f"{ROOT}/out/new", len(BIG), None) == b"more and more"
    with pytest.raises(FileExistsError):
        fs.open(f"{ROOT}/out/new", "xb")
    fs.mv(f"{ROOT}/out/new", f"{ROOT}/out/renamed")
    assert fs.ls(f"{ROOT}/out", detail=False) == ["default/u-1/out/renamed"]
    with pytest.raises(OSError, match="inside one dataset") as refused:
        fs.mv(f"{ROOT}/out/renamed", "headrace://default/other/x")
    assert refused.value.errno == errno.EXDEV
    with pytest.raises(OSError) as not_empty:
        fs.rmdir(f"{ROOT}/out")
    assert not_empty.value.errno == errno.ENOTEMPTY
    fs.makedirs(f"{ROOT}/out/a/b")
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{ROOT}/out/a")
    fs.rm(f"{ROOT}/out", recursive=True)
    assert not fs.exists(f"{ROOT}/out")
    with pytest.raises(ValueError, match="must be one of rb, wb, xb, ab"):
        fs.open(f"{ROOT}/big.bin", "r+b")


def test_a_file_whose_write_failed_is_not_made_visible_by_its_close(
    fs: HeadraceFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fs.open(f"{ROOT}/full", "wb") as file:
        file.write(b"before")
    failed = 0
    write = os.write

    def no_space(descriptor: int, data: Any) -> int:
        nonlocal failed
        if bytes(data[:1]) != b"2":
            return write(descriptor, data)
        failed += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("headrace_sdk.files.os.write", no_space)
    file = fs.open(f"{ROOT}/full", "wb")
    file.write(b"1" * (2 << 20))
    file.write(b"2")
    with pytest.raises(OSError) as refused:
        file.close()
    assert failed and refused.value.errno in (errno.ENOSPC, errno.EIO)
    assert file.closed
    assert fs.cat_file(f"{ROOT}/full") == b"before"


def _sum_of(task: tuple[FileDataset, int]) -> tuple[int, int]:
    data, index = task
    return index, data[index]


def total(data: bytes) -> int:
    return sum(data)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_data_loaders_processes_read_the_same(cluster: CacheCluster, method: str) -> None:
    data = FileDataset(f"{ROOT}/train", pattern="*.bin", transform=total, socket=str(cluster.workers["a"].socket))
    assert len(data) == len(SMALL) and data[0] == total(SMALL[sorted(SMALL)[0]])  # the parent's connection is open
    with multiprocessing.get_context(method).Pool(3) as pool:
        found = dict(pool.imap_unordered(_sum_of, [(data, index) for index in range(len(data))]))
        pool.close()
        pool.join()
    assert found == {index: total(SMALL[name]) for index, name in enumerate(sorted(SMALL))}
    assert data[1] == total(SMALL[sorted(SMALL)[1]])


def test_an_open_file_survives_fork_and_pickle(fs: HeadraceFileSystem) -> None:
    with fs.open(f"{ROOT}/big.bin") as file:
        file.read(1000)
        again = pickle.loads(pickle.dumps(file))
        assert again.read(50) == BIG[1000:1050]
        again.close()
        child = os.fork()
        if not child:
            os._exit(0 if file.pread(BLOCK, 7 * BLOCK) == BIG[7 * BLOCK : 8 * BLOCK] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.pread(BLOCK, 9 * BLOCK) == BIG[9 * BLOCK : 10 * BLOCK]


def test_an_epochs_order_deals_every_file_to_one_rank(cluster: CacheCluster) -> None:
    data = FileDataset(f"{ROOT}/train", socket=str(cluster.workers["a"].socket))
    orders = [data.order(seed=1, epoch=2, rank=rank, ranks=7) for rank in range(7)]
    assert {len(order) for order in orders} == {-(-len(data) // 7)}
    assert {index for order in orders for index in order} == set(range(len(data)))
    assert orders[0] != data.order(seed=1, epoch=3, rank=0, ranks=7)
    with pytest.raises(ValueError, match="rank 7 must be"):
        data.order(seed=1, epoch=2, rank=7, ranks=7)
    with pytest.raises(ValueError, match=r"no file below .* matches '\*\.png'"):
        FileDataset(f"{ROOT}/train", pattern="*.png", socket=str(cluster.workers["a"].socket))


def test_readers_go_on_when_the_worker_dies_and_comes_back(cluster: CacheCluster, fs: HeadraceFileSystem) -> None:
    worker = cluster.workers["a"]
    chance = random.Random(11)
    kills = 0
    with fs.open(f"{ROOT}/big.bin") as file:
        for _ in range(3):
            worker.kill()
            kills += 1
            starting = threading.Timer(0.5, worker.start)
            starting.start()
            for _ in range(50):
                offset = chance.randrange(len(BIG))
                assert file.pread(3 * BLOCK, offset) == BIG[offset : offset + 3 * BLOCK]
            with fs.open(f"{ROOT}/train/0/f000.bin") as other:
                assert other.read() == SMALL["train/0/f000.bin"]
            starting.join()
            worker.wait_ready()
    assert kills == 3


@pytest.mark.parametrize("temporary", ["0", "4194304"])
def test_a_cache_without_room_gives_the_bytes_all_the_same(tmp_path: Path, temporary: str) -> None:
    cluster = CacheCluster(tmp_path, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)})
    try:
        cluster.put_origin({"big.bin": BIG})
        environment = {
            "HEADRACE_WORKER_TEMPORARY_PERCENT": "0",
            "HEADRACE_WORKER_TEMPORARY_BYTES_MIN": temporary,
        }
        worker = cluster.add_worker("a", tiers=[f"SSD:{tmp_path}/ssd:{4 * BLOCK}"], environment=environment)
        cluster.sync()
        fs = HeadraceFileSystem(socket=str(worker.socket), skip_instance_cache=True)
        with fs.open(f"{ROOT}/big.bin") as file:
            assert file.read() == BIG
            assert file.pread(BLOCK, len(BIG) - BLOCK) == BIG[-BLOCK:]
            assert not file.raw.is_resident
            memory = file.mmap()
            assert memory[:] == BIG
            memory.close()
            with pytest.raises(OSError, match=r"no room for all of big\.bin"):
                file.local_path()
    finally:
        cluster.stop()


def test_a_file_that_is_not_kept_is_streamed_to_who_reads_it_in_order(tmp_path: Path) -> None:
    """Also through the death of the worker, and beside readers of other places of the same open file."""
    cluster = CacheCluster(tmp_path, environment={"HEADRACE_WORKER_BLOCK_SIZE_BYTES": str(BLOCK)})
    large = random.Random(5).randbytes(9 * BEGIN_BYTES + 321)
    try:
        cluster.put_origin({"large.bin": large})
        worker = cluster.add_worker("a", tiers=[f"SSD:{tmp_path}/ssd:{4 * BLOCK}"])
        cluster.sync()
        fs = HeadraceFileSystem(socket=str(worker.socket), skip_instance_cache=True)
        with fs.open(f"{ROOT}/large.bin") as file:
            piece, streamed = 3 * BLOCK + 17, 0
            for at in range(0, len(large), piece):
                if at // piece == 50:
                    assert file.raw._stream is not None
                    worker.kill()
                    worker.start()
                assert file.raw.pread_into(buffer := bytearray(piece), at) == min(piece, len(large) - at)
                assert buffer[: len(large) - at] == large[at : at + piece]
                streamed += file.raw._stream is not None
                if at // piece == 140:
                    assert file.pread(100, len(large) - at - 100) == large[len(large) - at - 100 : len(large) - at]
            assert streamed > 20
            assert file.raw._stream is None, "at its end the connection is given back"

            def whole(start: int) -> bool:
                return all(file.pread(BLOCK, at) == large[at : at + BLOCK] for at in range(start, len(large), BLOCK))

            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(whole, (0, 0, 12345, 2 * BEGIN_BYTES)))
        with fs.open(f"{ROOT}/large.bin") as file:
            assert file.read() == large
    finally:
        cluster.stop()


def test_no_worker_is_said_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "worker.sock")
    fs = HeadraceFileSystem(socket=path, skip_instance_cache=True)
    for ask in (fs.info, fs.exists, fs.isfile, fs.isdir, fs.ls):
        with pytest.raises(OSError, match=r"no cache worker at .*; is HEADRACE_SOCKET right") as refused:
            ask(f"{ROOT}/x")
        assert not isinstance(refused.value, FileNotFoundError), "nobody may take it for an absent file"
    with pytest.raises(OSError, match="no cache worker"):
        checkpoint.latest(f"{ROOT}/ckpt", socket=path)


@pytest.mark.parametrize("where", ["mount", "url"])
def test_the_latest_checkpoint_is_a_whole_one(cluster: CacheCluster, tmp_path: Path, where: str) -> None:
    options: dict[str, Any] = {"socket": str(cluster.workers["a"].socket)}
    directory = f"{ROOT}/ckpt" if where == "url" else str(tmp_path / "ckpt")
    assert checkpoint.latest(directory, **options) is None
    first = checkpoint.save(directory, 10, {"model": b"ten", "optim/0": lambda file: file.write(b"0")}, **options)
    assert checkpoint.latest(directory, **options) == (10, first)

    def fail(file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoint.save(directory, 20, {"model": b"twenty", "optim/0": fail}, **options)
    assert checkpoint.latest(directory, **options) == (10, first)
    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoint.save(directory, 10, {"model": fail}, **options)
    assert checkpoint.latest(directory, **options) is None, "a step that is written anew is not complete meanwhile"
    for rank in range(2):
        checkpoint.save(directory, 30, {f"rank-{rank}": b"x" * rank}, marker=None, **options)
    assert checkpoint.latest(directory, **options) is None
    checkpoint.complete(directory, 30, **options)
    found = checkpoint.latest(directory, **options)
    assert found is not None and found.step == 30
    fs, path = fsspec.core.url_to_fs(found.path, **(options if where == "url" else {}))
    assert fs.cat_file(f"{path}/rank-1") == b"x"
    names = [name.rpartition("/")[2] for name in fs.ls(path, detail=False)]
    assert sorted(names) == ["COMPLETE", "rank-0", "rank-1"], "temporary names are gone"
    assert marker_format("COMPLETE").step_of(found.path.rpartition("/")[2]) == 30
    with pytest.raises(ValueError, match="relative name"):
        checkpoint.save(directory, 40, {"../model": b""}, **options)
