"""Inline dataset volumes that a process node refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from api import names
from headrace.node.core.environment import PodFacts
from headrace.node.core.pod_spec import Pod
from headrace.node.errors import VolumeError
from headrace.node.shell.records import PodFolder
from headrace.node.shell.volumes import VolumeSetup


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"dataset": "d", "namespace": "other"}, "dataset of other"),
        ({"dataset": "d", "subPath": "train"}, "subPath"),
        ({"namespace": "ns"}, "must name a Dataset"),
    ],
)
async def test_an_inline_volume_is_refused_by_name(tmp_path: Path, attributes: dict[str, str], named: str) -> None:
    source = {"driver": names.CSI_DRIVER, "volumeAttributes": attributes}
    spec: dict[str, Any] = {
        "containers": [{"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "csi": source}],
    }
    pod = msgspec.convert({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}, Pod)
    services: Any = None  # refused before anybody is asked
    facts = PodFacts("node", "127.0.0.1", "127.0.0.2", {})
    setup = VolumeSetup(services, services, PodFolder(tmp_path, "u"), pod, facts=facts, mount_wait_seconds=0)
    with pytest.raises(VolumeError, match=named):
        await setup.prepare()
