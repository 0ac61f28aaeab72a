"""Objects a real API server takes though nobody expects them, all at once: the scheduler answers each and goes on.

Each by itself, without a cluster: tests/unit/scheduler/core/test_scheduler_odd_objects.py.
"""

from typing import Any

import pytest
from aiohttp import web

from api import names
from kube.resources import POD_DISRUPTION_BUDGETS, POD_GROUPS
from tests.integration.scheduler.conftest import GROUP_LABEL, NAMESPACE, Cluster, message_of, node_of, proxied

pytestmark = pytest.mark.cluster

MOST = str(2**63 - 1)


def _reads(text: str) -> dict[str, Any]:
    return {"annotations": {names.DATASETS_ANNOTATION: text}}


# What is said of each; "" where it is bound.
PODS: dict[str, tuple[dict[str, Any], str]] = {
    "endless-cpu": ({"requests": {"cpu": "9E"}}, "1 Insufficient cpu"),
    "endless-memory": ({"requests": {"memory": "1e30"}}, "1 Insufficient memory"),
    "exbibytes": ({"requests": {"memory": "7Ei"}}, "1 Insufficient memory"),
    "endless-devices": ({"requests": {"nvidia.com/gpu": MOST}}, "1 Insufficient nvidia.com/gpu"),
    "nothing": ({"container": {"resources": {}}}, ""),
    "next-to-nothing": ({"requests": {"cpu": "1n", "memory": "0"}}, ""),
    "with.dots.in-its.name": ({}, ""),
    "nested": (_reads("[" * 50_000), "is not valid JSON (nested too deeply)"),
    "waits-for-ever": (_reads('[{"name":"d","maxWaitSeconds":' + "9" * 400 + "}]"), "must be a number of seconds"),
    "surrogate": (_reads('[{"name":"\\ud800","required":true}]'), "didn't have all required dataset(s) resident"),
    "checkpoint": (
        {"annotations": {names.CHECKPOINT_NODES_ANNOTATION: '{"n.with.dots":' + "9" * 400 + "}"}},
        "must map node names to bytes",
    ),
    "written-never": ({"annotations": {names.CHECKPOINTED_AT_ANNOTATION: "yesterday"}}, ""),
    "no-such-group": ({"labels": {GROUP_LABEL: "absent"}}, "there is no such object in scheduling.x-k8s.io"),
    "topologies": ({"labels": {GROUP_LABEL: "topologies"}}, "names 3000 label keys; at most 16 are allowed"),
    "nowhere": ({"labels": {GROUP_LABEL: "nowhere"}}, "needs 1 members placed together in one example.com/none, 0 fit"),
    "too-few": ({"labels": {GROUP_LABEL: "too-few"}}, "1 of minMember 100000 exist, name this scheduler"),
    "greater": (
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["9" * 30]}]}
                        ]
                    }
                }
            }
        },
        "1 node(s) didn't match Pod's node affinity/selector",
    ),
}


async def test_each_is_bound_or_told_why_not_and_the_next_pod_is_bound(cluster: Cluster) -> None:
    await cluster.node("n.with.dots")
    for name, minimum, annotations in (
        ("topologies", 1, {names.PREFERRED_TOPOLOGY_ANNOTATION: ",".join(f"example.com/k{i}" for i in range(3000))}),
        ("nowhere", 1, {names.REQUIRED_TOPOLOGY_ANNOTATION: "example.com/none"}),
        ("too-few", 100_000, {}),
    ):
        meta = {"name": name, "annotations": annotations}
        await cluster.create(POD_GROUPS, {"metadata": meta, "spec": {"minMember": minimum}}, NAMESPACE)
    for name, spec in (
        ("share", {"minAvailable": "50%", "selector": {"matchLabels": {"app": "x"}}}),
        ("all", {"maxUnavailable": "100%", "selector": {}}),
    ):
        await cluster.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": name}, "spec": spec}, NAMESPACE)
    async with cluster.scheduler() as process:
        for name, (shape, _) in PODS.items():
            await cluster.pod(name, **shape)
        found = await cluster.wait(
            lambda pods: all(node_of(pods[name]) or message_of(pods[name]) for name in PODS), "an answer on every pod"
        )
        await cluster.pod("next")
        await cluster.bound("next")
        assert process.returncode is None
    for name, (_, says) in PODS.items():
        assert says in message_of(found[name]), name
        assert bool(node_of(found[name])) is not bool(says), name
    for name in ("share", "all"):
        await cluster.client.delete(POD_DISRUPTION_BUDGETS, name, NAMESPACE)


async def test_several_names_are_served_by_one_process_each_by_its_weights(cluster: Cluster) -> None:
    await cluster.node("used", cpu="8")
    await cluster.node("empty", cpu="8")
    await cluster.pod("holder", {"cpu": "4"}, scheduler="nobody")
    await cluster.bind("holder", "used")
    wish = {
        "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["used"]}]}
    }
    prefers = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, **wish}]}}
    config = cluster.folder / "profiles.yaml"
    config.write_text("weights: {preferences: 0}\nprofiles: [{scheduler_name: obliging, weights: {preferences: 10}}]\n")
    async with cluster.scheduler("--config", str(config)):
        for name, scheduler in (("ours", "headrace-scheduler"), ("second", "obliging"), ("another", "nobody")):
            await cluster.pod(name, {"cpu": "1"}, scheduler=scheduler, affinity=prefers)
        assert await cluster.bound("ours", "second") == {"ours": "empty", "second": "used"}
        assert not node_of((await cluster.pods())["another"])


async def test_a_gang_of_which_any_bind_fails_once_is_completed(cluster: Cluster) -> None:
    """At every k of n, side by side: of gang k the k-th bind is refused."""
    size = 4
    await cluster.node("n", gpu=str(size * size), cpu="64")
    refused: list[str] = []
    async with proxied(cluster) as proxy:

        async def refuse(request: web.Request) -> web.Response | None:
            parts = request.path.split("/")
            if parts[-1] != "binding":
                return None
            gang, _, member = parts[-2].partition("-")
            if gang != f"g{member}" or parts[-2] in refused:
                return None
            refused.append(parts[-2])
            return web.json_response({"kind": "Status", "code": 403, "message": "injected"}, status=403)

        proxy.before = refuse
        async with cluster.scheduler(kubeconfig=proxy.kubeconfig):
            for k in range(size):
                await cluster.gang(f"g{k}", size, {"nvidia.com/gpu": "1"})
            pods = await cluster.bound(*(f"g{k}-{member}" for k in range(size) for member in range(size)))
    assert sorted(refused) == [f"g{k}-{k}" for k in range(size)]
    assert len(pods) == size * size
