"""TensorFlow jobs that really run on process nodes, told of each other by `TF_CONFIG`; the test places the pods.

Nightly: the library is large and at odds with what else is installed, so it has an environment of its own
(tools/tensorflow.txt), made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.job_cluster import ROOT, Cluster
from tests.builders.process_nodes import logs_of_job
from tests.builders.training_jobs import job_body

pytestmark = [pytest.mark.nightly, pytest.mark.cluster, pytest.mark.mount]

INSTALL_SECONDS = 900
TRAIN_SECONDS = 300.0  # most of it goes into the imports

# TensorFlow listens on every address of its machine, and process nodes share one: each member gets a port of its own.
# That its name leads to its pod is looked at first.
PORTS = """
import json, os, socket
config = json.loads(os.environ["TF_CONFIG"])
task = config["task"]
mine = config["cluster"][task["type"]][task["index"]].rpartition(":")[0]
assert socket.gethostbyname(mine) == os.environ["POD_IP"], (mine, os.environ["POD_IP"])
members = [(role, index) for role, hosts in sorted(config["cluster"].items()) for index in range(len(hosts))]
for number, (role, index) in enumerate(members):
    host, _, port = config["cluster"][role][index].rpartition(":")
    config["cluster"][role][index] = f"{host}:{int(port) + number}"
os.environ["TF_CONFIG"] = json.dumps(config)
"""

PARAMETER_SERVERS = """
import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if task["type"] in ("worker", "ps"):
    spec = resolver.cluster_spec()
    tf.distribute.Server(spec, job_name=task["type"], task_index=task["index"], protocol="grpc").join()
strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    total = tf.Variable(0.0)
rows = tf.random.stateless_uniform((400,), seed=(7, 7))

@tf.function
def step(start):
    total.assign_add(tf.reduce_sum(rows[start : start + 100] * 0 + 1))

for start in range(0, 400, 100):
    coordinator.schedule(step, args=(start,))
coordinator.join()
print("rows", int(total.numpy()), "on", total.device, flush=True)
"""

ALL_REDUCE = """
import tensorflow as tf

index = task["index"]
strategy = tf.distribute.MultiWorkerMirroredStrategy()

@tf.function
def summed():
    def replica():
        mine = tf.constant(float(10 ** index))
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return strategy.run(replica)

print("sum", float(summed()), "of", strategy.num_replicas_in_sync, flush=True)
"""


@pytest.fixture(scope="module")
def tensorflow() -> list[str]:
    """The command of a Python that has TensorFlow."""
    uv = Path(sys.executable).with_name("uv")
    wanted = ["--with-requirements", str(ROOT / "tools" / "tensorflow.txt")]
    command = [str(uv), "run", "-q", "--no-project", "--isolated", "--python", sys.executable, *wanted, "python"]
    subprocess.run([*command, "-c", "import tensorflow"], check=True, timeout=INSTALL_SECONDS, cwd=ROOT)
    return command


def _pod(command: list[str]) -> dict[str, Any]:
    kept = {name: os.environ[name] for name in ("HOME", "UV_CACHE_DIR") if name in os.environ}
    wanted = {**kept, "UV_OFFLINE": "1"}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in wanted.items()]
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    container = {"name": "main", "image": "any", "command": command, "env": env}
    return {"spec": {"containers": [container], "automountServiceAccountToken": False}}


async def _logs(
    cluster: Cluster, api_server: Any, folder: Path, command: list[str], roles: dict[str, int]
) -> dict[str, str]:
    """Run a job of these roles to its end; what its pods said."""
    specs = {role: {"replicas": count, "template": _pod(command)} for role, count in roles.items()}
    body = job_body("flow", framework="TensorFlow", replicaSpecs=specs)
    return await logs_of_job(cluster, api_server.kubeconfig, folder, body, TRAIN_SECONDS)


async def test_a_chief_trains_through_workers_into_a_parameter_server(
    cluster: Cluster, api_server: Any, tmp_path: Path, tensorflow: list[str]
) -> None:
    command = [*tensorflow, "-c", PORTS + PARAMETER_SERVERS]
    logs = await _logs(cluster, api_server, tmp_path, command, {"Chief": 1, "Worker": 2, "PS": 1})
    assert any("rows 400 on /job:ps/replica:0/task:0" in log for log in logs.values()), logs


async def test_workers_without_a_chief_reduce_together(
    cluster: Cluster, api_server: Any, tmp_path: Path, tensorflow: list[str]
) -> None:
    logs = await _logs(cluster, api_server, tmp_path, [*tensorflow, "-c", PORTS + ALL_REDUCE], {"Worker": 2})
    assert all("sum 11.0 of 2" in log for log in logs.values()), logs
