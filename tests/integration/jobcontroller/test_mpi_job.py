"""An MPI job that really runs: mpirun, ssh and mpi4py on two process nodes, over the files the controller makes.

The test plays the scheduler. The workers' sshd is Dropbear: it needs no account of its own, and installing it starts
nothing. What no process node can show: an image's own sshd, and nodes with networks of their own (mpirun's connections
go over this machine's loopback)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kube.client import KubeClient
from kube.config import load_config
from kube.errors import Forbidden
from kube.resources import CONFIG_MAPS, PODS, SECRETS
from tests.builders.job_cluster import Cluster
from tests.builders.process_nodes import ProcessNode, two_nodes
from tests.builders.training_jobs import job_body

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

SSH_PORT = 2222
SSHD = f"""
dropbearkey -t ed25519 -f "$HOME/host_key" >/dev/null 2>&1
exec dropbear -F -E -s -r "$HOME/host_key" -P "$HOME/pid" -p "$POD_IP:{SSH_PORT}"
"""
PROGRAM = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
names = world.gather(os.uname().nodename)
total = world.allreduce(world.rank + 1)
if world.rank == 0:
    print("ranks", world.size, "sum", total, "on", *sorted(names), flush=True)
if sys.argv[1] == "0":
    time.sleep(3600)  # the first attempt is ended by the loss of a worker
"""
#: Without these mpirun refuses to run as root, leaves loopback out, and takes the nodes for one with too few cores.
ROOT_ON_LOOPBACK = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_oob_tcp_if_include": "lo",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}


def mpi_body(name: str) -> dict[str, Any]:
    def pod(command: list[str], environment: dict[str, str], **more: Any) -> dict[str, Any]:
        env: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in environment.items()]
        env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        container = {"name": "main", "image": "any", "command": command, "env": env, **more}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
        return {"spec": spec}

    run = f"exec mpirun -np 4 {sys.executable} -c '{PROGRAM}' $HEADRACE_ATTEMPT"
    probe = {"tcpSocket": {"port": SSH_PORT}, "periodSeconds": 1}
    return job_body(
        name,
        framework="MPI",
        mpi={"slotsPerWorker": 2, "sshPort": SSH_PORT},
        replicaSpecs={
            "Launcher": {"replicas": 1, "template": pod(["/bin/sh", "-c", run], ROOT_ON_LOOPBACK)},
            "Worker": {"replicas": 2, "template": pod(["/bin/sh", "-c", SSHD], {}, readinessProbe=probe)},
        },
    )


async def place(cluster: Cluster, job: str, attempt: int, nodes: list[ProcessNode]) -> list[dict[str, Any]]:
    """Bind the attempt's pods, the launcher first: it is to wait although it has its node."""
    pods = sorted(await cluster.wait_for_pods(job, attempt, 3), key=lambda pod: pod["metadata"]["name"])
    for number, pod in enumerate(pods):
        await cluster.place_pod(pod, nodes[number % len(nodes)].name)
    return pods


async def test_mpirun_reaches_the_workers_and_a_new_attempt_does_so_again(
    cluster: Cluster, api_server: Any, tmp_path: Path
) -> None:
    async with two_nodes(cluster, api_server.kubeconfig, tmp_path) as nodes:
        await cluster.submit(mpi_body("ring"))

        async def says(pod: dict[str, Any], attempt: int) -> bool:
            workers = " ".join(f"ring-worker-{index}-a{attempt}" for index in (0, 0, 1, 1))
            return f"ranks 4 sum 10 on {workers}" in nodes[0].log_of(pod)

        launcher, worker, _ = await place(cluster, "ring", 0, nodes)
        await cluster.until("all ranks of attempt 0 meet", lambda: says(launcher, 0))
        await cluster.client.delete(PODS, worker["metadata"]["name"], cluster.namespace, grace_period_seconds=0)

        launcher, *_ = await place(cluster, "ring", 1, nodes)
        done = await cluster.wait_for_state("ring", "Succeeded")
        assert await says(launcher, 1), nodes[0].log_of(launcher)
        assert done["status"]["attempt"] == 1

        uid = done["metadata"]["uid"].replace("-", "")[:8]
        for attempt in (0, 1):
            config = await cluster.client.get(CONFIG_MAPS, f"ring-mpi-hostfile-a{attempt}-{uid}", cluster.namespace)
            assert f"ring-worker-1-a{attempt}.ring slots=2" in config["data"]["hostfile"]
        keys = f"ring-mpi-ssh-auth-{uid}"
        assert (await cluster.client.get(SECRETS, keys, cluster.namespace))["immutable"] is True
        async with KubeClient(load_config(cluster.kubeconfig), user_agent="tests") as controllers:
            with pytest.raises(Forbidden):
                await controllers.get(SECRETS, keys, cluster.namespace)
        assert "PRIVATE KEY" not in (tmp_path / "log").read_text()
        assert "PRIVATE KEY" not in str(done)

        async def workers_are_gone() -> bool:
            left = await cluster.pods("ring", 1)
            return [pod["metadata"]["name"] for pod in left] == [launcher["metadata"]["name"]]

        await cluster.until("the workers' sshd are ended", workers_are_gone)
