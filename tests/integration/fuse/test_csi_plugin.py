"""The CSI plugin as kubelet uses it: real metadata, worker, FUSE daemons and mounts."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane
from tests.builders.csi import CsiNode

pytestmark = pytest.mark.mount

DEADLINE_SECONDS = 60.0


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    root = tmp_path_factory.mktemp("csi")
    for name in ("train", "other"):
        (root / name / "deep" / "er").mkdir(parents=True)
        (root / name / "a.bin").write_bytes(name.encode() * 1000)
        (root / name / "deep" / "er" / "b.bin").write_bytes(b"b" * 5000)
    (root / "work").mkdir()
    with DataPlane(root / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("train", f"file://{root / 'train'}")
        plane.sync("other", f"file://{root / 'other'}")
        plane.sync("work", f"file://{root / 'work'}", writable=True)
        yield plane


@pytest.fixture
def node(plane: DataPlane, tmp_path: Path) -> Iterator[CsiNode]:
    with CsiNode(plane, tmp_path / "n") as node:
        yield node
        left = [mount.point for mount in node.mounts()], node.daemons()
    assert left == ([], []), "a test leaves no mount and no daemon"


def test_a_pod_reads_a_dataset_and_leaves_nothing(node: CsiNode) -> None:
    target = node.publish("p1", "bench/train")
    assert (target / "a.bin").read_bytes() == b"train" * 1000
    assert len(node.daemons()) == 1
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_bytes(b"x")
    node.unpublish("p1", "bench/train")
    assert not target.exists()
    assert node.mounts() == [] and node.daemons() == []
