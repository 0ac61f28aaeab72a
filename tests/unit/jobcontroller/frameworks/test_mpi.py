"""MPI: variables, hostfile and keys' place by implementation; defaults; what cannot be run; the pods it makes."""

from __future__ import annotations

from typing import Any

import pytest

from api.training_v1alpha1 import TrainingJob, TrainingJobStatus
from jobcontroller.core.actions import AnnotatePod, ApplyConfigMap, ApplySshKeys, CreatePod, Plan
from jobcontroller.core.framework import Equipped, Rendezvous, RoleCounts
from jobcontroller.core.reconcile import reconcile
from jobcontroller.frameworks.mpi import Mpi
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, pod, running, state, with_status, workers

MPI = Mpi()
assert isinstance(FRAMEWORKS["MPI"], Equipped)
HOSTS = ["tj-worker-0-a3.tj", "tj-worker-1-a3.tj"]


def mpi_job(replicas: int = 2, **options: Any) -> TrainingJob:
    roles = {"Launcher": workers(1)["Worker"], **workers(replicas)}
    # The builder's worker has a command, as a user's sshd would be.
    return job(framework="MPI", replicaSpecs=roles, mpi=options)


def meeting(one: TrainingJob) -> Rendezvous:
    return Rendezvous("tj", 3, {"Launcher": 1, "Worker": 2}, 23456, one.spec)


def test_openmpi() -> None:
    there = meeting(mpi_job(slotsPerWorker=8))
    assert MPI.env(there, "Launcher", 0) == {
        "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
        "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
        "OMPI_MCA_orte_set_default_slots": "8",
        "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    }
    assert MPI.env(there, "Worker", 0) == {}
    files = MPI.equipment(there)
    assert (files.config_directory, files.ssh_directory) == ("/etc/mpi", "/root/.ssh")
    assert files.config_files == {"hostfile": "".join(f"{host} slots=8\n" for host in HOSTS)}


def test_intel_mpi() -> None:
    there = meeting(mpi_job(implementation="Intel", slotsPerWorker=2, sshPort=2222))
    assert MPI.env(there, "Launcher", 0) == {
        "I_MPI_HYDRA_HOST_FILE": "/etc/mpi/hostfile",
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": "-o ConnectionAttempts=10 -p 2222",
        "I_MPI_PERHOST": "2",
    }
    assert MPI.equipment(there).config_files == {"hostfile": "".join(f"{host}:2\n" for host in HOSTS)}


def test_mpich() -> None:
    there = meeting(mpi_job(implementation="MPICH", sshAuthMountPath="/home/mpiuser/.ssh"))
    assert MPI.env(there, "Launcher", 0) == {
        "HYDRA_HOST_FILE": "/etc/mpi/hostfile",
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXTRA_ARGS": "-o ConnectionAttempts=10",
        "HYDRA_LAUNCH_EXTRA_ARGS": "-o ConnectionAttempts=10",
    }
    files = MPI.equipment(there)
    assert files.config_files == {"hostfile": "".join(f"{host}:1\n" for host in HOSTS)}
    assert files.ssh_directory == "/home/mpiuser/.ssh"


@pytest.mark.parametrize("implementation", ["OpenMPI", "Intel", "MPICH"])
def test_every_variable_is_reserved(implementation: str) -> None:
    given = MPI.env(meeting(mpi_job(implementation=implementation)), "Launcher", 0)
    assert set(given) <= MPI.reserved_env


def test_the_launcher_decides() -> None:
    assert MPI.succeeded({"Launcher": RoleCounts(1, 1), "Worker": RoleCounts(2, 0)})
    assert not MPI.succeeded({"Launcher": RoleCounts(1, 0), "Worker": RoleCounts(2, 2)})


def test_what_the_user_left_open() -> None:
    one = mpi_job(sshPort=2222)
    worker = one.spec.replica_specs["Worker"]
    del worker.template["spec"]["containers"][0]["command"]
    filled = MPI.with_defaults(one.spec)
    assert [wanted.to_wire() for wanted in filled.replica_specs["Launcher"].depends_on] == [
        {"role": "Worker", "status": "Ready"}
    ]
    main = filled.replica_specs["Worker"].template["spec"]["containers"][0]
    assert (main["command"], main["args"]) == (["/usr/sbin/sshd"], ["-De", "-p", "2222"])
    assert "command" not in worker.template["spec"]["containers"][0], "the stored spec stays as it is"
    chosen = {"role": "Worker", "status": "Running"}
    roles = {"Launcher": {**workers(1)["Worker"], "dependsOn": [chosen]}, **workers(2)}
    kept = MPI.with_defaults(job(framework="MPI", replicaSpecs=roles).spec)
    assert [wanted.to_wire() for wanted in kept.replica_specs["Launcher"].depends_on] == [chosen]
    assert kept.replica_specs["Worker"] == job(replicaSpecs=workers(2)).spec.replica_specs["Worker"]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"replicaSpecs": workers(2)}, "spec.replicaSpecs.Launcher is missing; an MPI job has one Launcher"),
        (
            {"replicaSpecs": {"Launcher": workers(2)["Worker"], **workers(2)}},
            "spec.replicaSpecs.Launcher is there with replicas 2; an MPI job has one Launcher",
        ),
        ({"replicaSpecs": {"Launcher": workers(1)["Worker"]}}, "spec.replicaSpecs.Worker has no pods"),
        ({"replicaSpecs": {"Launcher": workers(1)["Worker"], **workers(0)}}, "spec.replicaSpecs.Worker has no pods"),
        ({"runPolicy": {"successPolicy": "AllWorkers"}}, "spec.runPolicy.successPolicy AllWorkers never comes true"),
        ({"mpi": {"sshAuthMountPath": "ssh"}}, "spec.mpi.sshAuthMountPath 'ssh' must be an absolute path"),
    ],
)
def test_what_cannot_be_run_is_said(spec: dict[str, Any], text: str) -> None:
    usual = {"replicaSpecs": {"Launcher": workers(1)["Worker"], **workers(2)}}
    plan = reconcile(observed(job(framework="MPI", **{**usual, **spec})), CREATED_AT)
    assert state(plan) == ("Failed", "InvalidSpec")
    assert plan.status is not None
    assert text in (plan.status.message or "")


def created(plan: Plan) -> dict[str, dict[str, Any]]:
    return {action.name: dict(action.body) for action in plan.actions if isinstance(action, CreatePod)}


def test_files_come_before_pods_and_pods_mount_them() -> None:
    plan = reconcile(observed(mpi_job()), CREATED_AT + 1)
    (config,) = (action for action in plan.actions if isinstance(action, ApplyConfigMap))
    (keys,) = (action for action in plan.actions if isinstance(action, ApplySshKeys))
    assert config.name == "tj-mpi-hostfile-a0-jobuid"
    assert config.body["data"]["hostfile"].startswith("tj-worker-0-a0.tj slots=1\n")
    assert keys.name == "tj-mpi-ssh-auth-jobuid"
    assert not {"data", "stringData"} & set(keys.body), "keys are made where the Secret is, not in a decision"
    for body in (config.body, keys.body):
        assert body["immutable"] is True
        assert body["metadata"]["ownerReferences"][0]["uid"] == "job-uid"
    pods = created(plan)
    assert set(pods) == {"tj-launcher-0-a0", "tj-worker-0-a0", "tj-worker-1-a0"}
    launcher, worker = pods["tj-launcher-0-a0"]["spec"], pods["tj-worker-0-a0"]["spec"]
    assert {"name": "headrace-config", "configMap": {"name": config.name}} in launcher["volumes"]
    secret = {"name": "headrace-ssh", "secret": {"secretName": keys.name, "defaultMode": 0o400}}
    assert secret in launcher["volumes"] and secret in worker["volumes"]
    assert {one["mountPath"] for one in launcher["containers"][0]["volumeMounts"]} == {"/etc/mpi", "/root/.ssh"}
    assert {one["mountPath"] for one in worker["containers"][0]["volumeMounts"]} == {"/root/.ssh"}
    assert [one["name"] for one in launcher["initContainers"]] == ["headrace-start-gate"]
    gate = {one["mountPath"] for one in launcher["initContainers"][0]["volumeMounts"]}
    assert gate == {"/headrace-start"}, "what waits gets no keys"
    assert "initContainers" not in worker


def test_a_later_attempt_has_a_hostfile_of_its_own_and_the_same_keys() -> None:
    one = with_status(mpi_job(), attempt=2, started_attempt=None, created_attempt=None)
    plan = reconcile(observed(one), CREATED_AT + 1)
    names = [action.name for action in plan.actions if isinstance(action, ApplyConfigMap | ApplySshKeys)]
    assert names == ["tj-mpi-hostfile-a2-jobuid", "tj-mpi-ssh-auth-jobuid"]
    assert {role.partition("-a")[2] for role in created(plan)} == {"2"}


def test_the_launcher_starts_when_the_workers_are_ready_and_its_end_is_the_jobs() -> None:
    one = with_status(mpi_job())
    launcher = pod(0, role="Launcher", node="n1", is_held=True)
    plan = reconcile(observed(one, launcher, running(0), running(1, is_ready=False)), CREATED_AT + 20)
    assert not [action for action in plan.actions if isinstance(action, AnnotatePod)]
    assert state(plan) == ("Queued", "WaitingForRoles")
    plan = reconcile(observed(one, launcher, running(0), running(1)), CREATED_AT + 20)
    assert [action.name for action in plan.actions if isinstance(action, AnnotatePod)] == ["tj-launcher-0-a0"]
    done = ended(0, 0, role="Launcher")
    plan = reconcile(observed(one, done, running(0), running(1)), CREATED_AT + 120)
    assert state(plan) == ("Succeeded", "Succeeded")


def test_status_is_enough_to_build_pods_again() -> None:
    status = TrainingJobStatus(started_attempt=0, started_replicas={"Launcher": 1, "Worker": 2})
    one = mpi_job().model_copy(update={"status": status})
    first = created(reconcile(observed(one), CREATED_AT + 1))
    assert first == created(reconcile(observed(one), CREATED_AT + 90))
