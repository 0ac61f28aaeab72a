"""`headrace sim whatif` against a real API server."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.__main__ import app
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS
from tests.conftest import ApiServer

pytestmark = pytest.mark.cluster
ASKED = {"cpu": "1", "nvidia.com/gpu": "4"}


async def _fill(client: KubeClient) -> None:
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "whatif"}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await client.create(SERVICE_ACCOUNTS, account, "whatif")
    room = {"cpu": "96", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "8"}
    for name in ("whatif-0", "whatif-1"):
        body: dict[str, Any] = {"metadata": {"name": name, "labels": {"whatif/rack": name}}}
        await client.create(NODES, {"apiVersion": "v1", "kind": "Node", **body, "status": {"allocatable": room}})
        # Without a controller to see a kubelet's Ready the taint of a new node stays.
        await client.patch(NODES, name, {"spec": {"taints": None}})
    container = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": ASKED, "limits": ASKED}}
    spec = {"containers": [container], "schedulerName": "nobody", "automountServiceAccountToken": False}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waits"}, "spec": spec}
    await client.create(PODS, pod, "whatif")


async def _empty(client: KubeClient) -> list[str]:
    pods = await client.list(PODS, "whatif")
    await client.delete(PODS, "waits", "whatif", grace_period_seconds=0)
    for name in ("whatif-0", "whatif-1"):
        await client.delete(NODES, name)
    return [pod["spec"].get("nodeName", "") for pod in pods.items]


def _with_client(server: ApiServer, work: Any) -> Any:
    async def connected() -> Any:
        async with KubeClient(load_config(server.kubeconfig), user_agent="test") as client:
            return await work(client)

    return asyncio.run(connected())


def test_waiting_pods_of_a_live_cluster_are_asked_about_and_left_alone(api_server: ApiServer) -> None:
    _with_client(api_server, _fill)
    words = ["--cluster", str(api_server.kubeconfig), "--cordon", "whatif/rack=whatif-0", "--ssd", "2", "-o", "json"]
    done = CliRunner().invoke(app, ["sim", "whatif", *words])
    nodes_of_pods = _with_client(api_server, _empty)
    assert done.exit_code == 0, done.output
    runs = json.loads(done.stdout)["runs"]
    assert list(runs) == ["as it is", "SSD × 2", "without whatif/rack=whatif-0"]
    assert all(run[0]["figures"]["jobs_finished"] >= 1 for run in runs.values())
    assert nodes_of_pods == [""]
