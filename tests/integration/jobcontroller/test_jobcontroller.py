"""The job controller as a process, against a real API server; the test plays kubelet and metadata service.

The controller runs with the rights of manifests/base/jobcontroller/rbac.yaml and no more."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml

from api import names
from api.gen import metadata_pb2, metadata_pb2_grpc
from kube.errors import Invalid, NotFound
from kube.resources import (
    CACHE_RUNTIMES,
    DATA_LOADS,
    DATASET_GRANTS,
    DATASETS,
    POD_GROUPS,
    QUEUES,
    SERVICES,
    TRAINING_JOBS,
)
from tests.builders.job_cluster import ROOT, Cluster, controller
from tests.builders.training_jobs import job_body, workers

pytestmark = pytest.mark.cluster


class MetadataService(metadata_pb2_grpc.NamespaceServicer, metadata_pb2_grpc.CheckpointsServicer):
    """Answers what the test put in."""

    def __init__(self) -> None:
        self.checkpoints: list[metadata_pb2.Checkpoint] = []

    async def GetDataset(self, request: Any, context: Any) -> metadata_pb2.DatasetInfo:
        return metadata_pb2.DatasetInfo(uid=f"uid-of-{request.name}", namespace=request.namespace, name=request.name)

    async def List(self, request: Any, context: Any) -> metadata_pb2.ListCheckpointsResponse:
        if request.uid != "uid-of-checkpoints":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such dataset")
        return metadata_pb2.ListCheckpointsResponse(checkpoints=self.checkpoints)


@pytest.fixture
async def metadata_service() -> AsyncIterator[tuple[MetadataService, str]]:
    server = grpc.aio.server()
    service = MetadataService()  # type: ignore[abstract]  # the methods the controller does not call
    metadata_pb2_grpc.add_NamespaceServicer_to_server(service, server)
    metadata_pb2_grpc.add_CheckpointsServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(0)


async def test_a_gang_with_its_service_and_pods_is_created_and_succeeds(cluster: Cluster, tmp_path: Path) -> None:
    async with controller(cluster, tmp_path / "log", "--leader-elect"):
        await cluster.submit(job_body("happy"))
        pods = await cluster.wait_for_pods("happy", 0, 2)
        assert sorted(pod["metadata"]["name"] for pod in pods) == ["happy-worker-0-a0", "happy-worker-1-a0"]
        first = next(pod for pod in pods if pod["metadata"]["labels"][names.JOB_INDEX_LABEL] == "0")
        environment = {entry["name"]: entry["value"] for entry in first["spec"]["containers"][0]["env"]}
        assert environment["JAX_NUM_PROCESSES"] == "2"
        assert environment["JAX_COORDINATOR_ADDRESS"].startswith("happy-worker-0-a0.happy:2")
        assert first["spec"]["schedulerName"] == names.DEFAULT_SCHEDULER_NAME
        group = await cluster.client.get(POD_GROUPS, "happy-a0", cluster.namespace)
        assert group["spec"]["minMember"] == 2
        service = await cluster.client.get(SERVICES, "happy", cluster.namespace)
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"]
        await cluster.wait_for_state("happy", "Queued", "WaitingForPlacement")
        await cluster.run_pod(pods[0])
        queued = await cluster.wait_for_state("happy", "Queued", "WaitingForPlacement")
        assert "Running" not in [c["type"] for c in queued["status"]["conditions"] if c["status"] == "True"]
        await cluster.run_pod(pods[1])
        await cluster.wait_for_state("happy", "Running", "AllPodsRunning")
        for pod in pods:
            await cluster.end_pod(pod, 0)
        done = await cluster.wait_for_state("happy", "Succeeded")
        assert done["status"]["replicaStatuses"]["Worker"]["succeeded"] == 2
        assert done["status"]["completionTime"]
        assert len(await cluster.pods("happy", 0)) == 2, "cleanPodPolicy Running keeps finished pods"
        assert "finalizers" not in done["metadata"]
        assert "annotations" not in done["metadata"], "kopf writes nothing to our objects"
        await cluster.wait_for_event("happy", "Succeeded")


async def test_a_killed_pod_makes_a_new_attempt_that_resumes_from_the_newest_complete_checkpoint(
    cluster: Cluster, tmp_path: Path, metadata_service: tuple[MetadataService, str]
) -> None:
    service, address = metadata_service
    await cluster.bound_dataset("checkpoints")
    body = job_body(
        "phoenix",
        datasets=[{"name": "checkpoints", "mountPath": "/ckpt", "readOnly": False}],
        checkpoint={"dataset": "checkpoints", "path": "runs/phoenix"},
    )
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect", "--metadata", address):
        await cluster.submit(body)
        pods = await cluster.wait_for_pods("phoenix", 0, 2)
        assert pods[0]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "checkpoints"
        for pod in pods:
            await cluster.run_pod(pod)
        await cluster.wait_for_state("phoenix", "Running")
        now = time.time_ns()
        service.checkpoints = [
            metadata_pb2.Checkpoint(step=30, path="runs/phoenix/30", complete=False, completed_at_ns=0),
            metadata_pb2.Checkpoint(
                step=20, path="runs/phoenix/20", complete=True, completed_at_ns=now, bytes=7, nodes={"node-1": 7}
            ),
            metadata_pb2.Checkpoint(step=99, path="runs/phoenix/99", complete=True, completed_at_ns=1),
        ]
        await cluster.end_pod(pods[0], 137)
        fresh = await cluster.wait_for_pods("phoenix", 1, 2)
        environment = {entry["name"]: entry.get("value") for entry in fresh[0]["spec"]["containers"][0]["env"]}
        assert environment[names.ENV_RESUME_FROM] == "/ckpt/runs/phoenix/20"
        assert environment[names.ENV_RESUME_STEP] == "20"
        assert fresh[0]["metadata"]["annotations"][names.CHECKPOINT_NODES_ANNOTATION] == '{"node-1": 7}'
        job = await cluster.job("phoenix")
        assert job["status"]["attempt"] == 1
        assert job["status"]["restarts"]["infrastructure"] == 1
        assert job["status"]["resumeStep"] == 20
        assert await cluster.pods("phoenix", 0) == []
        for pod in fresh:
            await cluster.run_pod(pod)
        await cluster.wait_for_state("phoenix", "Running")
        assert "exit code 137" in await cluster.wait_for_event("phoenix", "Restarting")


async def test_a_controller_killed_in_the_middle_of_a_restart_goes_on_and_counts_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with controller(cluster, tmp_path / "first", "--no-leader-elect") as first:
        await cluster.submit(job_body("stubborn"))
        pods = await cluster.wait_for_pods("stubborn", 0, 2)
        for pod in pods:
            await cluster.run_pod(pod)
        await cluster.wait_for_state("stubborn", "Running")
        await cluster.end_pod(pods[0], 143)
        # No kubelet ends the old pods here: the restart is decided and cannot be finished.
        await cluster.wait_for_state("stubborn", "Restarting")
        first.send_signal(signal.SIGKILL)
        await first.wait()
    async with cluster.kubelet(), controller(cluster, tmp_path / "second", "--no-leader-elect"):
        fresh = await cluster.wait_for_pods("stubborn", 1, 2)
        assert {pod["metadata"]["labels"][names.JOB_ATTEMPT_LABEL] for pod in fresh} == {"1"}
        status = (await cluster.job("stubborn"))["status"]
        assert status["restarts"] == {"userError": 0, "infrastructure": 1, "preemption": 0}


async def test_an_error_of_the_program_fails_the_job_and_ends_its_other_pods(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("buggy"))
        pods = await cluster.wait_for_pods("buggy", 0, 2)
        for pod in pods:
            await cluster.run_pod(pod)
        await cluster.wait_for_state("buggy", "Running")
        await cluster.end_pod(pods[1], 1)
        failed = await cluster.wait_for_state("buggy", "Failed", "UserError")
        assert "exited with code 1" in failed["status"]["message"]

        async def only_the_failed_one_is_left() -> bool:
            left = await cluster.pods("buggy", 0)
            return [pod["metadata"]["name"] for pod in left] == [pods[1]["metadata"]["name"]]

        await cluster.until("the running pod ended", only_the_failed_one_is_left)


async def test_suspending_removes_the_pods_and_resuming_makes_the_next_attempt(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("lazy", runPolicy={"suspend": True}))
        await cluster.wait_for_state("lazy", "Suspended")
        assert await cluster.pods("lazy", 0) == []
        await set_suspend(cluster, "lazy", False)
        await cluster.wait_for_pods("lazy", 0, 2)
        await set_suspend(cluster, "lazy", True)
        await cluster.wait_for_state("lazy", "Suspended")

        async def no_pods() -> bool:
            return await cluster.pods("lazy", 0) == []

        await cluster.until("no pods are left", no_pods)
        await cluster.until("no PodGroup is left", lambda: cluster.gone(POD_GROUPS, "lazy-a0"))
        await set_suspend(cluster, "lazy", False)
        await cluster.wait_for_pods("lazy", 1, 2)
        status = (await cluster.job("lazy"))["status"]
        assert sum(status["restarts"].values()) == 0


async def set_suspend(cluster: Cluster, name: str, value: bool) -> None:
    patch = {"spec": {"runPolicy": {"suspend": value}}}
    await cluster.client.patch(TRAINING_JOBS, name, patch, cluster.namespace)


async def test_a_finished_job_is_deleted_after_its_time_to_live(cluster: Cluster, tmp_path: Path) -> None:
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        policy = {"ttlSecondsAfterFinished": 1, "cleanPodPolicy": "All"}
        await cluster.submit(job_body("brief", runPolicy=policy, replicaSpecs=workers(1)))
        (pod,) = await cluster.wait_for_pods("brief", 0, 1)
        await cluster.run_pod(pod)
        await cluster.end_pod(pod, 0)
        await cluster.until("the job is deleted", lambda: cluster.gone(TRAINING_JOBS, "brief"))


async def test_a_job_that_cannot_run_says_which_field_is_wrong(cluster: Cluster, tmp_path: Path) -> None:
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        reserved = workers()
        reserved["Worker"]["template"]["spec"]["containers"][0]["env"] = [{"name": "PROCESS_ID", "value": "7"}]
        await cluster.submit(job_body("reserved", replicaSpecs=reserved))
        failed = await cluster.wait_for_state("reserved", "Failed", "InvalidSpec")
        assert "spec.replicaSpecs.Worker.template.spec.containers[0].env: PROCESS_ID" in failed["status"]["message"]
        refused = workers()
        refused["Worker"]["template"]["spec"]["containers"][0]["name"] = "Not A Name"
        await cluster.submit(job_body("refused", replicaSpecs=refused))
        failed = await cluster.wait_for_state("refused", "Failed", "InvalidSpec")
        assert "spec.containers[0].name" in failed["status"]["message"]
        mpi = workers()
        await cluster.submit(job_body("mpi", framework="MPI", replicaSpecs=mpi))
        failed = await cluster.wait_for_state("mpi", "Failed", "InvalidSpec")
        assert "spec.replicaSpecs.Launcher is missing" in failed["status"]["message"]


async def test_pods_wait_for_their_data(cluster: Cluster, tmp_path: Path) -> None:
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        data = [{"name": "corpus", "mountPath": "/data", "minCachedPercent": 50}]
        await cluster.submit(job_body("patient", datasets=data))
        waiting = await cluster.wait_for_state("patient", "Queued", "WaitingForData")
        assert "Dataset corpus does not exist" in waiting["status"]["message"]
        await cluster.bound_dataset("corpus", cached="12.5%")

        async def sees_the_percentage() -> bool:
            return "12.5 % cached" in (await cluster.job("patient"))["status"]["message"]

        await cluster.until("the job tells how much is cached", sees_the_percentage)
        assert await cluster.pods("patient", 0) == []
        await cluster.set_dataset("corpus", {"phase": "Bound", "cacheStates": {"cachedPercentage": "73%"}})
        pods = await cluster.wait_for_pods("patient", 0, 2)
        assert '"name":"corpus"' in pods[0]["metadata"]["annotations"][names.DATASETS_ANNOTATION]


async def test_a_job_has_its_data_listed_before_it_starts(cluster: Cluster, tmp_path: Path) -> None:
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.bound_dataset("fresh", policy="OnJobStart")
        await cluster.submit(job_body("eager", datasets=[{"name": "fresh", "mountPath": "/data"}]))
        since = await cluster.wait_for_request("fresh")
        waiting = await cluster.wait_for_state("eager", "Queued", "WaitingForData")
        assert waiting["status"]["dataListedSince"] == since
        assert "Dataset fresh is listed anew" in waiting["status"]["message"]
        assert await cluster.pods("eager", 0) == []
        # As the cache controller does.
        await cluster.set_dataset("fresh", {"metadataSync": {"listedAt": since, "added": 1}})
        await cluster.wait_for_pods("eager", 0, 2)


async def test_roles_start_in_order_after_the_whole_gang_is_placed(cluster: Cluster, tmp_path: Path) -> None:
    one = workers(1)["Worker"]
    roles = {"PS": one, "Worker": one | {"replicas": 2, "dependsOn": [{"role": "PS", "status": "Ready"}]}}
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("ordered", framework="Custom", replicaSpecs=roles))
        pods = {pod["metadata"]["name"]: pod for pod in await cluster.wait_for_pods("ordered", 0, 3)}
        group = await cluster.client.get(POD_GROUPS, "ordered-a0", cluster.namespace)
        assert group["spec"]["minMember"] == 3, "one gang over all roles"
        server = pods.pop("ordered-ps-0-a0")
        assert "initContainers" not in server["spec"]
        for pod in pods.values():
            assert pod["spec"]["initContainers"][0]["name"] == "headrace-start-gate"
            await cluster.place_pod(pod)
        await cluster.place_pod(server)
        waiting = await cluster.wait_for_state("ordered", "Queued", "WaitingForRoles")
        assert "Worker waits for PS to be Ready (0 of 1 pods are)" in waiting["status"]["message"]

        async def words() -> set[str]:
            found = await cluster.pods("ordered", 0)
            return {pod["metadata"].get("annotations", {}).get(names.START_ANNOTATION, "none") for pod in found}

        assert await words() == {"none", ""}
        await cluster.run_pod(server)

        async def workers_may_start() -> bool:
            return await words() == {"none", "released"}

        await cluster.until("the workers may start", workers_may_start)
        for pod in pods.values():
            await cluster.run_pod(pod)
        await cluster.wait_for_state("ordered", "Running")


async def test_queues_hold_jobs_back_lend_what_is_idle_and_give_it_back(cluster: Cluster, tmp_path: Path) -> None:
    unique = cluster.namespace
    mine, theirs = f"mine-{unique}", f"theirs-{unique}"

    async def submit(name: str, queue: str, gpus: int) -> None:
        roles = workers(1)
        amounts = {"limits": {names.GPU_RESOURCE: str(gpus)}}
        roles["Worker"]["template"]["spec"]["containers"][0]["resources"] = amounts
        await cluster.submit(
            job_body(name, framework="Custom", replicaSpecs=roles, runPolicy={"schedulingPolicy": {"queue": queue}})
        )

    async def end(name: str) -> None:
        (pod,) = await cluster.wait_for_pods(name, 0, 1)
        await cluster.run_pod(pod)
        await cluster.end_pod(pod, 0)
        await cluster.wait_for_state(name, "Succeeded")

    async def create_queue(name: str) -> None:
        body = {"apiVersion": QUEUES.api_version, "kind": "Queue", "metadata": {"name": name}}
        await cluster.client.create(QUEUES, body | {"spec": {"nominalGPUs": 8, "borrowingLimit": 4}})

    try:
        await create_queue(mine)
        async with controller(cluster, tmp_path / "first", "--no-leader-elect"):
            await submit("lost", theirs, 1)
            lost = await cluster.wait_for_state("lost", "Queued", "QueueNotFound")
            assert f"Queue {theirs} does not exist; create it" in lost["status"]["message"]
            await create_queue(theirs)
            await cluster.wait_for_pods("lost", 0, 1)
            await submit("own", mine, 8)
            await cluster.wait_for_pods("own", 0, 1)
            await submit("borrows", mine, 4)
            await cluster.wait_for_pods("borrows", 0, 1)
            await submit("waits", mine, 1)
            waits = await cluster.wait_for_state("waits", "Queued", "WaitingForQuota")
            assert f"Queue {mine} uses 12 of 8 GPUs nominal" in waits["status"]["message"]
            await submit("huge", mine, 13)
            await cluster.wait_for_state("huge", "Queued", "QuotaTooSmall")
            # 3 of its 8 GPUs are free: the rest is lent.
            await submit("claims", theirs, 7)
            claims = await cluster.wait_for_state("claims", "Queued", "WaitingForQuota")
            assert "3 of 16 GPUs of all queues are free" in claims["status"]["message"]

            async def counted() -> bool:
                status = (await cluster.client.get(QUEUES, mine)).get("status")
                wanted = {"usedGPUs": 12, "borrowedGPUs": 4, "admittedJobs": 2, "waitingJobs": 2}
                return status == wanted

            await cluster.until("the queue tells what it uses", counted)
        async with controller(cluster, tmp_path / "second", "--no-leader-elect"):
            await end("borrows")
            await cluster.wait_for_pods("claims", 0, 1)
            assert await cluster.pods("waits", 0) == [], "a controller that starts anew lends nothing twice"
            assert await cluster.pods("huge", 0) == []
            await end("own")
            await cluster.wait_for_pods("waits", 0, 1)
    finally:
        for name in (mine, theirs):
            with suppress(NotFound):
                await cluster.client.delete(QUEUES, name)


async def test_a_name_that_is_taken_is_said_and_not_touched(cluster: Cluster, tmp_path: Path) -> None:
    stranger = {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}}
    await cluster.client.create(SERVICES, stranger, cluster.namespace)
    async with controller(cluster, tmp_path / "log", "--no-leader-elect"):
        await cluster.submit(job_body("taken"))
        waiting = await cluster.wait_for_state("taken", "Queued", "NameTaken")
        assert "Service taken exists and is not this job's" in waiting["status"]["message"]
        assert await cluster.pods("taken", 0) == []
        assert (await cluster.client.get(SERVICES, "taken", cluster.namespace))["spec"]["ports"][0]["port"] == 80


async def test_the_example_manifests_are_accepted(cluster: Cluster) -> None:
    kinds = {"TrainingJob": TRAINING_JOBS, "Dataset": DATASETS, "DataLoad": DATA_LOADS}
    kinds |= {"CacheRuntime": CACHE_RUNTIMES, "DatasetGrant": DATASET_GRANTS}
    seen = []
    for file in sorted((ROOT / "manifests" / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            is_ours = document["apiVersion"].partition("/")[0].endswith(".headrace.dev")
            if is_ours and document["kind"] in kinds:
                await cluster.client.create(kinds[document["kind"]], document, cluster.namespace)
                seen.append(document["kind"])
    assert kinds.keys() == set(seen)


@pytest.mark.parametrize(
    ("mount_point", "words"),
    [
        ("ftp://host/data", "mountPoint must start with"),
        ("pvc://claim/path", "mountPoint must start with"),
        ("https://user:secret@host/data", "must not hold a user or password"),
        ("https://host/data?signature=x", "must not hold a query or fragment"),
    ],
)
async def test_the_schema_refuses_a_mount_point_that_no_store_takes(
    cluster: Cluster, mount_point: str, words: str
) -> None:
    body = {
        "apiVersion": "data.headrace.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "odd"},
        "spec": {"mounts": [{"name": "data", "mountPoint": mount_point}]},
    }
    with pytest.raises(Invalid, match=words):
        await cluster.client.create(DATASETS, body, cluster.namespace)


async def test_the_schema_refuses_a_framework_nobody_knows(cluster: Cluster) -> None:
    with pytest.raises(Invalid, match=r"spec\.framework"):
        await cluster.submit(job_body("odd", framework="Abacus"))
