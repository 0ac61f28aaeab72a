"""The metadata service as its clients meet it: a real process, real gRPC, real under stores."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from api.gen import metadata_pb2 as pb

StatusCode = grpc.StatusCode
Connect = Callable[[Any], Any]
pytestmark = pytest.mark.filterwarnings("default")  # moto's server warns of its own libraries


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for path, body in {"train/a": "12345", "train/deep/b": "1", "test/c": "", "top": "xy"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(body)
    (root / "empty").mkdir()
    return root


async def test_a_directory_is_listed_looked_up_and_read(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    info = await client.sync("u1", f"file://{tree}")
    assert (info.snapshot_version, info.files, info.bytes, info.error) == (1, 4, 8, "")
    assert info.synced_at_ns > 0
    entry = await client.lookup("u1", "train/a")
    assert (entry.size_bytes, entry.is_directory, entry.version) == (5, False, 1)
    assert entry.etag
    assert (await client.lookup("u1", "")).is_directory
    assert (await client.lookup("u1", "empty")).is_directory
    assert await client.names("u1") == ["empty", "test", "top", "train"]
    assert await client.names("u1", "train") == ["a", "deep"]
    assert await client.names("u1", "empty") == []
    assert await client.manifest("u1") == ["test/c", "top", "train/a", "train/deep/b"]
    assert await client.manifest("u1", "train", "train/deep", "top") == ["top", "train/a", "train/deep/b"]
    named = await client.namespace.GetDataset(pb.DatasetRequest(namespace="ns", name="u1"), timeout=5)
    assert named.uid == "u1"


async def test_sizes_by_top_level_directory_come_once_they_are_counted(
    process: Any, connect: Connect, tree: Path
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}", writable=False)
    async with asyncio.timeout(20):
        while not (counted := await client.get("u1")).groups:
            await asyncio.sleep(0.02)
    assert dict(counted.groups) == {"empty": 0, "test": 0, "train": 6}
    (tree / "test" / "c").write_text("123")
    await client.sync("u1", f"file://{tree}", force=True, writable=False)
    async with asyncio.timeout(20):
        while (await client.get("u1")).groups.get("test") != 3:
            await asyncio.sleep(0.02)
    written = await client.sync("u2", f"file://{tree}", writable=True)
    assert not written.groups


async def test_five_thousand_objects_of_s3_and_paged_directories(
    process: Any, connect: Connect, s3_server: Any
) -> None:
    bucket = s3_server.new_bucket()
    names = [f"d{i % 7}/f{i:05}" for i in range(5_000)]
    for name in names:
        s3_server.put(bucket, f"pre/{name}", b"abc")
    client = connect(process)
    info = await client.sync("u1", f"s3://{bucket}/pre", options=s3_server.options())
    assert (info.files, info.bytes, info.error) == (5_000, 15_000, "")
    expected = [name.partition("/")[2] for name in names if name.startswith("d3/")]
    assert await client.names("u1", "d3", limit=100) == sorted(expected)
    assert await client.manifest("u1") == sorted(names)
    assert (await client.lookup("u1", "d0/f00000")).etag == '"900150983cd24fb0d6963f7d28e17f72"'


async def test_a_second_sync_compares_and_keeps_what_is_the_same(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    assert (await client.sync("u1", f"file://{tree}", force=True)).snapshot_version == 1
    (tree / "train" / "new").write_text("new")
    (tree / "top").write_text("changed")
    (tree / "test" / "c").unlink()
    assert (await client.sync("u1", f"file://{tree}")).snapshot_version == 1  # Once: not listed again
    info = await client.sync("u1", f"file://{tree}", force=True)
    assert (info.snapshot_version, info.files, info.bytes) == (2, 4, 16)
    assert (await client.lookup("u1", "train/a")).version == 1
    assert (await client.lookup("u1", "train/new")).version == 2
    assert await client.names("u1", "test") == []


async def test_watchers_see_that_a_dataset_may_be_written_now(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}", writable=False)
    watch = client.watch()
    assert not (await anext(watch)).writable
    await client.sync("u1", f"file://{tree}", writable=True)
    told = await anext(watch)
    assert (told.uid, told.writable, told.snapshot_version) == ("u1", True, 1)
    await watch.aclose()


async def test_mutations_make_versions_and_watchers_see_them(
    process: Any, connect: Connect, tree: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    watch = client.watch()
    assert (await anext(watch)).snapshot_version == 1
    assert await client.put("u1", "ckpt/step-1/w", 100, "e1") == 2
    assert (await anext(watch)).snapshot_version == 2
    entry = await client.lookup("u1", "ckpt/step-1/w")
    assert (entry.size_bytes, entry.etag, entry.mtime_ns, entry.mode) == (100, "e1", 5, 0o640)
    make = pb.MakeDirectoryRequest(uid="u1", path="made", mode=0o750)
    assert (await client.namespace.MakeDirectory(make, timeout=5)).snapshot_version == 3
    with refused(StatusCode.ALREADY_EXISTS, "'made' exists already"):
        await client.namespace.MakeDirectory(make, timeout=5)

    async def set_mode(path: str, mode: int) -> int:
        request = pb.SetModeRequest(uid="u1", path=path, mode=mode)
        return int((await client.namespace.SetMode(request, timeout=5)).snapshot_version)

    assert await set_mode("made", 0o750) == 3, "it has that mode"
    for path, mode in (("none", 0o700), ("", 0o700), ("made", 0), ("made", 0o10000)):
        with refused(StatusCode.NOT_FOUND if path == "none" else StatusCode.INVALID_ARGUMENT, ""):
            await set_mode(path, mode)

    async def rename(source: str, target: str, etag: str = "") -> int:
        request = pb.RenameRequest(uid="u1", source=source, target=target, target_etag=etag)
        return int((await client.namespace.Rename(request, timeout=5)).snapshot_version)

    assert await rename("ckpt/step-1", "ckpt/step-2") == 4
    assert await client.manifest("u1", "ckpt") == ["ckpt/step-2/w"]
    assert await rename("ckpt/step-2/w", "top", "e2") == 5
    assert ((await client.lookup("u1", "top")).etag, (await client.get("u1")).files) == ("e2", 4)

    async def remove(path: str, directory: bool = False) -> int:
        request = pb.RemoveRequest(uid="u1", path=path, directory=directory)
        return int((await client.namespace.Remove(request, timeout=5)).snapshot_version)

    with refused(StatusCode.FAILED_PRECONDITION, "directory 'train' is not empty"):
        await remove("train", directory=True)
    with refused(StatusCode.NOT_FOUND, "there is no 'nothing'"):
        await remove("nothing")
    assert await remove("ckpt/step-2", directory=True) == 6
    assert await remove("top") == 7
    while (await anext(watch)).snapshot_version != 7:
        pass
    await watch.aclose()


async def test_watchers_are_told_of_a_dataset_that_is_removed(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    await client.sync("u2", f"file://{tree}")
    watch = client.watch()
    assert {(await anext(watch)).uid for _ in range(2)} == {"u1", "u2"}
    await client.namespace.RemoveDataset(pb.DatasetRequest(uid="u1"), timeout=5)
    assert await anext(watch) == pb.DatasetState(uid="u1", removed=True)
    later = client.watch()
    assert (await anext(later)).uid == "u2"
    for one in (watch, later):
        await one.aclose()


async def test_a_list_that_is_asked_for_again_says_what_changed_since(
    process: Any, connect: Connect, tree: Path
) -> None:
    client = connect(process)

    async def ask(since: str, namespace: str = "") -> tuple[bool, dict[str, pb.DatasetInfo], str]:
        request = pb.ListDatasetsRequest(since=since, namespace=namespace)
        answer = await client.namespace.ListDatasets(request, timeout=5)
        return answer.partial, {one.uid: one for one in answer.datasets}, answer.revision

    for uid in ("u1", "u2", "u3"):
        await client.sync(uid, f"file://{tree}", writable=False)

    async def quiet() -> str:
        # Sizes by directory are counted in the background, and told of.
        while not all(one.groups for one in (await ask(""))[1].values()):
            await asyncio.sleep(0.05)
        return (await ask(""))[2]

    began = await quiet()
    assert await ask(began) == (True, {}, began)
    await client.namespace.RemoveDataset(pb.DatasetRequest(uid="u1"), timeout=5)
    (tree / "more").write_text("1")
    await client.sync("u2", f"file://{tree}", writable=False, force=True)
    partial, found, revision = await ask(began)
    assert partial
    assert found["u1"] == pb.DatasetInfo(uid="u1", removed=True)
    assert (found["u2"].snapshot_version, found["u2"].files, found["u2"].removed) == (2, 5, False)
    assert "u3" not in found
    assert (await ask(began, "elsewhere"))[1].keys() == {"u1"}  # whose it was nobody knows any more
    revision = await quiet()
    assert await ask(revision) == (True, {}, revision)

    tier = pb.Tier(medium="memory", capacity_bytes=100, used_bytes=0)
    await client.residency.Register(
        pb.RegisterRequest(node="n1", epoch=1, data_endpoint="d", control_endpoint="c", tiers=[tier]), timeout=5
    )
    etag = (await client.lookup("u3", "train/a")).etag
    file = pb.ResidentFile(
        uid="u3", path="train/a", etag=etag, size_bytes=5, resident_bytes=5, medium="memory", block_size_bytes=5
    )
    await client.residency.Report(report(1, file, full=True), timeout=5)
    partial, found, _ = await ask(revision)
    assert partial
    assert {uid: one.cached_bytes for uid, one in found.items()} == {"u3": 5}

    partial, found, _ = await ask("another-process.1")
    assert not partial
    assert found.keys() == {"u2", "u3"}


async def test_a_stop_ends_watches_without_an_error(process: Any, connect: Connect) -> None:
    client = connect(process)
    watch = client.namespace.WatchDatasets(pb.WatchDatasetsRequest(), timeout=60)
    assert await watch.read() == pb.DatasetStates(), "that there is none is told too"
    assert process.stop() == 0
    assert await watch.read() is grpc.aio.EOF


async def test_metrics_count_and_secrets_show_nowhere(connect: Connect, tmp_path: Path, metadata_process: Any) -> None:
    (tmp_path / "state" / "ns" / "secret").mkdir(parents=True)
    for name in ("id", "key"):
        (tmp_path / "state" / "ns" / "secret" / name).write_text(f"canary-{name}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    process = metadata_process("--metrics", metrics)
    client = connect(process)
    mount = pb.Mount(
        mount_point="s3://bucket",
        options={"endpoint": "http://127.0.0.1:9"},
        secret_options={"accessKeyId": "ns/secret/id", "accessKeySecret": "ns/secret/key"},
    )
    info = await client.sync("u1", "", mounts=[mount])
    assert info.error_reason == "Unreachable"
    text = (await asyncio.to_thread(requests.get, f"http://{metrics}/metrics", timeout=5)).text
    assert 'headrace_metadata_listings_total{outcome="Unreachable"} 1.0' in text
    assert 'headrace_metadata_requests_total{code="OK",method="Sync"} 1.0' in text
    assert "canary" not in text + str(info) + str(process.logs)


async def test_a_repeated_request_id_is_applied_once(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    first = await client.put("u1", "x", 1, "e1", request_id="r1")
    assert await client.put("u1", "x", 2, "e2", request_id="r2") == first + 1
    assert await client.put("u1", "x", 1, "e1", request_id="r1") == first
    assert (await client.lookup("u1", "x")).etag == "e2"


async def test_a_request_id_that_somebody_used_for_something_else_does_not_swallow_a_change(
    process: Any, connect: Connect, tree: Path
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    await client.sync("u2", f"file://{tree}")
    await client.put("u1", "x", request_id="r1")
    await client.put("u1", "y", request_id="r1")
    await client.put("u2", "x", request_id="r1")
    await client.put("u1", "x", etag="e2", request_id="r1", node="n2")
    version = await client.put("u1", "x", etag="e2", request_id="r1", node="n3")
    assert (await client.lookup("u1", "x")).etag == "e2"
    assert await client.put("u1", "x", etag="e2", request_id="r1", node="n3") == version
    await client.namespace.Remove(pb.RemoveRequest(uid="u1", path="x", request_id="r1"), timeout=10)
    assert {"y"} == {"x", "y"} & set(await client.names("u1"))
    assert (await client.lookup("u2", "x")).etag == "e"


async def test_numbers_that_nothing_holds_are_refused_and_harm_nobody(
    process: Any, connect: Connect, tree: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    for size in ((1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        with refused(StatusCode.INVALID_ARGUMENT, f"size_bytes is {size}; a file has 0 to"):
            await client.put("u1", "x", size=size)
    largest = 1 << 53
    for node in ("n1", "n2"):
        register = pb.RegisterRequest(node=node, epoch=1, data_endpoint="d", control_endpoint="c")
        await client.residency.Register(register, timeout=5)
        # As many bytes as a lie may have, and more of them together than a message's field.
        lies = [
            pb.ResidentFile(uid="u1", path=f"lie{number}", etag="e", size_bytes=largest, resident_bytes=largest)
            for number in range(2_100)
        ]
        for start in range(0, len(lies), 100) if node == "n1" else ():
            await asyncio.gather(*(client.put("u1", lie.path) for lie in lies[start : start + 100]))
        await client.residency.Report(report(1, *lies, node=node, full=True), timeout=20)
        with refused(StatusCode.INVALID_ARGUMENT, "'top' of the report has"):
            await client.residency.Report(
                report(2, pb.ResidentFile(uid="u1", path="top", size_bytes=1, resident_bytes=1 << 63), node=node),
                timeout=5,
            )
    assert (await client.get("u1")).cached_bytes == (1 << 64) - 1
    assert len((await client.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=5)).datasets) == 1
    located = await client.residency.Locate(pb.LocateRequest(uid="u1"), timeout=5)
    assert set(located.resident_bytes.values()) == {(1 << 64) - 1}
    assert len((await client.residency.ByNode(pb.ByNodeRequest(), timeout=5)).nodes) == 2


async def test_a_restart_keeps_all_and_a_kill_keeps_what_was_acknowledged(
    process: Any, connect: Connect, tree: Path
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    before = await client.manifest("u1")
    assert process.stop() == 0
    process.start()
    client = connect(process)
    assert await client.manifest("u1") == before
    for round_number in range(3):
        paths = [f"k{round_number}/{i}" for i in range(50)]
        await asyncio.gather(*(client.put("u1", path, 1, "e") for path in paths))
        process.kill()
        process.start()
        client = connect(process)
        assert sorted(await client.manifest("u1", f"k{round_number}")) == sorted(paths)
    assert (await client.get("u1")).files == 4 + 150


async def test_failed_listings_tell_why_and_keep_the_snapshot(
    process: Any, connect: Connect, s3_server: Any, refused: Any
) -> None:
    client = connect(process)
    for uid, mount_point, options, reason, words in (
        ("u1", "s3://no-such-bucket", s3_server.options(), "BucketNotFound", "'no-such-bucket' does not exist"),
        ("u2", "s3://b", {"endpoint": "ftp://x"}, "InvalidMount", "option 'endpoint'"),
        ("u3", "nfs://b", {}, "InvalidMount", "accepted are file://, hdfs://"),
        ("u4", "file:///no/such/dir", {}, "BucketNotFound", "/no/such/dir"),
    ):
        info = await client.sync(uid, mount_point, options=options)
        assert (info.error_reason, info.snapshot_version) == (reason, 0), info
        assert words in info.error
        with refused(StatusCode.UNAVAILABLE, "has no snapshot yet"):
            await client.lookup(uid, "x")
    bucket = s3_server.new_bucket()
    s3_server.client.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert not (await client.sync("u1", f"s3://{bucket}", options=s3_server.options())).error
    s3_server.client.delete_object(Bucket=bucket, Key="k")
    s3_server.client.delete_bucket(Bucket=bucket)
    info = await client.sync("u1", f"s3://{bucket}", options=s3_server.options(), force=True)
    assert (info.error_reason, info.snapshot_version, info.files) == ("BucketNotFound", 1, 1)
    assert await client.manifest("u1") == ["k"]


async def test_requests_that_are_wrong_are_refused_with_a_sentence(
    process: Any, connect: Connect, tree: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    await client.sync("ro", f"file://{tree}", writable=False)
    with refused(StatusCode.NOT_FOUND, "no dataset with uid 'nobody'"):
        await client.get("nobody")
    with refused(StatusCode.NOT_FOUND, "no dataset with uid 'nobody'"):
        await client.put("nobody", "x")
    with refused(StatusCode.NOT_FOUND, "there is no 'train/zzz' in dataset ns/u1"):
        await client.lookup("u1", "train/zzz")
    with refused(StatusCode.FAILED_PRECONDITION, "ns/ro is read-only"):
        await client.put("ro", "x")
    with refused(StatusCode.FAILED_PRECONDITION, "'train' is a directory"):
        await client.put("u1", "train")
    with refused(StatusCode.FAILED_PRECONDITION, "'top' is a file"):
        await client.put("u1", "top/x")
    with refused(StatusCode.FAILED_PRECONDITION, "'top' is a file, not a directory"):
        await client.names("u1", "top")
    for path in ("/x", "x/", "a//b", "../x", "a/./b", "x" * 300):
        with refused(StatusCode.INVALID_ARGUMENT, "path '"):
            await client.put("u1", path)
    with refused(StatusCode.INVALID_ARGUMENT, "etag is empty"):
        await client.put("u1", "x", etag="")
    with refused(StatusCode.INVALID_ARGUMENT, "mounts has 0 entries"):
        await client.sync("u5", "", mounts=[])
    with refused(StatusCode.INVALID_ARGUMENT, "format 'Zip' is not known; it must be one of Marker"):
        await client.checkpoints.List(pb.ListCheckpointsRequest(uid="u1", format="Zip"), timeout=5)


async def test_a_removed_dataset_is_gone_and_may_come_back(
    process: Any, connect: Connect, tree: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    for _ in range(2):
        await client.namespace.RemoveDataset(pb.DatasetRequest(uid="u1"), timeout=5)
    with refused(StatusCode.NOT_FOUND, "u1"):
        await client.get("u1")
    assert not (await client.namespace.ListDatasets(pb.ListDatasetsRequest(), timeout=5)).datasets
    assert (await client.sync("u1", f"file://{tree}")).files == 4


def report(sequence: int, *files: pb.ResidentFile, node: str = "n1", full: bool = False) -> pb.BlockReport:
    return pb.BlockReport(node=node, epoch=1, sequence=sequence, full=full, files=files)


async def test_residency_is_counted_by_node_and_dies_with_the_worker(
    process: Any, connect: Connect, tree: Path, refused: Any
) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    entry = await client.lookup("u1", "train/a")
    with refused(StatusCode.FAILED_PRECONDITION, "'n1' is not registered"):
        await client.residency.Report(report(1), timeout=5)
    for node in ("n1", "n2"):
        register = pb.RegisterRequest(node=node, epoch=1, data_endpoint="d:1", control_endpoint="c:1")
        assert (await client.residency.Register(register, timeout=5)).lease_seconds == 3
        held = [
            pb.ResidentFile(uid="u1", path="train/a", etag=etag, medium="SSD", size_bytes=5, resident_bytes=5)
            for etag in (entry.etag, "an older version")
        ]
        await client.residency.Report(report(1, *held, node=node), timeout=5)
    info = await client.get("u1")
    assert (info.cached_bytes, info.cached_copy_bytes) == (5, 5)
    located = await client.residency.Locate(pb.LocateRequest(uid="u1", paths=["train", "top"]), timeout=5)
    assert (dict(located.resident_bytes), located.total_bytes) == ({"n1": 5, "n2": 5}, 8)
    nodes = (await client.residency.ByNode(pb.ByNodeRequest(node="n1"), timeout=5)).nodes
    assert dict(nodes[0].datasets[0].resident_bytes) == {"SSD": 5}
    assert dict(nodes[0].datasets[0].groups) == {"train": 5}
    assert (await client.residency.Report(report(3), timeout=5)).need_full

    await client.put("u1", "train/a", 5, "an older version")
    assert (await client.get("u1")).cached_bytes == 5

    alive_at = time.monotonic()
    while any(w.alive for w in (await client.residency.ListWorkers(pb.ListWorkersRequest(), timeout=5)).workers):
        assert time.monotonic() < alive_at + 20
        await asyncio.sleep(0.05)
    assert (await client.get("u1")).cached_bytes == 0
    assert (await client.residency.Report(report(4), timeout=5)).need_full


async def test_epochs_are_fenced_across_a_restart_of_the_service(process: Any, connect: Connect, refused: Any) -> None:
    client = connect(process)
    register = pb.RegisterRequest(node="n1", epoch=2, data_endpoint="d:1", control_endpoint="c:1")
    await client.residency.Register(register, timeout=5)
    process.kill()
    process.start()
    client = connect(process)
    with refused(StatusCode.FAILED_PRECONDITION, "epoch 1 of worker 'n1' is over"):
        await client.residency.Report(report(1), timeout=5)
    current = pb.BlockReport(node="n1", epoch=2, sequence=7)
    assert (await client.residency.Report(current, timeout=5)).need_full
    current.full = True
    assert not (await client.residency.Report(current, timeout=5)).need_full
    register.epoch = 1
    with refused(StatusCode.FAILED_PRECONDITION, "epoch 1 of worker 'n1' is over"):
        await client.residency.Register(register, timeout=5)


async def test_checkpoints_are_complete_when_their_marker_is_there(process: Any, connect: Connect, tree: Path) -> None:
    client = connect(process)
    await client.sync("u1", f"file://{tree}")
    ask = pb.ListCheckpointsRequest(uid="u1", path="ckpt", format="Marker", marker="DONE")
    assert not (await client.checkpoints.List(ask, timeout=5)).checkpoints
    for step in (100, 20):
        await client.put("u1", f"ckpt/step-{step:06}/w/0", 10)
        await client.put("u1", f"ckpt/step-{step:06}/w/1", 20)
    await client.put("u1", "ckpt/step-000020/DONE", 0)
    await client.put("u1", "ckpt/notes", 1)
    found = (await client.checkpoints.List(ask, timeout=5)).checkpoints
    assert [(one.step, one.complete, one.files, one.bytes) for one in found] == [
        (100, False, 2, 30),
        (20, True, 3, 30),
    ]
    assert (found[1].path, found[1].completed_at_ns) == ("ckpt/step-000020", 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--store", "sqlite://{state}/meta.db"], "in use by another metadata process"),
        (["--store", "sqlite://{state}/other.db", "--listen", "{address}"], "the port is in use"),
        (["--store", "mysql://x"], "accepted are postgres://, postgresql://, sqlite://"),
        (["--store", "sqlite:///x/", "--listen", "here"], "is not HOST:PORT"),
    ],
)
@pytest.mark.parametrize("process", ["sqlite"], indirect=True)
def test_a_process_that_cannot_start_says_why(process: Any, arguments: list[str], words: str) -> None:
    filled = [part.format(state=process.directory, address=process.address) for part in arguments]
    ended = subprocess.run(
        [sys.executable, "-m", "metadata", "--listen", "127.0.0.1:0", *filled],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert words in ended.stderr


async def test_a_listing_under_way_is_joined_shows_counts_and_is_done_after_a_restart(
    process: Any, connect: Connect, tmp_path: Path
) -> None:
    root = tmp_path / "many"
    for i in range(30):
        (root / f"d{i:02}").mkdir(parents=True)
        for j in range(400):
            (root / f"d{i:02}" / f"{j:03}").touch()
    client = connect(process)
    first, second = await asyncio.gather(*(client.sync("u1", f"file://{root}", wait=False) for _ in range(2)))
    assert first.syncing
    assert second.syncing
    process.kill()
    process.start()
    client = connect(process)
    info = await client.sync("u1", f"file://{root}")
    assert (info.files, info.snapshot_version) == (12_000, 1)
    assert sum(event["event"] == "metadata.listed" for event in process.logs) == 1
