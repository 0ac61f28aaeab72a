"""Fixtures of the CSI plugin's tests: metadata, a worker, three datasets, and a node that must be left as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.data_plane import DataPlane
from tests.builders.csi import CsiNode


@pytest.fixture(scope="module")
def csi_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
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
def node(csi_plane: DataPlane, tmp_path: Path) -> Iterator[CsiNode]:
    with CsiNode(csi_plane, tmp_path / "n") as node:
        yield node
        left = [mount.point for mount in node.mounts()], node.daemons(), node.defects()
    assert left == ([], [], []), "a test leaves no mount, no daemon, and nothing in the log that nobody expected"
