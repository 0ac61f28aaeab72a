"""What is added to a template, and what is left as the user wrote it."""

from __future__ import annotations

import json
from typing import Any

from api import names
from api.training_v1alpha1 import CheckpointStatus, TrainingJob
from jobcontroller.core.pod_builder import build_pod
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import job, with_status, workers


def built(one: TrainingJob, index: int = 0, role: str = "Worker", **status: Any) -> dict[str, Any]:
    started = with_status(one, **status)
    assert started.status is not None
    return build_pod(started, started.status, FRAMEWORKS[one.spec.framework], role, index)


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod["spec"]["containers"][0]["env"]}


def test_identity_owner_gang_and_scheduler() -> None:
    pod = built(job(), 1, attempt=2)
    assert pod["metadata"]["name"] == pod["spec"]["hostname"] == "tj-worker-1-a2"
    assert pod["spec"]["subdomain"] == "tj"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["schedulerName"] == names.DEFAULT_SCHEDULER_NAME
    labels = pod["metadata"]["labels"]
    assert labels[names.POD_GROUP_LABEL] == "tj-a2"
    assert (labels[names.JOB_ROLE_LABEL], labels[names.JOB_INDEX_LABEL]) == ("Worker", "1")
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("job-uid", True, True)


def test_the_users_template_is_kept_and_not_changed() -> None:
    specs = workers()
    template = specs["Worker"]["template"]
    template["metadata"] = {"labels": {"team": "a"}, "annotations": {"note": "b"}}
    template["spec"]["schedulerName"] = "default-scheduler"
    template["spec"]["nodeSelector"] = {"gpu": "h100"}
    template["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "8"}}
    template["spec"]["containers"][0]["env"] = [{"name": "PLACE", "value": "$(HEADRACE_INDEX)"}]
    one = job(replicaSpecs=specs)
    before = one.model_dump_json()
    pod = built(one)
    assert one.model_dump_json() == before
    assert pod["spec"]["schedulerName"] == "default-scheduler"
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    assert pod["metadata"]["labels"]["team"] == "a"
    order = [entry["name"] for entry in pod["spec"]["containers"][0]["env"]]
    assert order.index("HEADRACE_INDEX") < order.index("PLACE"), "so that $(HEADRACE_INDEX) expands"


def test_datasets_become_volumes_of_every_container_and_an_annotation() -> None:
    specs = workers()
    specs["Worker"]["template"]["spec"]["initContainers"] = [{"name": "prepare", "image": "x"}]
    data = [
        {"name": "corpus.v2", "mountPath": "/data", "paths": ["train/"], "required": True, "maxWaitSeconds": 60},
        {"name": "ckpt", "mountPath": "/ckpt", "readOnly": False},
    ]
    one = job(replicaSpecs=specs, datasets=data, checkpoint={"dataset": "ckpt", "path": "runs"})
    pod = built(one)
    claims = [volume["persistentVolumeClaim"] for volume in pod["spec"]["volumes"]]
    assert claims == [
        {"claimName": "corpus.v2", "readOnly": True},
        {"claimName": "ckpt", "readOnly": False},
    ]
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        assert [(m["mountPath"], m["readOnly"]) for m in container["volumeMounts"]] == [
            ("/data", True),
            ("/ckpt", False),
        ]
    told = json.loads(pod["metadata"]["annotations"][names.DATASETS_ANNOTATION])
    assert told == [{"name": "corpus.v2", "paths": ["train/"], "required": True, "maxWaitSeconds": 60}]
    assert environment(pod)[names.ENV_CHECKPOINT_DIR] == "/ckpt/runs"
    assert names.ENV_RESUME_FROM not in environment(pod)


def test_a_resumed_attempt_is_told_where_and_the_scheduler_which_nodes() -> None:
    one = job(
        datasets=[{"name": "ckpt", "mountPath": "/ckpt/", "readOnly": False}],
        checkpoint={"dataset": "ckpt", "path": "runs"},
    )
    known = CheckpointStatus(step=7, complete=True, durable=True, bytes=9, path="runs/7", nodes={"n2": 9})
    pod = built(one, attempt=1, resume_step=7, resume_path="runs/7", checkpoints=[known])
    assert environment(pod)[names.ENV_RESUME_FROM] == "/ckpt/runs/7"
    assert environment(pod)[names.ENV_RESUME_STEP] == "7"
    assert environment(pod)[names.ENV_JOB_ATTEMPT] == "1"
    assert json.loads(pod["metadata"]["annotations"][names.CHECKPOINT_NODES_ANNOTATION]) == {"n2": 9}


def test_a_checkpoint_volume_is_named_by_where_the_container_mounts_it() -> None:
    specs = workers()
    container = specs["Worker"]["template"]["spec"]["containers"][0]
    container["volumeMounts"] = [{"name": "disk", "mountPath": "/mnt/disk"}]
    pod = built(job(replicaSpecs=specs, checkpoint={"volume": "disk", "path": "out"}))
    assert environment(pod)[names.ENV_CHECKPOINT_DIR] == "/mnt/disk/out"


def test_the_last_indexes_run_on_spot_capacity() -> None:
    spot = {
        "spotReplicaNumber": 1,
        "priorityClassName": "spot",
        "labels": {"spot": "true", names.JOB_ROLE_LABEL: "forged"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    one = job(
        replicaSpecs=workers(2, spotReplicaSpec=spot),
        runPolicy={"schedulingPolicy": {"priorityClassName": "normal"}},
    )
    first, last = built(one, 0), built(one, 1)
    assert first["spec"]["priorityClassName"] == "normal"
    assert last["spec"]["priorityClassName"] == "spot"
    assert last["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert last["metadata"]["labels"]["spot"] == "true"
    assert last["metadata"]["labels"][names.JOB_ROLE_LABEL] == "Worker"
