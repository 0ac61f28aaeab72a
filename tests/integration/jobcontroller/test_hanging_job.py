"""A program that falls silent on a real process node is restarted; its log is read as any kubelet's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kube.errors import Invalid
from tests.builders.job_cluster import Cluster, controller
from tests.builders.process_nodes import process_node
from tests.builders.training_jobs import job_body

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

#: the first attempt says one thing and then nothing more
PROGRAM = 'echo "attempt $HEADRACE_ATTEMPT"; if [ "$HEADRACE_ATTEMPT" = 0 ]; then exec sleep 1000; fi'


def _hanging(name: str, **hangs: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "any", "command": ["/bin/sh", "-c", PROGRAM]}
    spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1}
    roles = {"Worker": {"replicas": 1, "template": {"spec": spec}}}
    return job_body(name, framework="Custom", replicaSpecs=roles, runPolicy={"hangDetection": hangs})


async def test_a_silent_program_is_started_again_and_the_event_says_what_was_silent(
    cluster: Cluster, api_server: Any, tmp_path: Path
) -> None:
    node = process_node(cluster.client, api_server.kubeconfig, tmp_path, 0, api_server.control_plane)
    async with node as place, controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(_hanging("mute", timeoutSeconds=5))
        for attempt in (0, 1):
            (pod,) = await cluster.wait_for_pods("mute", attempt, 1)
            await cluster.place_pod(pod, place.name)
        done = await cluster.wait_for_state("mute", "Succeeded")
        assert done["status"]["restarts"] == {"userError": 0, "infrastructure": 1, "preemption": 0}
        said = await cluster.wait_for_event("mute", "Restarting")
        assert "attempt 0 hangs: no log line for" in said
        assert "(the last: pod mute-worker-0-a0); runPolicy.hangDetection.timeoutSeconds is 5" in said


@pytest.mark.parametrize(
    ("hangs", "words"),
    [
        ({"timeoutSeconds": 60, "signals": ["ProgressFile"]}, "signal ProgressFile needs progressFile"),
        ({"timeoutSeconds": 60, "progressFile": "../x"}, "progressFile must be relative to the checkpoint directory"),
        ({"timeoutSeconds": 60, "progressFile": "progress"}, "progressFile needs checkpoint.dataset"),
        ({"timeoutSeconds": 1}, "timeoutSeconds"),
        ({"timeoutSeconds": 60, "signals": []}, "signals"),
    ],
)
async def test_what_cannot_be_watched_is_refused(cluster: Cluster, hangs: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words.replace(".", r"\.")):
        await cluster.submit(_hanging("bad", **hangs))
