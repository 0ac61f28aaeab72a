"""`headrace explain pod|job`: why a pod is where it is, or what keeps it off every node.

Owns the command line and what is fetched; the wording is in explain.py, the judging in scheduler/core/outlook.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
import yaml

from api import names
from api.decision import Decision
from headrace.cli import explain
from headrace.cli.connection import Kubeconfig, Namespace, run
from headrace.cli.follow import pod_order
from headrace.errors import UsageError
from kube.client import KubeClient
from kube.errors import Forbidden, NotFound
from kube.objects import Pod
from kube.resources import NODES, PODS, TRAINING_JOBS
from scheduler.core.outlook import Outlook
from scheduler.shell.outlook import outlooks

Body = dict[str, Any]
#: kinds of pods of one job that are judged; members of a role wait for the same
MAX_ROLES = 8
#: nodes asked for one by one; for more, all are listed
FEW_NODES = 16
OUTPUTS = ("text", "json", "yaml")


def explain_command(
    what: Annotated[str, typer.Argument(help="pod or job")],
    name: Annotated[str, typer.Argument(help="name of the object")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="text, json or yaml")] = "text",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say why a pod, or each pod of a job, is on its node, and what others would have cost; of a pod without a node,
    what keeps it off every node now, what else it waits for, and what would make it fit."""
    if what not in ("pod", "job"):
        raise UsageError(f"{what!r} is not possible here; write pod or job")
    if output not in OUTPUTS:
        raise UsageError(f"output {output!r} is not known; choose text, json or yaml")

    async def work(client: KubeClient) -> Body:
        if what == "pod":
            return await _explained(client, [await client.get(PODS, name, namespace)])
        job = await client.get(TRAINING_JOBS, name, namespace)
        attempt = job.get("status", {}).get("attempt", 0)
        pods = [pod for pod in await pods_of(client, job) if pod_order(pod)[1] == attempt]
        if not pods:
            message = job.get("status", {}).get("message", "the job controller has not seen it yet; is it running?")
            return {"pods": [], "outlooks": [], "sentences": [f"{name} has no pods: {message}"]}
        return await _explained(client, pods, is_job=True)

    found = {"kind": what, "namespace": namespace, "name": name} | run(work, kubeconfig)
    if output == "json":
        typer.echo(json.dumps(found, indent=2))
    elif output == "yaml":
        typer.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), nl=False)
    else:
        for line in found["sentences"]:
            typer.echo(line)


async def pods_of(client: KubeClient, job: Body) -> list[Body]:
    """Return all pods of a job, of every attempt."""
    selector = f"{names.JOB_UID_LABEL}={job['metadata']['uid']}"
    pods = (await client.list(PODS, job["metadata"]["namespace"], label_selector=selector)).items
    return sorted(pods, key=pod_order)


async def _explained(client: KubeClient, pods: Sequence[Body], *, is_job: bool = False) -> Body:
    """Everything that is told of some pods, for programs and as sentences."""
    gone = await _gone_nodes(client, pods)
    if is_job:
        lines = explain.explain_pods(pods, gone)
    else:
        lines = [line for pod in pods for line in explain.explain_pod(pod, is_node_gone=_node(pod) in gone)]
    waiting = _one_a_role(pods)
    judged: list[Outlook] = []
    if waiting:
        try:
            judged = await outlooks(client, [msgspec.convert(pod, Pod) for pod in waiting])
        except Forbidden as error:
            lines.append(f"What keeps it off each node is not known: the API server does not allow it: {error.message}")
    for pod, found in zip(waiting, judged, strict=False):
        lines += explain.explain_outlook(pod, found)
    return {
        "pods": [_pod_facts(pod, gone) for pod in pods],
        "outlooks": [
            {"pod": pod["metadata"]["name"], **_outlook_facts(found)}
            for pod, found in zip(waiting, judged, strict=False)
        ],
        "sentences": lines,
    }


def _one_a_role(pods: Sequence[Body]) -> list[Body]:
    """The first waiting pod of each role."""
    found: dict[str, Body] = {}
    for pod in pods:
        if explain.is_waiting(pod):
            found.setdefault((pod["metadata"].get("labels") or {}).get(names.JOB_ROLE_LABEL, ""), pod)
    return list(found.values())[:MAX_ROLES]


def _node(pod: Body) -> str:
    return str(pod.get("spec", {}).get("nodeName") or "")


async def _gone_nodes(client: KubeClient, pods: Sequence[Body]) -> set[str]:
    """Nodes that pods name and that are no longer there; none where that may not be asked."""
    named = sorted({_node(pod) for pod in pods} - {""})

    async def is_gone(name: str) -> bool:
        try:
            await client.get(NODES, name)
        except NotFound:
            return True
        return False

    try:
        if len(named) <= FEW_NODES:
            missing = await asyncio.gather(*(is_gone(name) for name in named))
            return {name for name, is_missing in zip(named, missing, strict=True) if is_missing}
        there = {body["metadata"]["name"] for body in (await client.list(NODES)).items}
        return set(named) - there
    except Forbidden:
        # Who may see pods only still gets the record of the decision.
        return set()


def _pod_facts(pod: Body, gone: set[str]) -> Body:
    """What is known of one pod; nothing is set that has nothing to say."""
    facts: Body = {"name": pod["metadata"]["name"], "phase": pod.get("status", {}).get("phase", "")}
    node = _node(pod)
    if node:
        facts["node"] = node
    if node in gone:
        facts["nodeIsGone"] = True
    if explain.is_waiting(pod):
        facts["pendingReason"] = explain.pending_reason(pod)
    decision = explain.decision_of(pod)
    if isinstance(decision, Decision) and decision.node == node:
        facts["decision"] = decision.model_dump(by_alias=True, exclude_none=True)
    return facts


def _outlook_facts(found: Outlook) -> Body:
    return {
        "feasibleNodes": list(found.feasible),
        "reasons": [{"reasons": list(reasons), "nodes": list(nodes)} for reasons, nodes in found.groups],
        "waits": list(found.waits),
        "remedies": list(found.remedies),
        "message": found.message,
    }
