"""The CSI plugin and callers that mean harm, or err; the sockets it offers."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from api.gen import csi_pb2 as csi
from api.gen import plugin_registration_pb2 as registration
from api.gen import plugin_registration_pb2_grpc
from benchmarks.data_plane import DataPlane
from headrace.cluster.ports import pick_free
from tests.builders.csi import CALL_SECONDS, WRITERS, CsiNode, capability, eventually, refusal

pytestmark = pytest.mark.mount


@pytest.mark.parametrize(
    "volume_id",
    [
        "../../etc",
        "bench/../bench/train",
        "/etc",
        "bench/train/../other",
        "bench/train\n",
        "bench/$(id)",
        "B/x",
        "a" * 9999,
    ],
)
def test_hostile_volume_ids_are_refused_by_every_call(node: CsiNode, volume_id: str) -> None:
    target = str(node.target("a"))
    calls: list[Callable[[], object]] = [
        lambda: node.publish("a", volume_id),
        lambda: node.unpublish("a", volume_id),
        lambda: node.node.NodeStageVolume(
            csi.NodeStageVolumeRequest(volume_id=volume_id, staging_target_path=target, volume_capability=capability()),
            timeout=30,
        ),
        lambda: node.node.NodeUnstageVolume(
            csi.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=target), timeout=30
        ),
        lambda: node.node.NodeGetVolumeStats(
            csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=target), timeout=30
        ),
    ]
    for call in calls:
        code, sentence = refusal(call)
        assert code == "INVALID_ARGUMENT"
        assert sentence.startswith("volume_id ") and len(sentence) < 500 and sentence.isprintable()
    assert node.mounts() == [] and node.daemons() == []


def _publish_at(node: CsiNode, path: str) -> tuple[str, str]:
    request = csi.NodePublishVolumeRequest(volume_id="bench/train", target_path=path, volume_capability=capability())
    return refusal(lambda: node.node.NodePublishVolume(request, timeout=CALL_SECONDS))


def test_targets_outside_of_kubelets_folder_are_refused(node: CsiNode, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    kubelet = str(node.kubelet)
    for path in (str(victim), f"{kubelet}/../../victim", kubelet, f"{kubelet}/", "victim", "/", f"{kubelet}//x"):
        assert _publish_at(node, path)[0] == "INVALID_ARGUMENT"
        request = csi.NodeUnpublishVolumeRequest(volume_id="bench/train", target_path=path)
        assert refusal(lambda: node.node.NodeUnpublishVolume(request, timeout=30))[0] == "INVALID_ARGUMENT"  # noqa: B023
    assert (victim / "file").read_bytes() == b"precious"


def test_symbolic_links_in_a_target_are_not_followed(node: CsiNode, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "volumes" / "mount").mkdir(parents=True)
    (node.kubelet / "pods").mkdir()
    (node.kubelet / "pods" / "evil").symlink_to(victim)
    code, sentence = _publish_at(node, str(node.kubelet / "pods" / "evil" / "volumes" / "mount"))
    assert code == "INVALID_ARGUMENT" and "symbolic link" in sentence
    last = node.target("b")
    last.symlink_to(victim)
    assert _publish_at(node, str(last))[0] == "INVALID_ARGUMENT"
    assert [mount.point for mount in node.mounts()] == [] and node.daemons() == []
    # Nor does the way out: the directory behind the link stays.
    request = csi.NodeUnpublishVolumeRequest(
        volume_id="bench/train", target_path=str(node.kubelet / "pods" / "evil" / "volumes" / "mount")
    )
    assert refusal(lambda: node.node.NodeUnpublishVolume(request, timeout=30))[0] == "INVALID_ARGUMENT"
    assert (victim / "volumes" / "mount").is_dir()


def test_mounts_of_others_are_neither_covered_nor_taken_away(node: CsiNode) -> None:
    target = node.target("a")
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(target)], check=True, timeout=60)
    try:
        assert _publish_at(node, str(target))[0] == "FAILED_PRECONDITION"
        assert refusal(lambda: node.unpublish("a", "bench/train"))[0] == "FAILED_PRECONDITION"
        assert [mount.fs_type for mount in node.mounts()] == ["tmpfs"] and node.daemons() == []
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=60)


def test_files_in_the_way_are_kept(node: CsiNode) -> None:
    target = node.publish("a", "bench/train")
    subprocess.run(["umount", str(target)], check=True, timeout=60)
    (target / "log").write_bytes(b"kept")
    code, sentence = refusal(lambda: node.unpublish("a", "bench/train"))
    assert code == "FAILED_PRECONDITION" and "remove them by hand" in sentence
    assert (target / "log").read_bytes() == b"kept" and node.daemons() == []
    (target / "log").unlink()
    node.unpublish("a", "bench/train")


@pytest.mark.parametrize(
    ("volume_id", "context", "code", "named"),
    [
        ("bench/nothing", {}, "NOT_FOUND", "bench/nothing"),
        ("bench/train", {"subPath": "no/such"}, "NOT_FOUND", "no/such"),
        ("bench/train", {"subPath": "a.bin"}, "INVALID_ARGUMENT", "a.bin"),
        ("bench/train", {"subPath": "../other"}, "INVALID_ARGUMENT", "../other"),
        ("bench/train", {"subpath": "deep"}, "INVALID_ARGUMENT", "subpath"),
        ("some-uid", {}, "INVALID_ARGUMENT", "dataset"),
        ("bench/train", {"dataset": "other", "namespace": "bench"}, "INVALID_ARGUMENT", "bench/other"),
    ],
)
def test_a_refused_volume_leaves_nothing(
    node: CsiNode, volume_id: str, context: dict[str, str], code: str, named: str
) -> None:
    got, sentence = refusal(lambda: node.publish("a", volume_id, context=context))
    assert (got, named in sentence) == (code, True), sentence
    assert node.mounts() == [] and node.daemons() == [] and not node.target("a").exists()
    assert list((node.state / "uses").iterdir()) == []


def test_writing_to_a_read_only_dataset_is_refused(node: CsiNode) -> None:
    code, sentence = refusal(lambda: node.publish("a", "bench/train", mode=WRITERS))
    assert code == "FAILED_PRECONDITION" and "ReadOnlyMany" in sentence
    code, _ = refusal(lambda: node.node.NodeExpandVolume(csi.NodeExpandVolumeRequest(volume_id="x"), timeout=30))
    assert code == "UNIMPLEMENTED"


def test_the_socket_is_for_its_own_user_only(node: CsiNode) -> None:
    assert node.socket.stat().st_mode & 0o777 == 0o600


def test_kubelet_finds_the_plugin(csi_plane: DataPlane, tmp_path: Path) -> None:
    folder = tmp_path / "reg"
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--registration", str(folder)]) as node:
        (socket,) = folder.iterdir()
        assert socket.name == "csi.headrace.dev-reg.sock"
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = plugin_registration_pb2_grpc.RegistrationStub(channel)
            info = stub.GetInfo(registration.InfoRequest(), timeout=30)
            stub.NotifyRegistrationStatus(registration.RegistrationStatus(plugin_registered=True), timeout=30)
        assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "csi.headrace.dev", str(node.socket))
        assert list(info.supported_versions) == ["1.0.0"]
        assert node.process is not None
        eventually(lambda: any(event["event"] == "registered" for event in node.process.events()))  # type: ignore[union-attr]
        node.stop()
        assert list(folder.iterdir()) == [], "a plugin that has gone is not found"


@pytest.mark.parametrize("role", ["plugin", "launcher"])
def test_a_probe_finds_a_process_that_does_not_turn(csi_plane: DataPlane, tmp_path: Path, role: str) -> None:
    port = pick_free()
    arguments = ["--metrics", f"127.0.0.1:{port}", "--role", role]
    if role == "launcher":
        arguments += ["--launcher-socket", str(tmp_path / "launcher.sock")]

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
                return bool(answer.read() == b"ok\n")
        except OSError:
            return False

    with CsiNode(csi_plane, tmp_path / "n", arguments=arguments) as node:
        eventually(answers)
        process = node.process
        assert process is not None
        os.kill(process.popen.pid, signal.SIGSTOP)
        try:
            assert not answers()
        finally:
            os.kill(process.popen.pid, signal.SIGCONT)
        eventually(answers)
