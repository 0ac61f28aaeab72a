"""Downward volumes follow the pod's annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from headrace.node.core.environment import PodFacts
from headrace.node.core.pod_spec import Pod
from headrace.node.shell.records import PodFolder
from headrace.node.shell.volumes import VolumeSetup


def pod_saying(word: str) -> Pod:
    path = {"fieldPath": "metadata.annotations['example.com/word']"}
    spec: dict[str, Any] = {
        "containers": [{"name": "main", "volumeMounts": [{"name": "said", "mountPath": "/said"}]}],
        "volumes": [{"name": "said", "downwardAPI": {"items": [{"path": "word", "fieldRef": path}]}}],
    }
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "annotations": {"example.com/word": word}}
    return msgspec.convert({"metadata": metadata, "spec": spec}, Pod)


async def test_a_changed_annotation_is_written_into_the_same_directory(tmp_path: Path) -> None:
    services: Any = None  # neither objects nor mounts are asked for
    facts = PodFacts("node", "127.0.0.1", "127.0.0.2", {})
    folder = PodFolder(tmp_path, "u")
    setup = VolumeSetup(services, services, folder, pod_saying(""), facts=facts, mount_wait_seconds=0)
    made = (await setup.prepare())["said"].path
    assert (made / "word").read_text() == ""
    await setup.refresh(pod_saying("released"))
    assert (made / "word").read_text() == "released"
    assert [file.name for file in made.iterdir()] == ["word"]
