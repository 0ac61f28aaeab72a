"""The CSI plugin as kubelet uses it: real metadata, worker, FUSE daemons and mounts."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.gen import csi_pb2 as csi
from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from api.trust.channels import open_blocking_channel
from api.trust.identity import METADATA_SERVER
from benchmarks.data_plane import DataPlane
from tests.builders.csi import WRITERS, CsiNode, eventually, refusal

pytestmark = pytest.mark.mount


def test_a_pod_reads_a_dataset_and_leaves_nothing(node: CsiNode) -> None:
    target = node.publish("p1", "bench/train")
    assert (target / "a.bin").read_bytes() == b"train" * 1000
    assert node.clients() == 1
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_bytes(b"x")
    node.unpublish("p1", "bench/train")
    assert not target.exists()
    assert node.mounts() == [] and node.daemons() == []


# ---- what is mounted ---------------------------------------------------------------------------------------


def test_pods_of_a_node_share_one_daemon_a_dataset(node: CsiNode) -> None:
    targets = [node.publish(f"p{number}", "bench/train") for number in range(5)]
    other = node.publish("q", "bench/other")
    assert node.clients() == 2
    assert {(target / "a.bin").read_bytes()[:5] for target in targets} == {b"train"}
    assert (other / "a.bin").read_bytes()[:5] == b"other"
    for number in range(5):
        node.unpublish(f"p{number}", "bench/train")
        assert node.clients() == (2 if number < 4 else 1)
    node.unpublish("q", "bench/other")


def test_a_writer_writes_and_a_reader_beside_it_does_not(node: CsiNode, csi_plane: DataPlane) -> None:
    name = f"file-{os.urandom(4).hex()}"
    writer = node.publish("w", "bench/work", mode=WRITERS)
    reader = node.publish("r", "bench/work", mode=WRITERS, readonly=True)
    (writer / name).write_bytes(b"checkpoint")
    assert (csi_plane.directory.parent / "work" / name).read_bytes() == b"checkpoint"
    assert (reader / name).read_bytes() == b"checkpoint"
    with pytest.raises(OSError, match="Read-only"):
        (reader / name).unlink()
    node.unpublish("w", "bench/work")
    node.unpublish("r", "bench/work")


def test_a_sub_path_shows_only_that_directory(node: CsiNode) -> None:
    target = node.publish("s", "bench/train", context={"subPath": "deep/er"})
    assert sorted(path.name for path in target.iterdir()) == ["b.bin"]
    assert sorted(path.name for path in (target / "..").resolve().iterdir()) == ["mount"]
    node.unpublish("s", "bench/train")


def test_mounts_take_no_devices_and_no_set_uid_files(node: CsiNode) -> None:
    target = node.publish("p", "bench/train")
    flags = os.statvfs(target).f_flag
    assert flags & os.ST_NOSUID and flags & os.ST_NODEV and flags & os.ST_RDONLY
    node.unpublish("p", "bench/train")


def test_an_inline_volume_of_the_pods_own_namespace(node: CsiNode) -> None:
    inline = {"csi.storage.k8s.io/ephemeral": "true", "dataset": "train"}
    writer = csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER  # what kubelet says of every inline volume
    target = node.publish("i", "csi-0123", mode=writer, context={**inline, "csi.storage.k8s.io/pod.namespace": "bench"})
    assert (target / "a.bin").exists()
    node.unpublish("i", "csi-0123")
    foreign = {**inline, "namespace": "bench", "csi.storage.k8s.io/pod.namespace": "team-b"}
    code, sentence = refusal(lambda: node.publish("j", "csi-0124", mode=writer, context=foreign))
    assert code == "PERMISSION_DENIED" and "'team-b'" in sentence and "bench/train" in sentence


def test_statistics_of_a_volume(node: CsiNode) -> None:
    target = node.publish("p", "bench/train")
    request = csi.NodeGetVolumeStatsRequest(volume_id="bench/train", volume_path=str(target))
    answer = node.node.NodeGetVolumeStats(request, timeout=30)
    usage = {each.unit: each for each in answer.usage}
    assert usage[csi.VolumeUsage.BYTES].used > 0 and usage[csi.VolumeUsage.INODES].used > 0
    assert not answer.volume_condition.abnormal
    for pid in node.daemons():
        os.kill(pid, signal.SIGSTOP)
    assert node.node.NodeGetVolumeStats(request, timeout=60).volume_condition.abnormal
    for pid in node.daemons():
        os.kill(pid, signal.SIGCONT)
    node.unpublish("p", "bench/train")


# ---- again, and at the same time ------------------------------------------------------------------------------


def test_calls_may_be_repeated(node: CsiNode) -> None:
    target = node.publish("p", "bench/train")
    before = node.mounts()
    for _ in range(5):
        node.publish("p", "bench/train")
    assert node.mounts() == before
    code, sentence = refusal(lambda: node.publish("p", "bench/train", context={"subPath": "deep"}))
    assert code == "ALREADY_EXISTS" and "unpublish it first" in sentence
    code, sentence = refusal(lambda: node.publish("p", "bench/other"))
    assert code == "ALREADY_EXISTS" and "'bench/train'" in sentence
    assert node.mounts() == before and (target / "a.bin").exists()
    for _ in range(3):
        node.unpublish("p", "bench/train")


def test_many_calls_at_once(node: CsiNode) -> None:
    datasets = ["bench/train", "bench/other", "bench/work"]

    def life(number: int) -> bool:
        pod, dataset = f"p{number % 24}", datasets[number % 3]
        # Several threads have the same pod: the same call at the same time.
        target = node.publish(pod, dataset)
        is_served = target.is_dir()
        node.unpublish(pod, dataset)
        return is_served

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(life, range(72)))
    assert len(results) == 72
    assert node.mounts() == [] and node.daemons() == []
    assert list((node.state / "uses").iterdir()) == []


def test_pods_that_stay_do_not_notice_those_that_come_and_go(node: CsiNode) -> None:
    target = node.publish("stays", "bench/train")
    with ThreadPoolExecutor(8) as pool:

        def come_and_go(number: int) -> bytes:
            other = node.publish(f"p{number}", "bench/train")
            data = (other / "a.bin").read_bytes() + (target / "a.bin").read_bytes()
            node.unpublish(f"p{number}", "bench/train")
            return data

        assert set(pool.map(come_and_go, range(40))) == {b"train" * 2000}
    assert node.clients() == 1 and len(node.mounts()) == 2  # the daemon's own and the target
    node.unpublish("stays", "bench/train")


def test_a_given_up_pods_fence_is_lifted_once_its_volume_is_gone(csi_plane: DataPlane, tmp_path: Path) -> None:
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--fence-seconds", "0.1"]) as node:
        old = node.publish("uid-old", "bench/work", mode=WRITERS)
        other = node.publish("uid-other", "bench/work", mode=WRITERS)
        (old / "run").mkdir()
        fence = pb.Fence(node="n1", path="run", pods=["uid-old", "uid-never-seen"])
        with open_blocking_channel(csi_plane.metadata_address, None, METADATA_SERVER) as channel:
            stub = metadata_pb2_grpc.FencesStub(channel)
            stub.Raise(pb.RaiseFencesRequest(namespace="bench", name="work", fences=[fence]), timeout=10)

            def pods() -> list[str]:
                listed = stub.List(pb.ListFencesRequest(node="n1"), timeout=10)
                return [pod for one in listed.fences for pod in one.pods]

            eventually(lambda: pods() == ["uid-old"])

            def is_refused() -> bool:
                """Of a save; a worker goes by a record of the dataset that is up to two seconds old."""
                try:
                    (other / "run" / "step").write_text("x")
                except PermissionError:
                    return True
                return False

            eventually(is_refused)
            assert pods() == ["uid-old"]
            node.unpublish("uid-old", "bench/work")
            eventually(lambda: pods() == [])
            eventually(lambda: not is_refused())
        node.unpublish("uid-other", "bench/work")
        assert node.defects() == []
