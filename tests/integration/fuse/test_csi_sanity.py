"""The ecosystem's own tests of CSI drivers (csi-sanity) against ours, with real metadata, worker and mounts."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data_plane import DataPlane
from headrace.cluster import binaries
from tests.builders.csi import CsiNode

pytestmark = pytest.mark.mount

SANITY_SECONDS = 220.0

_SNAPSHOTS = "a dataset's snapshots are versions of its listing, not copies of a volume"
_ATTACH = "nothing is attached to a node (attachRequired: false)"
_SIZE = "a dataset is as large as its files: it is not expanded and has no capacity to report"
_MODIFY = "parameters name a dataset and are not changed later (no VolumeAttributesClass)"
_HEALTH = "alpha calls of CSI 1.13; a volume's condition is in NodeGetVolumeStats"

SKIPS = {
    "CreateSnapshot not supported": _SNAPSHOTS,
    "DeleteSnapshot not supported": _SNAPSHOTS,
    "GetSnapshot not supported": _SNAPSHOTS,
    "ListSnapshots not supported": _SNAPSHOTS,
    "Snapshot not supported": _SNAPSHOTS,
    "GroupControllerService not supported": _SNAPSHOTS,
    "Volume Cloning not supported": "two claims of one dataset share its files; there is nothing to clone",
    "ControllerPublishVolume not supported": _ATTACH,
    "ControllerUnpublishVolume not supported": _ATTACH,
    "Controller Publish, UnpublishVolume not supported": _ATTACH,
    "ControllerExpandVolume not supported": _SIZE,
    "NodeExpandVolume not supported": _SIZE,
    "GetCapacity not supported": _SIZE,
    "ControllerModifyVolume not supported": _MODIFY,
    "Modify volume not supported": _MODIFY,
    "Modify Volume not supported": _MODIFY,
    "ListVolumes not supported": "the list of Datasets is in the API server",
    "ControllerGetVolumeHealth not supported": _HEALTH,
    "ControllerListVolumeHealth not supported": _HEALTH,
    "NodeGetVolumeHealth not supported": _HEALTH,
    "NodeGetStorageHealth not supported": _HEALTH,
    "Service does not have single node multi writer capability": "ReadWriteOncePod is not offered",
}
"""csi-sanity's reason for leaving tests out: why that is right for this driver."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CsiNode]:
    (tmp_path / "work").mkdir()
    with DataPlane(tmp_path / "plane") as plane:
        plane.start_worker("n1")
        plane.sync("work", f"file://{tmp_path / 'work'}", writable=True)
        with CsiNode(plane, tmp_path / "n", arguments=["--controller"]) as node:
            yield node


def _specs(report: Path) -> list[dict[str, Any]]:
    (suite,) = json.loads(report.read_text())
    return [spec for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]


def test_csi_sanity_passes(node: CsiNode, tmp_path: Path) -> None:
    found = binaries.locate(names=(binaries.CSI_SANITY.name,)).found
    if not found:
        pytest.skip("csi-sanity is not built on this machine; `make csi-sanity` builds and runs it")
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("dataset: work\nnamespace: bench\n")
    report = tmp_path / "report.json"
    command = [
        str(found[binaries.CSI_SANITY.name]),
        f"--csi.endpoint=unix://{node.socket}",
        f"--csi.mountdir={node.kubelet / 'mount'}",
        f"--csi.stagingdir={node.kubelet / 'staging'}",
        f"--csi.testvolumeparameters={parameters}",
        f"--ginkgo.json-report={report}",
        "--ginkgo.no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SANITY_SECONDS, check=False)
    specs = _specs(report)
    failed = [(spec["LeafNodeText"], spec["Failure"]["Message"]) for spec in specs if spec["State"] == "failed"]
    assert failed == [], done.stdout[-4000:]
    assert done.returncode == 0, done.stdout[-4000:]
    skipped = Counter(spec["Failure"]["Message"] for spec in specs if spec["State"] == "skipped")
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count}: {reason}: {SKIPS.get(reason)}")
    counts = Counter(spec["State"] for spec in specs)
    print(dict(counts))
    assert set(skipped) == set(SKIPS)
    assert counts["passed"] == len(specs) - counts["skipped"] - counts["pending"] >= 37
    assert node.mounts() == [] and node.daemons() == []
