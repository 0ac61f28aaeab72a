"""The CSI plugin when things die: daemons, the plugin, its launcher, metadata; and callers that mean harm."""

import errno
import os
import queue
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from api.gen import csi_pb2 as csi
from api.gen import plugin_registration_pb2 as registration
from api.gen import plugin_registration_pb2_grpc
from benchmarks.data_plane import DataPlane, Process
from fuse.csi.core.volumes import DatasetRef
from fuse.csi.errors import NotNow
from fuse.csi.shell.daemons import DatasetFolders, LocalDaemons
from tests.builders.csi import CALL_SECONDS, WRITERS, CsiNode, capability, refusal

pytestmark = pytest.mark.mount

DEADLINE_SECONDS = 60.0


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def _kill_daemons(node: CsiNode) -> None:
    for pid in node.daemons():
        os.kill(pid, signal.SIGKILL)
    _eventually(lambda: not node.daemons())


def _reads(path: Path) -> bool:
    try:
        return path.read_bytes() != b""
    except OSError:
        return False


# ---- the daemon dies ---------------------------------------------------------------------------------------


@pytest.fixture
def unwatched(csi_plane: DataPlane, tmp_path: Path) -> Iterator[CsiNode]:
    """A node whose watchdog looks so seldom that a test never sees it."""
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--heal-seconds", "3600"]) as node:
        yield node
        left = [mount.point for mount in node.mounts()], node.daemons(), node.defects()
    assert left == ([], [], [])


def test_unpublish_of_a_dead_mount(unwatched: CsiNode) -> None:
    node = unwatched
    targets = [node.publish(pod, "bench/train") for pod in ("a", "b")]
    _kill_daemons(node)
    for target in targets:
        with pytest.raises(OSError) as dead:
            os.statvfs(target)
        assert dead.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    for pod in ("a", "b"):
        node.unpublish(pod, "bench/train")
    assert not any(target.parent.joinpath("mount").exists() for target in targets)


def test_unpublish_while_a_daemon_is_stopped_and_a_file_is_open(unwatched: CsiNode) -> None:
    target = unwatched.publish("a", "bench/train")
    with (target / "a.bin").open("rb"):
        (pid,) = unwatched.daemons()
        os.kill(pid, signal.SIGSTOP)
        unwatched.unpublish("a", "bench/train")
    assert not target.exists() and not unwatched.daemons()


def test_publishing_again_heals_what_died(unwatched: CsiNode) -> None:
    node = unwatched
    targets = {pod: node.publish(pod, "bench/train") for pod in ("a", "b")}
    for _ in range(4):
        _kill_daemons(node)
        for pod, target in targets.items():
            node.publish(pod, "bench/train")
            assert (target / "a.bin").read_bytes() == b"train" * 1000
        # One dead mount below, which running pods have, and one living above it: however often it happens.
        assert all(sum(mount.point == str(target) for mount in node.mounts()) == 2 for target in targets.values())
        assert len(node.daemons()) == 1
    for pod in targets:
        node.unpublish(pod, "bench/train")


@contextmanager
def _pod(target: Path, inside: Path) -> Iterator[Callable[[], bool]]:
    """A mount namespace that has the target the way a container gets it with HostToContainer; asks from there
    whether a.bin can be read."""
    inside.mkdir()
    script = f'mount --rbind "{target}" "{inside}" && mount --make-rslave "{inside}" && echo ready && exec sleep 600'
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pod:
        try:
            assert pod.stdout is not None and pod.stdout.readline() == "ready\n"

            def reads() -> bool:
                inner = ["nsenter", "--mount", f"--target={pod.pid}", "cat", str(inside / "a.bin")]
                return subprocess.run(inner, capture_output=True, check=False, timeout=60).stdout == b"train" * 1000

            yield reads
        finally:
            pod.kill()


def test_a_running_pod_sees_the_healed_mount(unwatched: CsiNode, tmp_path: Path) -> None:
    node = unwatched
    subprocess.run(["mount", "--bind", str(node.kubelet), str(node.kubelet)], check=True, timeout=60)
    subprocess.run(["mount", "--make-rshared", str(node.kubelet)], check=True, timeout=60)
    node.stop()
    node.start()
    target = node.publish("a", "bench/train")
    with _pod(target, tmp_path / "inside") as reads:
        assert reads()
        for _ in range(3):
            _kill_daemons(node)
            assert not reads()
            node.publish("a", "bench/train")
            assert reads()
    before = len(node.mounts())
    assert before == 4  # the folder, the daemon's, the dead one, the living one
    node.unpublish("a", "bench/train")
    node.stop()  # it holds the folder open
    subprocess.run(["umount", str(node.kubelet)], check=True, timeout=60)


def test_the_watchdog_heals_without_being_called(csi_plane: DataPlane, tmp_path: Path, unused_tcp_port: int) -> None:
    metrics = f"127.0.0.1:{unused_tcp_port}"
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--heal-seconds", "0.2", "--metrics", metrics]) as node:
        targets = [node.publish(pod, "bench/train") for pod in ("a", "b")]
        _kill_daemons_once(node)
        process = node.process
        assert process is not None
        _eventually(lambda: [event["event"] for event in process.events()].count("healed") == 2)
        assert all(_reads(target / "a.bin") for target in targets)
        assert len(node.daemons()) == 1
        for pod in ("a", "b"):
            node.unpublish(pod, "bench/train")
        assert node.mounts() == [] and node.daemons() == []
        counted = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30).read().decode()
        assert "headrace_csi_healed_total 2.0" in counted
        assert 'headrace_csi_requests_total{code="OK",method="NodePublishVolume"} 2.0' in counted
        assert 'headrace_csi_daemons_total{event="started"} 2.0' in counted


async def test_a_daemon_nobody_uses_is_ended_in_time(csi_plane: DataPlane, tmp_path: Path) -> None:
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--heal-seconds", "0.2"]) as node:
        process = node.process
        assert process is not None
        arguments = node.daemon_settings()
        stranded = LocalDaemons(DatasetFolders(node.state), arguments[: arguments.index("--state")])
        with suppress(NotNow):  # it may be ended before it is whole
            await stranded.start(DatasetRef("bench", "train").key)
        _eventually(lambda: any(event["event"] == "daemon_ended" for event in process.events()))
        assert node.mounts() == [] and node.daemons() == []


def _kill_daemons_once(node: CsiNode) -> None:
    for pid in node.daemons():
        os.kill(pid, signal.SIGKILL)


# ---- the plugin dies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mounts_outlive_the_plugin(node: CsiNode, number: int) -> None:
    target = node.publish("a", "bench/work", mode=WRITERS)
    daemons, mounts = node.daemons(), node.mounts()
    name = f"open-{os.urandom(4).hex()}"
    with (target / name).open("wb") as file:
        file.write(b"before")
        node.stop(number)
        file.write(b" and after")
    assert (target / name).read_bytes() == b"before and after"
    node.start()
    assert (node.daemons(), node.mounts()) == (daemons, mounts)
    node.publish("a", "bench/work", mode=WRITERS)
    node.publish("b", "bench/work", mode=WRITERS)
    assert node.daemons() == daemons, "the new plugin takes the daemon that lives"
    node.unpublish("a", "bench/work")
    node.unpublish("b", "bench/work")


def test_a_plugin_that_starts_again_clears_up(node: CsiNode) -> None:
    node.publish("a", "bench/train")
    node.publish("b", "bench/other")
    node.stop(signal.SIGKILL)
    target = node.target("a")
    subprocess.run(["umount", str(target)], check=True, timeout=60)
    node.start()
    # What nobody uses any more is gone, what is used is not.
    _eventually(lambda: len(node.daemons()) == 1)
    node.unpublish("a", "bench/train")
    node.unpublish("b", "bench/other")


def test_records_that_are_damaged_cost_no_mount(node: CsiNode) -> None:
    target = node.publish("a", "bench/train")
    node.stop()
    for file in (node.state / "uses").iterdir():
        file.write_bytes(b"\x00{")
    node.start()
    assert (target / "a.bin").exists()
    node.publish("a", "bench/train")
    code, _ = refusal(lambda: node.publish("a", "bench/train", context={"subPath": "deep"}))
    assert code == "ALREADY_EXISTS" and (target / "a.bin").exists()
    node.stop()
    for file in (node.state / "uses").iterdir():
        file.write_bytes(b"")
    node.start()
    node.unpublish("a", "bench/train")


def _control_mounts() -> set[str]:
    """Where fusectl is mounted: a daemon that is killed while it tunes its mount must not leave one."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {line.split(" ")[4] for line in lines if " - fusectl " in line}


def _repeated(node: CsiNode, call: Callable[[], object], *, restart: bool) -> None:
    """As kubelet does: the same call until it is answered; `restart`: start the plugin when it is gone."""
    for _ in range(400):
        try:
            call()
            return
        except grpc.RpcError as error:
            assert error.code() in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }, error.details()
        except ValueError:
            pass  # the plugin was killed just now, and our channel with it
        if restart and node.process is not None and node.process.popen.poll() is not None:
            node.start()
        time.sleep(0.05)
    raise AssertionError("it never succeeded")


def _churn(node: CsiNode, rounds: int, seed: int) -> None:
    """Publish and unpublish with daemons and plugin killed at any moment."""
    dice = random.Random(seed)
    elsewhere = _control_mounts()

    for number in range(rounds):
        pod, dataset = f"p{number % 7}", dice.choice(["bench/train", "bench/other"])
        _repeated(node, partial(node.publish, pod, dataset), restart=True)
        what = dice.random()
        if what < 0.3:
            _kill_daemons_once(node)
        elif what < 0.45:
            node.stop(signal.SIGKILL)
            node.start()
        elif what < 0.6:
            # In the middle of a call.
            request = csi.NodePublishVolumeRequest(
                volume_id=dataset, target_path=str(node.target("mid")), volume_capability=capability()
            )
            future = node.node.NodePublishVolume.future(request, timeout=CALL_SECONDS)
            time.sleep(dice.random() * 0.4)
            node.stop(signal.SIGKILL)
            future.cancel()
            node.start()
            _repeated(node, partial(node.unpublish, "mid", dataset), restart=True)
        else:
            assert _reads(node.target(pod) / "a.bin")
        _repeated(node, partial(node.unpublish, pod, dataset), restart=True)
        assert not _control_mounts() - elsewhere, f"in round {number} of seed {seed}"
        if number % 10 == 9:
            assert node.mounts() == [] and node.daemons() == [], f"after round {number} of seed {seed}"


def _churn_at_once(node: CsiNode, lives: int, seed: int) -> None:
    """Many pods at the same time, while daemons and the plugin are killed again and again."""
    datasets = ["bench/train", "bench/other", "bench/work"]
    dice = random.Random(seed)
    finished: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def kill() -> None:
        # Paced by pods that made it, so that a slow machine is not killed to a standstill.
        while finished.get():
            if dice.random() > 0.1:
                continue
            if dice.random() < 0.7:
                _kill_daemons_once(node)
            else:
                node.stop(signal.SIGKILL)
                node.start()

    def live(number: int) -> None:
        # Several at a time have the same pod: the same call twice at once, and one that undoes the other.
        pod, dataset = f"p{number % 24}", datasets[number % 3]
        _repeated(node, partial(node.publish, pod, dataset), restart=False)
        _repeated(node, partial(node.unpublish, pod, dataset), restart=False)
        finished.put(True)

    with ThreadPoolExecutor(13) as pool:
        killer = pool.submit(kill)
        try:
            for done in [pool.submit(live, number) for number in range(lives)]:
                done.result()
        finally:
            finished.put(False)
        killer.result()
    # A call whose caller was killed away goes on in the plugin: the last word is ours.
    for number in range(24):
        _repeated(node, partial(node.unpublish, f"p{number}", datasets[number % 3]), restart=False)
    _eventually(lambda: node.mounts() == [] and node.daemons() == [])


def test_nothing_is_left_of_30_pods_with_kills(node: CsiNode) -> None:
    _churn(node, 30, seed=1)


def test_nothing_is_left_of_60_pods_at_once_with_kills(node: CsiNode) -> None:
    _churn_at_once(node, 60, seed=1)


@pytest.mark.nightly
def test_nothing_is_left_of_5000_pods_at_once_with_kills(node: CsiNode) -> None:
    _churn_at_once(node, 5000, seed=int(os.environ.get("SEED", "2")))


@pytest.mark.nightly
def test_nothing_is_left_of_1000_pods_with_kills(node: CsiNode) -> None:
    _churn(node, 1000, seed=int(os.environ.get("SEED", "2")))


# ---- others die ----------------------------------------------------------------------------------------------


def test_what_is_published_holds_without_the_metadata_service(csi_plane: DataPlane, tmp_path: Path) -> None:
    with CsiNode(csi_plane, tmp_path / "n") as node:
        target = node.publish("a", "bench/train")
        assert _reads(target / "a.bin")
        assert node.identity.Probe(csi.ProbeRequest(), timeout=30).ready.value
        assert csi_plane.metadata is not None
        csi_plane.metadata.stop()
        try:
            node.publish("a", "bench/train")
            assert _reads(target / "a.bin")
            code, sentence = refusal(lambda: node.publish("b", "bench/train"))
            assert code == "UNAVAILABLE" and "metadata service" in sentence and "bench/train" in sentence
            assert not node.identity.Probe(csi.ProbeRequest(), timeout=30).ready.value
        finally:
            csi_plane.start_metadata()
        _eventually(lambda: node.identity.Probe(csi.ProbeRequest(), timeout=30).ready.value)
        node.publish("b", "bench/train")
        node.unpublish("a", "bench/train")
        node.unpublish("b", "bench/train")


def test_a_daemon_that_cannot_start_is_told_and_leaves_nothing(node: CsiNode) -> None:
    folder = node.state / "datasets" / DatasetRef("bench", "train").key
    folder.mkdir(mode=0o700)
    (folder / "mount").write_bytes(b"in the way")
    code, sentence = refusal(lambda: node.publish("a", "bench/train"))
    assert code == "UNAVAILABLE" and str(folder) in sentence
    assert node.mounts() == [] and node.daemons() == [] and list((node.state / "uses").iterdir()) == []
    (folder / "mount").unlink()
    node.publish("a", "bench/train")
    node.unpublish("a", "bench/train")


async def test_a_daemon_that_ends_at_once_is_told(tmp_path: Path) -> None:
    folders = DatasetFolders(tmp_path)
    key = DatasetRef("bench", "train").key
    with pytest.raises(NotNow, match="ended before its mount was there"):
        await LocalDaemons(folders, ["--no-such-argument"]).start(key)
    assert "no-such-argument" in folders.log(key).read_text()
    await LocalDaemons(folders, []).stop(key)
    assert folders.known() == []


@contextmanager
def _launcher(node: CsiNode, socket: Path) -> Iterator[Process]:
    arguments = ["--role", "launcher", "--launcher-socket", str(socket), *node.daemon_settings()]
    process = node.plane.spawn(f"launcher-{len(node.plane.processes)}", ["-m", "fuse.csi", *arguments])
    try:
        _eventually(lambda: any(event["event"] == "ready" for event in process.events()))
        yield process
    finally:
        process.stop()


def test_a_launcher_starts_daemons_in_the_plugins_place(csi_plane: DataPlane, tmp_path: Path) -> None:
    socket = tmp_path / "l.sock"
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--launcher-socket", str(socket)]) as node:
        code, sentence = refusal(lambda: node.publish("a", "bench/train"))
        assert code == "UNAVAILABLE" and "launcher" in sentence
        with _launcher(node, socket) as launcher:
            target = node.publish("a", "bench/train")
            (daemon,) = node.daemons()
            parent = Path(f"/proc/{daemon}/stat").read_text().rpartition(") ")[2].split()[1]
            assert int(parent) == launcher.popen.pid
            node.stop(signal.SIGKILL)
            assert _reads(target / "a.bin")
            node.start()
        with _launcher(node, socket):
            # A launcher that starts again takes what lives.
            node.publish("a", "bench/train")
            assert node.daemons() == [daemon]
            node.unpublish("a", "bench/train")
            assert node.mounts() == [] and node.daemons() == []


# ---- callers that mean harm -----------------------------------------------------------------------------------


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
        _eventually(lambda: any(event["event"] == "registered" for event in node.process.events()))  # type: ignore[union-attr]
        node.stop()
        assert list(folder.iterdir()) == [], "a plugin that has gone is not found"


def test_a_probe_tells_whether_the_plugin_answers(node: CsiNode) -> None:
    command = [sys.executable, "-m", "fuse.csi", "--role", "probe", "--socket", str(node.socket)]
    command += node.daemon_settings()

    def probe() -> int:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    assert probe() == 0
    node.stop()
    assert probe() == 1
    node.start()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--node", "n", "--worker-socket", "/x", "--metadata", "nowhere"], "--metadata"),
        (["--node", "n", "--worker-socket", "/x", "--metadata", "h:1", "--role", "launcher"], "--launcher-socket"),
    ],
)
def test_bad_settings_are_named(arguments: list[str], named: str) -> None:
    command = [sys.executable, "-m", "fuse.csi", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and named in done.stderr
