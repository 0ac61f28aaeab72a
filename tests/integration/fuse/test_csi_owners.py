"""Pods whose containers are not root: what they may do in a volume, by their user, their groups and fsGroup.

Each check runs in a child process with that user and those groups, and without capabilities."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from api.gen import csi_pb2 as csi
from benchmarks.data_plane import DataPlane
from tests.builders.csi import WRITERS, CsiNode, eventually, refusal

pytestmark = pytest.mark.mount

GROUP = 2000
#: Becomes a user to whom this directory is all there is, runs lines, and tells what each answered, or its errno.
STEPS = """
import errno, json, os, shutil, sys, tempfile
from pathlib import Path
uid, gid, groups, lines = json.loads(sys.argv[1])
os.umask(0o022)
os.chroot(".")
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
here, answers = Path("/"), []
for line in lines:
    try:
        found = eval(line)
        answers.append(found if isinstance(found, (int, str, list)) else "done")
    except OSError as error:
        answers.append(errno.errorcode[error.errno])
print(json.dumps(answers))
"""


def as_user(uid: int, gid: int, groups: Sequence[int], directory: Path, *lines: str) -> list[Any]:
    """What each line answers, run by a process with that user and those groups."""
    # The child becomes that user by itself: the interpreter is root's. As in a container, it sees nothing else.
    command = [sys.executable, "-I", "-c", STEPS, json.dumps([uid, gid, list(groups), lines])]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


WRITES = (
    "(here / 'd').mkdir()",
    "(here / 'd/a').write_text('one')",
    "(here / 'd/a').read_text()",
    "(here / 'd/a').open('a').write('two')",
    "(here / 'd/a').read_text()",
    "os.rename(here / 'd/a', here / 'd/b')",
    "os.close(tempfile.mkstemp(dir=here / 'd', prefix='t')[0])",
    "[(here / 'd' / name).open('r+').close() for name in os.listdir(here / 'd') if name.startswith('t')]",
    "os.truncate(here / 'd/b', 2)",
    "shutil.copyfile(here / 'd/b', here / 'd/c')",
    "(here / 'd/c').read_text()",
    "shutil.rmtree(here / 'd')",
)
WRITTEN = ["done", 3, "one", 3, "onetwo", "done", "done", [None], "done", "done", "on", "done"]


@pytest.fixture
def work(node: CsiNode, csi_plane: DataPlane) -> str:
    """A writable dataset of this test's own."""
    name = f"own-{os.urandom(4).hex()}"
    origin = csi_plane.directory.parent / name
    origin.mkdir()
    (origin / "old").write_bytes(b"old")
    csi_plane.sync(name, f"file://{origin}", writable=True)
    return f"bench/{name}"


def test_a_container_in_the_pods_group_writes_and_nobody_else(node: CsiNode, work: str) -> None:
    target = node.publish("p", work, mode=WRITERS, group=str(GROUP))
    assert (target.stat().st_uid, target.stat().st_gid, target.stat().st_mode & 0o777) == (0, GROUP, 0o775)
    # runAsUser and fsGroup; and runAsGroup with the same number.
    assert as_user(1000, 1000, [GROUP], target, *WRITES) == WRITTEN
    assert as_user(1001, GROUP, [], target, *WRITES) == WRITTEN
    assert as_user(0, 0, [], target, *WRITES) == WRITTEN
    made = as_user(1000, 1000, [GROUP], target, "(here / 'f').write_text('x')", "(here / 'f').stat().st_gid")
    assert made == [1, GROUP]
    # Another container of the pod changes what this one made; a stranger reads, and changes nothing.
    assert as_user(1001, 1001, [GROUP], target, "(here / 'f').write_text('yz')") == [2]
    assert as_user(1002, 1002, [3000], target, "(here / 'f').read_text()", "(here / 'old').read_text()") == [
        "yz",
        "old",
    ]
    stranger = ("(here / 'f').write_text('z')", "(here / 'g').write_text('z')", "os.unlink(here / 'f')")
    assert as_user(1002, 1002, [3000], target, *stranger) == ["EACCES"] * 3
    # Files belong to root: what only an owner may do, they may not.
    owners = ("os.chmod(here / 'f', 0o600)", "os.utime(here / 'f', (1, 1))", "os.utime(here / 'f')")
    assert as_user(1000, 1000, [GROUP], target, *owners) == ["EPERM", "EPERM", "done"]
    node.unpublish("p", work)


def test_a_volumes_user_owns_what_is_in_it(node: CsiNode, work: str) -> None:
    target = node.publish("p", work, mode=WRITERS, context={"uid": "1000", "gid": "1000"})
    assert (target.stat().st_uid, target.stat().st_gid) == (1000, 1000)
    copies = (
        "(here / 'a').write_text('x')",
        "shutil.copy2(here / 'a', here / 'b') and 'copied'",
        "os.chown(here / 'a', 1000, 1000)",
        "os.chown(here / 'a', -1, 1000)",
        "[(here / 'a').stat().st_uid, (here / 'old').stat().st_gid]",
    )
    assert as_user(1000, 1000, [], target, *WRITES, *copies) == [*WRITTEN, 1, "copied", "done", "done", [1000, 1000]]
    assert as_user(1001, 1001, [], target, "(here / 'a').write_text('z')") == ["EACCES"]
    assert as_user(0, 0, [], target, *WRITES) == WRITTEN
    node.unpublish("p", work)


def test_pods_with_other_groups_share_a_daemon_and_each_sees_its_own(node: CsiNode, work: str) -> None:
    targets = {group: node.publish(f"g{group}", work, mode=WRITERS, group=str(group)) for group in (2000, 3000)}
    plain = node.publish("plain", work, mode=WRITERS)
    reader = node.publish("reader", work, mode=WRITERS, readonly=True, group="2000")
    assert node.clients() == 1
    for group, target in targets.items():
        line = f"(here / 'of{group}').write_text('{group}')"
        assert as_user(1000, 1000, [group], target, line, "(here / 'old').stat().st_gid") == [4, group]
    # What one wrote the others see at once, each as its own.
    assert as_user(1000, 1000, [3000], targets[3000], "(here / 'of2000').read_text()") == ["2000"]
    assert as_user(1000, 1000, [3000], targets[3000], "(here / 'of2000').write_text('3')") == [1]
    assert (plain / "of2000").stat().st_gid == 0 and (plain / "of2000").read_text() == "3"
    assert as_user(1000, 1000, [2000], reader, "(here / 'x').write_text('')", "(here / 'old').stat().st_gid") == [
        "EROFS",
        2000,
    ]
    # Without fsGroup a container whose group is 0, as images leave it, writes too.
    assert as_user(1000, 0, [], plain, *WRITES) == WRITTEN
    assert as_user(1000, 1000, [2000], plain, "(here / 'y').write_text('')") == ["EACCES"]
    for pod in ("g2000", "g3000", "plain", "reader"):
        node.unpublish(pod, work)
    assert node.mounts() == [] and node.daemons() == []


def test_healing_and_a_restart_of_the_plugin_keep_the_group(node: CsiNode, work: str) -> None:
    target = node.publish("p", work, mode=WRITERS, group=str(GROUP))
    node.stop(signal.SIGKILL)
    node.start()
    node.publish("p", work, mode=WRITERS, group=str(GROUP))
    for pid in node.daemons():
        os.kill(pid, signal.SIGKILL)

    def heals() -> bool:
        node.publish("p", work, mode=WRITERS, group=str(GROUP))
        return target.stat().st_gid == GROUP

    eventually(heals)
    assert as_user(1000, 1000, [GROUP], target, *WRITES) == WRITTEN
    node.unpublish("p", work)
    assert not node.defects()


def test_the_driver_says_that_it_takes_fs_groups(node: CsiNode) -> None:
    offered = node.node.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest(), timeout=10).capabilities
    kinds = csi.NodeServiceCapability.RPC
    assert kinds.VOLUME_MOUNT_GROUP in [each.rpc.type for each in offered]


@pytest.mark.parametrize("text", ["root", "-1", "4294967295", "01", "1 ", "1\n"])
def test_what_is_no_user_or_group_is_refused(node: CsiNode, work: str, text: str) -> None:
    for arguments in ({"group": text}, {"context": {"uid": text}}, {"context": {"gid": text}}):
        code, message = refusal(lambda given=arguments: node.publish("p", work, mode=WRITERS, **given))
        assert code == "INVALID_ARGUMENT" and "must be a number from 0" in message
    assert node.mounts() == []


def test_where_files_cannot_be_shown_so_that_is_said(csi_plane: DataPlane, tmp_path: Path) -> None:
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--backend", "pyfuse3"]) as node:
        offered = node.node.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest(), timeout=10).capabilities
        kinds = csi.NodeServiceCapability.RPC
        assert kinds.VOLUME_MOUNT_GROUP not in [each.rpc.type for each in offered]
        code, message = refusal(lambda: node.publish("p", "bench/work", mode=WRITERS, context={"uid": "7"}))
        assert code == "FAILED_PRECONDITION" and "Linux 6.12" in message
        assert node.mounts() == [] and node.daemons() == []


def test_with_a_daemon_of_before_readers_are_mounted_and_writers_are_told(csi_plane: DataPlane, tmp_path: Path) -> None:
    """As after an upgrade of the plugin: the dataset's daemon runs on, and cannot show files as somebody else's."""
    with CsiNode(csi_plane, tmp_path / "n", arguments=["--backend", "pyfuse3"]) as node:
        node.publish("before", "bench/work", mode=WRITERS)
        node.stop()
        node._arguments.clear()
        node.start()
        target = node.publish("reads", "bench/work", mode=WRITERS, readonly=True, group=str(GROUP))
        assert target.stat().st_gid == 0
        code, message = refusal(lambda: node.publish("writes", "bench/work", mode=WRITERS, group=str(GROUP)))
        assert code == "FAILED_PRECONDITION" and "older release" in message
        assert not node.target("writes").exists()
        for pod in ("before", "reads"):
            node.unpublish(pod, "bench/work")
        # The next one can.
        assert node.publish("writes", "bench/work", mode=WRITERS, group=str(GROUP)).stat().st_gid == GROUP
        node.unpublish("writes", "bench/work")
        assert node.mounts() == [] and node.daemons() == []
