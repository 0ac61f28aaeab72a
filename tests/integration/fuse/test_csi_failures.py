"""The CSI plugin when things die: daemons, the plugin, its launcher, metadata."""

import errno
import os
import queue
import random
import signal
import subprocess
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
from benchmarks.data_plane import DataPlane, Process
from fuse.csi.core.volumes import DatasetRef
from fuse.csi.errors import NotNow
from fuse.csi.shell.daemons import DatasetFolders, LocalDaemons
from tests.builders.csi import CALL_SECONDS, WRITERS, CsiNode, capability, eventually, refusal

pytestmark = pytest.mark.mount


def _kill_daemons(node: CsiNode) -> None:
    for pid in node.daemons():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not node.daemons())


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
        for pid in unwatched.daemons():
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
        assert node.clients() == 1
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
        eventually(lambda: [event["event"] for event in process.events()].count("healed") == 2)
        assert all(_reads(target / "a.bin") for target in targets)
        assert node.clients() == 1
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
        eventually(lambda: any(event["event"] == "daemon_ended" for event in process.events()))
        assert node.mounts() == [] and node.daemons() == []


def _kill_daemons_once(node: CsiNode) -> None:
    for pid in node.daemons():
        with suppress(ProcessLookupError):  # its last pod has left meanwhile
            os.kill(pid, signal.SIGKILL)


# ---- the plugin dies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mounts_outlive_the_plugin(node: CsiNode, number: int) -> None:
    target = node.publish("a", "bench/work", mode=WRITERS)
    daemons, mounts = node.settled_daemons(), node.mounts()
    name = f"open-{os.urandom(4).hex()}"
    with (target / name).open("wb") as file:
        file.write(b"before")
        node.stop(number)
        file.write(b" and after")
    assert (target / name).read_bytes() == b"before and after"
    node.start()
    assert (node.settled_daemons(), node.mounts()) == (daemons, mounts)
    node.publish("a", "bench/work", mode=WRITERS)
    node.publish("b", "bench/work", mode=WRITERS)
    assert node.settled_daemons() == daemons, "the new plugin takes the daemon that lives"
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
    eventually(lambda: node.clients() == 1)
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


def _all_come_from(launcher: int, node: CsiNode) -> bool:
    daemons = node.daemons()
    try:
        parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]) for pid in daemons}
    except FileNotFoundError:
        return False
    return parents <= {launcher, *daemons} and launcher in parents


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
    eventually(lambda: node.mounts() == [] and node.daemons() == [])


def test_nothing_is_left_of_20_pods_with_kills(node: CsiNode) -> None:
    _churn(node, 20, seed=1)


def test_nothing_is_left_of_40_pods_at_once_with_kills(node: CsiNode) -> None:
    _churn_at_once(node, 40, seed=1)


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
        eventually(lambda: node.identity.Probe(csi.ProbeRequest(), timeout=30).ready.value)
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
        eventually(lambda: any(event["event"] == "ready" for event in process.events()))
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
            # Daemons are forked while they start: who forked one may be gone by the time it is asked for.
            eventually(lambda: _all_come_from(launcher.popen.pid, node))
            daemons = node.daemons()
            node.stop(signal.SIGKILL)
            assert _reads(target / "a.bin")
            node.start()
        with _launcher(node, socket):
            # A launcher that starts again takes what lives.
            node.publish("a", "bench/train")
            assert node.daemons() == daemons
            node.unpublish("a", "bench/train")
            assert node.mounts() == [] and node.daemons() == []
