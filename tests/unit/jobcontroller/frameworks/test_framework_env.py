"""The environment contracts, name by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobcontroller.core.framework import Framework, Rendezvous, RoleCounts
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import job


def rendezvous(replicas: dict[str, int], **spec: Any) -> Rendezvous:
    return Rendezvous(job_name="tj", attempt=3, replicas=replicas, port=23456, spec=job(**spec).spec)


def test_jax() -> None:
    assert FRAMEWORKS["JAX"].env(rendezvous({"Worker": 4}), "Worker", 2) == {
        "JAX_COORDINATOR_ADDRESS": "tj-worker-0-a3.tj:23456",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "2",
        "COORDINATOR_ADDRESS": "tj-worker-0-a3.tj",
        "COORDINATOR_PORT": "23456",
        "NUM_PROCESSES": "4",
        "PROCESS_ID": "2",
    }


def test_pytorch_with_a_master() -> None:
    meeting = rendezvous({"Master": 1, "Worker": 3}, framework="PyTorch", pytorch={"nprocPerNode": 8})
    assert FRAMEWORKS["PyTorch"].env(meeting, "Worker", 1) == {
        "MASTER_ADDR": "tj-master-0-a3.tj",
        "MASTER_PORT": "23456",
        "RANK": "2",
        "WORLD_SIZE": "32",
        "PYTHONUNBUFFERED": "1",
        "PET_NNODES": "4",
        "PET_NODE_RANK": "2",
        "PET_NPROC_PER_NODE": "8",
        "PET_MASTER_ADDR": "tj-master-0-a3.tj",
        "PET_MASTER_PORT": "23456",
    }
    assert FRAMEWORKS["PyTorch"].env(meeting, "Master", 0)["RANK"] == "0"


def test_pytorch_elastic_leaves_ranks_to_torchrun() -> None:
    options = {
        "nprocPerNode": 8,
        "elastic": {"min": 2, "max": 6, "rdzvConf": {"timeout": "900", "close_timeout": "60"}},
    }
    meeting = rendezvous({"Master": 1, "Worker": 3}, framework="PyTorch", pytorch=options)
    expected = {
        "PYTHONUNBUFFERED": "1",
        "PET_NNODES": "3:7",
        "PET_NPROC_PER_NODE": "8",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": "tj-master-0-a3.tj:23456",
        "PET_RDZV_ID": "tj-a3",
        "PET_RDZV_CONF": "close_timeout=60,is_host=0,read_timeout=600,timeout=900",
        "PET_MAX_RESTARTS": "10",
    }
    assert FRAMEWORKS["PyTorch"].env(meeting, "Worker", 9) == expected
    host = expected | {"PET_RDZV_CONF": "close_timeout=60,is_host=1,read_timeout=600,timeout=900"}
    assert FRAMEWORKS["PyTorch"].env(meeting, "Master", 0) == host


@pytest.mark.parametrize(
    ("elastic", "first", "second"),
    [
        # By its host name alone no pod would know that the endpoint is its own: torchrun compares it with names
        # without the subdomain, or with addresses it may not find yet.
        ({}, "is_host=1,read_timeout=600", "is_host=0,read_timeout=600"),
        ({"rdzvConf": {"read_timeout": "30"}}, "is_host=1,read_timeout=30", "is_host=0,read_timeout=30"),
        ({"rdzvEndpoint": "store:29400"}, None, None),
        ({"rdzvEndpoint": "etcd:2379", "rdzvBackend": "etcd-v2", "rdzvConf": {"a": "b"}}, "a=b", "a=b"),
    ],
)
def test_one_pod_is_told_that_the_store_of_the_rendezvous_is_its_own(
    elastic: dict[str, Any], first: str | None, second: str | None
) -> None:
    meeting = rendezvous({"Worker": 2}, framework="PyTorch", pytorch={"elastic": elastic})
    assert FRAMEWORKS["PyTorch"].env(meeting, "Worker", 0).get("PET_RDZV_CONF") == first
    assert FRAMEWORKS["PyTorch"].env(meeting, "Worker", 1).get("PET_RDZV_CONF") == second


def test_pytorch_without_a_master() -> None:
    meeting = rendezvous({"Worker": 2}, framework="PyTorch", pytorch={"nprocPerNode": "gpu"})
    found = FRAMEWORKS["PyTorch"].env(meeting, "Worker", 1)
    assert found["MASTER_ADDR"] == "tj-worker-0-a3.tj"
    assert (found["RANK"], found["WORLD_SIZE"], found["PET_NPROC_PER_NODE"]) == ("1", "2", "gpu")


def _tf_config(meeting: Rendezvous, role: str, index: int) -> Any:
    found = FRAMEWORKS["TensorFlow"].env(meeting, role, index)
    assert set(found) == {"TF_CONFIG"}
    return json.loads(found["TF_CONFIG"])


def test_tensorflow_with_servers_a_chief_and_an_evaluator() -> None:
    meeting = rendezvous({"Chief": 1, "PS": 2, "Worker": 2, "Evaluator": 1}, framework="TensorFlow")
    cluster = {
        "chief": ["tj-chief-0-a3.tj:23456"],
        "ps": ["tj-ps-0-a3.tj:23456", "tj-ps-1-a3.tj:23456"],
        "worker": ["tj-worker-0-a3.tj:23456", "tj-worker-1-a3.tj:23456"],
    }
    assert _tf_config(meeting, "Worker", 1) == {
        "cluster": cluster,
        "task": {"type": "worker", "index": 1},
        "environment": "cloud",
    }
    # It watches the cluster from outside.
    assert _tf_config(meeting, "Evaluator", 0) == {
        "cluster": cluster,
        "task": {"type": "evaluator", "index": 0},
        "environment": "cloud",
    }


def test_tensorflow_with_workers_that_come_and_go() -> None:
    options = {"enableDynamicWorker": True}
    meeting = rendezvous({"PS": 2, "Worker": 2}, framework="TensorFlow", tensorflow=options)
    assert _tf_config(meeting, "Worker", 1) == {
        "sparseCluster": {
            "worker": {"1": "tj-worker-1-a3.tj:23456"},
            "ps": ["tj-ps-0-a3.tj:23456", "tj-ps-1-a3.tj:23456"],
        },
        "task": {"type": "worker", "index": 1},
    }
    assert _tf_config(meeting, "PS", 1) == {
        "sparseCluster": {"worker": {}, "ps": ["tj-ps-1-a3.tj:23456"]},
        "task": {"type": "ps", "index": 1},
    }


def test_xgboost() -> None:
    meeting = rendezvous({"Master": 1, "Worker": 2}, framework="XGBoost")
    assert FRAMEWORKS["XGBoost"].env(meeting, "Worker", 0) == {
        "MASTER_ADDR": "tj-master-0-a3.tj",
        "MASTER_PORT": "23456",
        "RANK": "1",
        "WORLD_SIZE": "3",
        "PYTHONUNBUFFERED": "1",
        "WORKER_PORT": "23456",
        "WORKER_ADDRS": "tj-worker-0-a3.tj,tj-worker-1-a3.tj",
        "DMLC_TRACKER_URI": "tj-master-0-a3.tj",
        "DMLC_TRACKER_PORT": "23456",
        "DMLC_TASK_ID": "1",
        "DMLC_NUM_WORKER": "3",
    }
    alone = FRAMEWORKS["XGBoost"].env(rendezvous({"Worker": 2}, framework="XGBoost"), "Worker", 0)
    assert (alone["RANK"], alone["DMLC_TRACKER_URI"]) == ("0", "tj-worker-0-a3.tj")


def test_paddle_collective_and_with_servers() -> None:
    assert FRAMEWORKS["Paddle"].env(rendezvous({"Worker": 2}, framework="Paddle"), "Worker", 1) == {
        "PADDLE_MASTER": "tj-worker-0-a3.tj:23456",
        "PADDLE_NNODES": "2",
        "PADDLE_JOB_ID": "tj-a3",
        "PYTHONUNBUFFERED": "1",
    }
    meeting = rendezvous({"Master": 1, "Worker": 2}, framework="Paddle")
    assert FRAMEWORKS["Paddle"].env(meeting, "Master", 0) == {
        "PADDLE_MASTER": "tj-master-0-a3.tj:23456",
        "PADDLE_NNODES": "3",
        "PADDLE_JOB_ID": "tj-a3",
        "PYTHONUNBUFFERED": "1",
        "PADDLE_SERVER_NUM": "1",
    }
    assert FRAMEWORKS["Paddle"].env(meeting, "Worker", 1)["PADDLE_TRAINER_NUM"] == "1"


@pytest.mark.parametrize(
    ("framework", "roles", "says"),
    [
        ("TensorFlow", {"Chief": 1, "Master": 1}, "two names of one role"),
        ("TensorFlow", {"Chief": 2}, "Chief.replicas is 2; a TensorFlow job has one, or none"),
        ("TensorFlow", {"Worker": 1, "Evaluator": 2}, "Evaluator.replicas is 2"),
        ("TensorFlow", {"PS": 1}, "needs a Chief or Workers"),
        ("XGBoost", {"Master": 2}, "Master.replicas is 2; an XGBoost job has one Master, or none"),
        ("Paddle", {"Master": 1}, "needs Workers"),
    ],
)
def test_what_a_framework_cannot_run(framework: str, roles: dict[str, int], says: str) -> None:
    specs = {role: {"replicas": count, "template": {}} for role, count in roles.items()}
    assert says in (FRAMEWORKS[framework].validate(job(framework=framework, replicaSpecs=specs).spec) or "")


def test_custom() -> None:
    found = FRAMEWORKS["Custom"].env(rendezvous({"PS": 1, "Worker": 2}, framework="Custom"), "PS", 0)
    assert found == {
        "HEADRACE_RENDEZVOUS_PORT": "23456",
        "HEADRACE_PS_HOSTS": "tj-ps-0-a3.tj",
        "HEADRACE_WORKER_HOSTS": "tj-worker-0-a3.tj,tj-worker-1-a3.tj",
    }


def test_every_variable_but_defaults_is_reserved() -> None:
    for name in ("JAX", "Paddle", "PyTorch", "TensorFlow", "XGBoost"):
        framework: Framework = FRAMEWORKS[name]
        given = framework.env(rendezvous({"Worker": 2}, framework=name), "Worker", 0)
        assert set(given) - framework.reserved_env <= {"PYTHONUNBUFFERED"}


def test_ports_of_the_options() -> None:
    assert FRAMEWORKS["JAX"].port(job(jax={"port": 7}).spec) == 7
    assert FRAMEWORKS["PyTorch"].port(job(pytorch={"port": 8}).spec) == 8
    assert FRAMEWORKS["Paddle"].port(job(paddle={"port": 9}).spec) == 9
    assert FRAMEWORKS["TensorFlow"].port(job(tensorflow={"port": 10}).spec) == 10
    assert FRAMEWORKS["XGBoost"].port(job(xgboost={"port": 11}).spec) == 11
    assert FRAMEWORKS["JAX"].port(job().spec) is None


def test_success_rules() -> None:
    done, left = RoleCounts(2, 2), RoleCounts(2, 1)
    assert FRAMEWORKS["JAX"].succeeded({"Worker": done})
    assert not FRAMEWORKS["JAX"].succeeded({"Worker": left})
    assert not FRAMEWORKS["PyTorch"].succeeded({"Master": RoleCounts(1, 1), "Worker": left})
    assert FRAMEWORKS["PyTorch"].succeeded({"Master": RoleCounts(1, 1), "Worker": done})
    assert not FRAMEWORKS["Custom"].succeeded({"PS": RoleCounts(1, 0), "Worker": done})
    assert not FRAMEWORKS["Custom"].succeeded({})
    tensorflow = FRAMEWORKS["TensorFlow"]
    assert tensorflow.succeeded({"Chief": RoleCounts(1, 1), "PS": RoleCounts(2, 0), "Worker": left})
    assert not tensorflow.succeeded({"Chief": RoleCounts(1, 0), "Worker": done})
    assert tensorflow.succeeded({"PS": RoleCounts(2, 0), "Worker": done})
    assert FRAMEWORKS["Paddle"].succeeded({"Master": RoleCounts(1, 0), "Worker": done})
    assert not FRAMEWORKS["XGBoost"].succeeded({"Master": RoleCounts(1, 0), "Worker": done})


def test_a_pytorch_job_has_one_master() -> None:
    specs = {"Master": {"replicas": 2, "template": {}}}
    problem = FRAMEWORKS["PyTorch"].validate(job(framework="PyTorch", replicaSpecs=specs).spec)
    assert problem == "spec.replicaSpecs.Master.replicas is 2; a PyTorch job has one Master, or none"
