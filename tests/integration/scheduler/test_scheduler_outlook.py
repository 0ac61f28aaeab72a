"""`headrace explain pod` of a pod that waits, against the real API server, with no scheduler running."""

import asyncio
import json
from pathlib import Path

import pytest
import typer
import yaml
from aiohttp import web
from typer.testing import CliRunner

from headrace.cli import jobs
from kube.resources import NODES, POD_GROUPS
from tests.integration.scheduler.conftest import GROUP_LABEL, NAMESPACE, Cluster, proxied

pytestmark = pytest.mark.cluster


async def _explain(cluster: Cluster, name: str, *more: str, kubeconfig: Path | None = None) -> str:
    app = typer.Typer()
    jobs.register(app)
    argv = ["explain", "pod", name, "--kubeconfig", str(kubeconfig or cluster.kubeconfig), *more]
    result = await asyncio.to_thread(CliRunner().invoke, app, argv)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


async def test_every_nodes_reason_and_what_would_help_are_told(cluster: Cluster) -> None:
    await cluster.node("small", cpu="2")
    await cluster.node("busy", cpu="8")
    await cluster.node("off", cpu="8")
    await cluster.client.patch(NODES, "off", {"spec": {"unschedulable": True}})
    await cluster.pod("holder", {"cpu": "6"}, scheduler="nobody")
    await cluster.bind("holder", "busy")
    await cluster.pod("waiting", {"cpu": "4"})
    text = await _explain(cluster, "waiting")
    assert "has not looked at it yet" in text
    assert "  2 × Insufficient cpu (busy, small)" in text
    assert "  1 × node(s) were unschedulable (off)" in text
    assert "  - room: 2 cpu more on busy (2 nodes are short of room only)" in text
    assert "  - uncordon off" in text
    await cluster.client.patch(NODES, "off", {"spec": {"unschedulable": False}})
    assert "Looked at alone, waiting would fit now on 1 node: off." in await _explain(cluster, "waiting")


async def test_gates_gangs_and_pods_of_others_are_told_as_what_they_are(cluster: Cluster) -> None:
    await cluster.node("n")
    await cluster.pod("gated", schedulingGates=[{"name": "example.com/quota"}])
    text = await _explain(cluster, "gated")
    assert "It waits for its scheduling gate example.com/quota to be removed by whoever set it.\n" in text
    assert "its turn" not in text
    await cluster.create(POD_GROUPS, {"metadata": {"name": "g"}, "spec": {"minMember": 3}}, NAMESPACE)
    await cluster.pod("g-0", labels={GROUP_LABEL: "g"})
    text = await _explain(cluster, "g-0")
    assert "It is waiting for members of PodGroup default/g: 1 of minMember 3 exist" in text
    await cluster.pod("other", scheduler="other-scheduler")
    text = await _explain(cluster, "other")
    assert "other names schedulerName other-scheduler; what follows is how headrace-scheduler" in text
    assert text.rstrip().endswith("It waits for its turn, or for other-scheduler to run.")


async def test_a_node_that_vanished_and_programs_that_read_the_answer(cluster: Cluster) -> None:
    await cluster.node("n")
    await cluster.pod("bound")
    await cluster.bind("bound", "n")
    await cluster.client.delete(NODES, "n")
    assert "There is no node n any more." in await _explain(cluster, "bound")
    found = json.loads(await _explain(cluster, "bound", "-o", "json"))
    assert found["pods"] == [{"name": "bound", "phase": "Pending", "node": "n", "nodeIsGone": True}]
    await cluster.node("small", cpu="1")
    await cluster.pod("waiting", {"cpu": "4"})
    found = yaml.safe_load(await _explain(cluster, "waiting", "--output", "yaml"))
    (outlook,) = found["outlooks"]
    assert outlook["reasons"] == [{"reasons": ["Insufficient cpu"], "nodes": ["small"]}]
    assert outlook["remedies"] == [
        "room: 3 cpu more (the node has 1 cpu in all) on small (1 node is short of room only)"
    ]
    assert found["pods"][0]["pendingReason"].startswith("headrace-scheduler has not looked at it yet")


async def test_who_may_not_see_nodes_is_told_what_the_pod_says(cluster: Cluster) -> None:
    await cluster.node("n")
    await cluster.pod("waiting")

    async def refuse(request: web.Request) -> web.Response | None:
        if not request.path.startswith("/api/v1/nodes"):
            return None
        status = {"kind": "Status", "reason": "Forbidden", "code": 403, "message": "nodes is forbidden"}
        return web.json_response(status, status=403)

    async with proxied(cluster) as proxy:
        proxy.before = refuse
        text = await _explain(cluster, "waiting", kubeconfig=proxy.kubeconfig)
    assert "waiting has no node: headrace-scheduler has not looked at it yet" in text
    assert "What keeps it off each node is not known: the API server does not allow it: nodes is forbidden" in text
