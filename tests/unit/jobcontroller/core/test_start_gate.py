"""What a held pod looks like."""

from __future__ import annotations

from typing import Any

from api import names
from api.training_v1alpha1 import TrainingJobStatus
from jobcontroller.core.pod_builder import build_pod
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import job, workers


def built(role: str, **container: Any) -> dict[str, Any]:
    one = workers(1)["Worker"]
    held = workers(1, dependsOn=[{"role": "PS"}])["Worker"]
    held["template"]["spec"]["containers"][0].update(container)
    held["template"]["spec"]["initContainers"] = [{"name": "own", "image": "own"}]
    status = TrainingJobStatus(started_attempt=0, started_replicas={"PS": 1, "Worker": 1})
    spec = {"PS": one, "Worker": held}
    return build_pod(job(framework="Custom", replicaSpecs=spec), status, FRAMEWORKS["Custom"], role, 0)


def test_the_gate_is_first_and_takes_no_gpu_of_its_own() -> None:
    amounts = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}
    pod = built("Worker", resources={"requests": amounts, "limits": amounts}, securityContext={"runAsNonRoot": True})
    gate, own = pod["spec"]["initContainers"]
    assert own["name"] == "own"
    assert gate["image"] == "python:3.12"
    assert gate["resources"] == {kind: {"cpu": "4", "memory": "8Gi"} for kind in ("requests", "limits")}
    assert gate["securityContext"] == {"runAsNonRoot": True}
    assert pod["metadata"]["annotations"][names.START_ANNOTATION] == ""
    field = pod["spec"]["volumes"][0]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"]
    assert field == f"metadata.annotations['{names.START_ANNOTATION}']"


def test_a_role_that_depends_on_nothing_is_not_held() -> None:
    pod = built("PS")
    assert "initContainers" not in pod["spec"]
    assert names.START_ANNOTATION not in pod["metadata"]["annotations"]
