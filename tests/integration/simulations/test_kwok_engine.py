"""The engine with a real API server: etcd, kube-apiserver, kwok and scheduler processes, on small worlds."""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.cluster.bare import bare_cluster
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import NODES
from simulations.engine.ledger import InvariantViolation
from simulations.engine.model import Fault, World
from simulations.engine.outcome import Outcome
from simulations.engine.simulation import Simulation
from simulations.kwok import objects, runs
from simulations.kwok.calibration import compare, jobs_alike
from simulations.kwok.objects import Shape
from simulations.kwok.process import SchedulerDied
from simulations.kwok.writer import Writer
from simulations.policies.registry import POLICIES
from simulations.run import run
from simulations.scenarios.schema import built_in, load
from tests.builders.simulated import a_job, a_sim_node, a_world

pytestmark = pytest.mark.cluster


def in_kwok(world: World, word: str, *, shape: Shape = Shape.PODS) -> Outcome:
    with bare_cluster() as cluster:
        return runs.run_one(world, runs.wanted([word], [])[0], cluster, shape=shape)


def a_small_world() -> World:
    """Two racks; gangs, readers of the same dataset, jobs that wait for room, a crash, a spot node taken away."""
    nodes = tuple(a_sim_node(index, rack=index // 2, is_spot=index == 3) for index in range(4))
    jobs = (
        a_job("gang", pods=2, gpus=8, dataset=0, epochs=8, compute_seconds=600.0),
        a_job("warm", submit_seconds=900.0, gpus=4, dataset=0, compute_seconds=300.0),
        a_job("cold", submit_seconds=950.0, gpus=8, dataset=1, epochs=3, compute_seconds=400.0),
        a_job("large", submit_seconds=1000.0, pods=3, gpus=8, dataset=1, compute_seconds=400.0, checkpoint_bytes=1e9),
        a_job(
            "last",
            submit_seconds=1700.0,
            pods=4,
            gpus=8,
            compute_seconds=200.0,
            checkpoint_bytes=1e9,
            checkpoint_seconds=60.0,
        ),
    )
    faults = (Fault(1100.0, "crash", (0,), 200.0), Fault(1900.0, "spot", (3,), 300.0, notice_seconds=20.0))
    return a_world(nodes, jobs=jobs, sizes=(100e9, 60e9), faults=faults)


def test_both_engines_agree_on_a_small_world_with_gangs_waiting_and_faults() -> None:
    world = a_small_world()
    event, kwok = Simulation(world, POLICIES["headrace"]).run(), in_kwok(world, "headrace")
    assert event.faults == kwok.faults
    assert event.faults["crashes"] == event.faults["reclaims"] == 1
    assert event.figures["restarts"] == kwok.figures["restarts"]
    assert (event.figures["restarts"] or 0) >= 2
    assert (event.figures["origin_bytes"] or 0) > 0 and (event.figures["local_bytes"] or 0) > 0
    lines = compare([event], [kwok])
    assert all(line.is_equal for line in lines), lines
    assert jobs_alike([event], [kwok]) == 1.0
    # More binds than pods: attempts that were stopped were bound again.
    assert (kwok.figures["binds_seen"] or 0) >= 11 + 3


@pytest.mark.nightly
def test_training_jobs_go_through_the_job_controller_and_are_started_again() -> None:
    world = a_small_world()
    found = in_kwok(world, "headrace", shape=Shape.TRAINING_JOBS)
    assert found.figures["jobs_finished"] == len(world.jobs)
    assert found.faults["crashes"] == found.faults["reclaims"] == 1
    assert (found.figures["restarts"] or 0) >= 2


@pytest.mark.nightly
def test_kube_scheduler_leaves_a_gang_bound_in_part() -> None:
    jobs = (a_job("a", pods=2, gpus=8, compute_seconds=50.0), a_job("b", pods=2, gpus=8, compute_seconds=50.0))
    found = in_kwok(a_world(3, jobs=jobs), "kube-scheduler")
    assert found.figures["jobs_finished"] == 2
    assert (found.figures["gpu_hours_in_partial_gangs"] or 0) > 0


@pytest.mark.nightly
def test_a_command_that_ends_ends_the_run_with_its_log() -> None:
    command = (
        f"mine={shlex.quote(sys.executable)} -c \"raise SystemExit('no such cluster: ' + open('/dev/null').name)\""
    )
    with pytest.raises(SchedulerDied, match=r"mine ended with code 1; .*\nno such cluster: /dev/null"):
        in_kwok(a_world(1, jobs=(a_job(),)), command)


BINDS_A_PART = """
import asyncio, os, sys
from random import Random
from kube.bind import bind_pod
from kube.client import KubeClient
from kube.config import load_config
from kube.objects import Pod
from kube.resources import PODS

async def main():
    async with KubeClient(load_config(None), user_agent="broken") as client:
        bound = False
        while True:
            for pod in (await client.list(PODS, "default", decode=Pod)).items:
                if pod.spec.node_name or pod.spec.scheduler_name != "broken":
                    continue
                if pod.metadata.name.startswith("p") and not bound:
                    await bind_pod(client, "default", pod.metadata.name, pod.metadata.uid, "n0")
                    bound = True
                    continue
                told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                        "message": "0/2 nodes are available: it is broken."}
                await client.patch(PODS, pod.metadata.name, {"status": {"conditions": [told]}}, "default",
                                   subresource="status")
            await asyncio.sleep(0.2)
asyncio.run(main())
"""


def test_a_scheduler_that_binds_a_part_of_a_gang_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.kwok.follow.GANG_SECONDS", 2.0)
    script = tmp_path / "broken.py"
    script.write_text(BINDS_A_PART)
    with pytest.raises(InvariantViolation, match=r"partial gang .* default/g0-1 has 1 of 2 pods bound"):
        in_kwok(a_world(2, jobs=(a_job(pods=2, gpus=8),)), f"broken={sys.executable} {script}")


@pytest.mark.nightly
@pytest.mark.parametrize("scheduler", ["headrace", "kube-scheduler"])
def test_both_engines_agree_on_the_calibration_scenario(scheduler: str) -> None:
    scenario = load(built_in()["calibration"])
    event = run(scenario, policies=[scheduler], seeds=5)
    kwok = runs.run(scenario, runs.wanted([scheduler], []), bare_cluster, seeds=5)
    lines = compare(event.runs[scheduler], kwok.runs[scheduler])
    assert all(line.is_equal for line in lines), lines


@pytest.mark.nightly
def test_a_node_told_that_it_is_lost_is_not_ready_until_it_is_back() -> None:
    world = a_world(1, jobs=(a_job(),))

    async def until_ready_is(client: KubeClient, status: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                node = await client.get(NODES, "n0")
                conditions = node["status"].get("conditions") or []
                if [item["status"] for item in conditions if item["type"] == "Ready"] == [status]:
                    return node
                await asyncio.sleep(0.1)

    async def walk(kubeconfig: Path) -> None:
        async with KubeClient(load_config(kubeconfig), user_agent="test") as client:
            writer = Writer(client)
            await writer.write([objects.node(world, 0)])
            await until_ready_is(client, "True")
            await writer.write([objects.node_state(world, 0, is_up=False, is_open=True)])
            assert (await until_ready_is(client, "Unknown"))["spec"]["taints"][0]["effect"] == "NoSchedule"
            await writer.write([objects.node_state(world, 0, is_up=True, is_open=True)])
            assert "taints" not in (await until_ready_is(client, "True"))["spec"]

    with bare_cluster() as cluster:
        asyncio.run(walk(cluster.kubeconfig))
