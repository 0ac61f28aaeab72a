"""The environment contracts, name by name."""

from __future__ import annotations

from typing import Any

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


def test_pytorch_without_a_master() -> None:
    meeting = rendezvous({"Worker": 2}, framework="PyTorch", pytorch={"nprocPerNode": "gpu"})
    found = FRAMEWORKS["PyTorch"].env(meeting, "Worker", 1)
    assert found["MASTER_ADDR"] == "tj-worker-0-a3.tj"
    assert (found["RANK"], found["WORLD_SIZE"], found["PET_NPROC_PER_NODE"]) == ("1", "2", "gpu")


def test_custom() -> None:
    found = FRAMEWORKS["Custom"].env(rendezvous({"PS": 1, "Worker": 2}, framework="Custom"), "PS", 0)
    assert found == {
        "HEADRACE_RENDEZVOUS_PORT": "23456",
        "HEADRACE_PS_HOSTS": "tj-ps-0-a3.tj",
        "HEADRACE_WORKER_HOSTS": "tj-worker-0-a3.tj,tj-worker-1-a3.tj",
    }


def test_every_variable_but_defaults_is_reserved() -> None:
    for name in ("JAX", "PyTorch"):
        framework: Framework = FRAMEWORKS[name]
        given = framework.env(rendezvous({"Worker": 2}, framework=name), "Worker", 0)
        assert set(given) - framework.reserved_env <= {"PYTHONUNBUFFERED"}


def test_ports_of_the_options() -> None:
    assert FRAMEWORKS["JAX"].port(job(jax={"port": 7}).spec) == 7
    assert FRAMEWORKS["PyTorch"].port(job(pytorch={"port": 8}).spec) == 8
    assert FRAMEWORKS["JAX"].port(job().spec) is None


def test_success_rules() -> None:
    done, left = RoleCounts(2, 2), RoleCounts(2, 1)
    assert FRAMEWORKS["JAX"].succeeded({"Worker": done})
    assert not FRAMEWORKS["JAX"].succeeded({"Worker": left})
    assert not FRAMEWORKS["PyTorch"].succeeded({"Master": RoleCounts(1, 1), "Worker": left})
    assert FRAMEWORKS["PyTorch"].succeeded({"Master": RoleCounts(1, 1), "Worker": done})
    assert not FRAMEWORKS["Custom"].succeeded({"PS": RoleCounts(1, 0), "Worker": done})
    assert not FRAMEWORKS["Custom"].succeeded({})


def test_a_pytorch_job_has_one_master() -> None:
    specs = {"Master": {"replicas": 2, "template": {}}}
    problem = FRAMEWORKS["PyTorch"].validate(job(framework="PyTorch", replicaSpecs=specs).spec)
    assert problem == "spec.replicaSpecs.Master.replicas is 2; a PyTorch job has one Master, or none"
