"""The CSI plugin and targets that are not as it left them: other calls for them, what is gone, full disks."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.gen import csi_pb2 as csi
from benchmarks.data_plane import DataPlane
from tests.builders.csi import CALL_SECONDS, WRITERS, CsiNode, eventually, refusal

pytestmark = pytest.mark.mount


@pytest.fixture
def unwatched(csi_plane: DataPlane, tmp_path: Path) -> Iterator[CsiNode]:
    """A node whose watchdog looks so seldom that a test never sees it."""
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--heal-seconds", "3600"]) as node:
        yield node
        left = [mount.point for mount in node.mounts()], node.daemons(), node.defects()
    assert left == ([], [], [])


def _kill_daemons(node: CsiNode) -> None:
    for pid in node.daemons():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not node.daemons())


def _roots(node: CsiNode, target: Path) -> list[str]:
    return [mount.root for mount in node.mounts() if mount.point == str(target)]


@pytest.mark.parametrize("dies", [False, True])
def test_a_target_keeps_the_volume_it_was_published_with(unwatched: CsiNode, dies: bool) -> None:
    node = unwatched
    work = {"dataset": "work", "namespace": "bench"}
    target = node.publish("a", "pv-1", context=work, readonly=True, mode=WRITERS)
    daemons = node.settled_daemons()
    if dies:
        _kill_daemons(node)
    others: list[dict[str, Any]] = [
        {"context": {"dataset": "train", "namespace": "bench"}},
        {"context": work, "mode": WRITERS},
        {"context": {**work, "subPath": "deep"}},
    ]
    for other in others:
        code, sentence = refusal(lambda: node.publish("a", "pv-1", **other))  # noqa: B023
        assert code == "ALREADY_EXISTS" and "'/bench/work' (read-only)" in sentence
    assert _roots(node, target) == ["/bench/work"] and node.daemons() == ([] if dies else daemons)
    node.publish("a", "pv-1", context=work, readonly=True, mode=WRITERS)
    node.unpublish("a", "pv-1")


def _condition(node: CsiNode, pod: str, volume_id: str) -> tuple[bool, str]:
    request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(node.target(pod)))
    answer = node.node.NodeGetVolumeStats(request, timeout=CALL_SECONDS)
    assert bool(answer.usage) != answer.volume_condition.abnormal
    return answer.volume_condition.abnormal, answer.volume_condition.message


def test_statistics_are_never_those_of_another_file_system(unwatched: CsiNode) -> None:
    node = unwatched
    target = node.publish("a", "bench/train")
    assert _condition(node, "a", "bench/train") == (False, "the mount answers")
    subprocess.run(["umount", str(target)], check=True, timeout=60)
    is_abnormal, message = _condition(node, "a", "bench/train")
    assert is_abnormal and "nothing is mounted" in message and "bench/train" in message
    subprocess.run(["mount", "-t", "tmpfs", "none", str(target)], check=True, timeout=60)
    is_abnormal, message = _condition(node, "a", "bench/train")
    assert is_abnormal and "type 'tmpfs'" in message
    subprocess.run(["umount", str(target)], check=True, timeout=60)
    node.publish("a", "bench/train")
    assert not _condition(node, "a", "bench/train")[0]
    node.unpublish("a", "bench/train")


def test_a_directory_that_was_made_again_is_mounted_anew(unwatched: CsiNode) -> None:
    node = unwatched
    whole = node.publish("w", "bench/work", mode=WRITERS)
    (whole / "sub").mkdir()
    target = node.publish("a", "bench/work", context={"subPath": "sub"})
    (whole / "sub").rmdir()
    code, sentence = refusal(lambda: node.publish("a", "bench/work", context={"subPath": "sub"}))
    assert code == "NOT_FOUND" and "bench/work/sub" in sentence
    for content in (b"first", b"second"):
        (whole / "sub").mkdir()
        (whole / "sub" / "file").write_bytes(content)
        node.publish("a", "bench/work", context={"subPath": "sub"})
        assert (target / "file").read_bytes() == content and len(_roots(node, target)) <= 2
        (whole / "sub" / "file").unlink()
        (whole / "sub").rmdir()
    node.unpublish("a", "bench/work")
    node.unpublish("w", "bench/work")


def test_a_target_inside_a_mounted_dataset_is_refused(unwatched: CsiNode) -> None:
    node = unwatched
    outer = node.publish("a", "bench/work", mode=WRITERS)
    inside = outer / "kept"
    inside.mkdir()
    calls = [
        lambda: node.node.NodePublishVolume(
            csi.NodePublishVolumeRequest(
                volume_id="bench/train",
                target_path=str(inside),
                volume_capability=csi.VolumeCapability(
                    mount=csi.VolumeCapability.MountVolume(),
                    access_mode=csi.VolumeCapability.AccessMode(
                        mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
                    ),
                ),
            ),
            timeout=CALL_SECONDS,
        ),
        lambda: node.node.NodeUnpublishVolume(
            csi.NodeUnpublishVolumeRequest(volume_id="bench/train", target_path=str(inside)), timeout=CALL_SECONDS
        ),
    ]
    for call in calls:
        code, sentence = refusal(call)
        assert code == "INVALID_ARGUMENT" and "inside the dataset mounted at" in sentence
    assert inside.is_dir()
    inside.rmdir()
    node.unpublish("a", "bench/work")


def test_a_full_state_folder_is_told_and_leaves_nothing(csi_plane: DataPlane, tmp_path: Path) -> None:
    node = CsiNode(csi_plane, tmp_path / "n", arguments=["--heal-seconds", "3600"])
    node.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(node.state)], check=True, timeout=60)
    with node:
        target = node.publish("a", "bench/train")
        fill = node.state / "fill"
        with pytest.raises(OSError, match="No space left"), fill.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        code, sentence = refusal(lambda: node.publish("b", "bench/other"))
        assert code == "UNAVAILABLE" and str(node.state / "uses") in sentence and "No space left" in sentence
        assert len(list((node.state / "uses").iterdir())) == 1 and node.clients() == 1
        # What is there needs no room, not even to be healed.
        _kill_daemons(node)
        node.publish("a", "bench/train")
        assert (target / "a.bin").read_bytes() == b"train" * 1000
        node.unpublish("b", "bench/other")
        fill.unlink()
        node.publish("b", "bench/other")
        for pod, dataset in (("a", "bench/train"), ("b", "bench/other")):
            node.unpublish(pod, dataset)
        assert [mount.point for mount in node.mounts()] == [str(node.state)] and node.daemons() == []
        assert node.defects() == []


def test_a_question_to_a_stopped_daemon_is_asked_once(unwatched: CsiNode) -> None:
    node = unwatched
    node.publish("a", "bench/train")
    assert node.process is not None
    threads = Path(f"/proc/{node.process.popen.pid}/task")
    for pid in node.daemons():
        os.kill(pid, signal.SIGSTOP)
    request = csi.NodeGetVolumeStatsRequest(volume_id="bench/train", volume_path=str(node.target("a")))
    before = len(list(threads.iterdir()))
    asked = [node.node.NodeGetVolumeStats.future(request, timeout=CALL_SECONDS) for _ in range(30)]
    assert all(each.result().volume_condition.abnormal for each in asked)
    # gRPC has a few threads of its own, which come and go.
    assert len(list(threads.iterdir())) - before < 15
    for pid in node.daemons():
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not node.node.NodeGetVolumeStats(request, timeout=CALL_SECONDS).volume_condition.abnormal)
    node.unpublish("a", "bench/train")
