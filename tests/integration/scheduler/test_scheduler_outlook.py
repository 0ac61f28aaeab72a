"""`headrace explain pod` of a pod that waits, against the real API server, with no scheduler running."""

import asyncio

import pytest
import typer
from typer.testing import CliRunner

from headrace.cli import jobs
from kube.resources import NODES
from tests.integration.scheduler.conftest import Cluster

pytestmark = pytest.mark.cluster


async def _explain(cluster: Cluster, name: str) -> str:
    app = typer.Typer()
    jobs.register(app)
    argv = ["explain", "pod", name, "--kubeconfig", str(cluster.kubeconfig)]
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
