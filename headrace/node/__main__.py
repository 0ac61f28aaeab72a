"""Starts one process node: `python -m headrace.node --name … --kubeconfig … --dir … --mount …`.

Owns wiring, the lock on the folder, and what SIGTERM does: containers are ended gracefully,
the Node is marked NotReady (reason NodeShutdown). A killed agent leaves its containers
running; the next one adopts them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from api.fence_lifting import FenceLifter
from api.trust.channels import open_channel
from api.trust.files import TrustError, TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, Role
from headrace.node.core import node_object
from headrace.node.core.node_object import NodeOffer
from headrace.node.core.pod_spec import Pod
from headrace.node.errors import NodeError, SettingsError
from headrace.node.settings import NodeSettings, parse_arguments
from headrace.node.shell.agent import Agent
from headrace.node.shell.container_runner import KubeletEvents
from headrace.node.shell.dataset_mounts import DatasetMounts
from headrace.node.shell.logs_server import LogsServer
from headrace.node.shell.name_service import NameService
from headrace.node.shell.pod_worker import NodeServices
from headrace.node.shell.registration import Registration, agent_version, machine_facts
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import ConfigError, KubeError
from kube.events import EventKind, EventRecorder
from kube.identity import reference_to

_log = structlog.get_logger("headrace.node")

NOTICE = (
    "pods of a process node are plain processes of this machine, run as this agent's user: each container has "
    "its own mounts and host name, nothing else is isolated; CPU, memory and GPU limits are not enforced"
)
LAST_CALLS_SECONDS = 5.0
FENCE_SECONDS = 5.0


async def serve(settings: NodeSettings) -> None:
    """Run the node until SIGTERM or SIGINT. SettingsError."""
    trust = _trust(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    facts = machine_facts(settings.dir)
    offer = NodeOffer(settings.name, settings.cpu, settings.memory, settings.gpus, settings.labels)
    config = load_config(settings.kubeconfig)
    async with KubeClient(config, user_agent=f"headrace-node/{agent_version()}") as client:
        recorder = EventRecorder(client, "headrace-node", settings.name)
        agent = _agent(settings, client, recorder, offer, facts)
        logs = _logs_server(settings, agent)
        registration = Registration(client, offer, facts, lambda: logs.port if logs else None)
        if logs is not None:
            await logs.start()
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(recorder.run())
            background = [
                tasks.create_task(_register_and_run(settings, trust, registration, agent)),
            ]
            await stop.wait()
            _log.info("node_stopping", node=settings.name)
            await agent.stop_pods(settings.shutdown_grace_seconds)
            for task in background:
                task.cancel()
            await _say_goodbye(registration, recorder)
            writer.cancel()
        if logs is not None:
            await logs.stop()


async def _register_and_run(
    settings: NodeSettings, trust: TrustFiles | None, registration: Registration, agent: Agent
) -> None:
    await registration.register()
    _log.info("node_registered", node=settings.name)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run())
        tasks.create_task(registration.keep_lease(settings.lease_renew_seconds, settings.lease_duration_seconds))
        tasks.create_task(registration.keep_status(settings.status_seconds))
        tasks.create_task(registration.lift_taint(settings.taint_patience_seconds))
        tasks.create_task(_lift_fences(settings, trust, agent))


def _trust(settings: NodeSettings) -> TrustFiles | None:
    try:
        return TrustFiles.of(settings.trust, Identity(Role.NODE, settings.name))
    except TrustError as error:
        raise SettingsError(f"--trust: {error}") from error


async def _lift_fences(settings: NodeSettings, trust: TrustFiles | None, agent: Agent) -> None:
    if settings.metadata is None:
        return
    async with open_channel(settings.metadata, trust, METADATA_SERVER) as channel:
        await FenceLifter(channel, settings.name).run(agent.has_pod, FENCE_SECONDS)


async def _say_goodbye(registration: Registration, recorder: EventRecorder) -> None:
    try:
        async with asyncio.timeout(LAST_CALLS_SECONDS):
            await registration.refresh_status(is_shut_down=True)
            await recorder.drain(LAST_CALLS_SECONDS)
    except (KubeError, TimeoutError) as error:
        _log.warning("shutdown_not_reported", error=str(error))


def _agent(
    settings: NodeSettings,
    client: KubeClient,
    recorder: EventRecorder,
    offer: NodeOffer,
    facts: node_object.MachineFacts,
) -> Agent:
    def events(pod: Pod) -> KubeletEvents:
        reference = reference_to(pod, kind="Pod")

        def record(reason: str, note: str, *, kind: EventKind = "Normal") -> None:
            recorder.record(reference, reason, note, kind=kind)

        return record

    services = NodeServices(
        client=client,
        events=events,
        names=NameService(),
        mounts=DatasetMounts(settings.mount),
        pods=settings.dir / "pods",
        node_name=settings.name,
        allocatable=node_object.capacity(offer, facts),
        bin_dir=settings.bin_dir,
        mount_wait_seconds=settings.mount_wait_seconds,
    )
    return Agent(
        client,
        services,
        labels=node_object.labels(offer, facts),
        allocatable=node_object.allocatable(offer, facts),
        gpus=settings.gpus,
        network_index=settings.network_index,
    )


def _logs_server(settings: NodeSettings, agent: Agent) -> LogsServer | None:
    if settings.tls_cert is None or settings.tls_key is None or settings.client_ca is None:
        return None
    return LogsServer(agent.worker, cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.client_ca)


async def _serve_plainly(settings: NodeSettings) -> None:
    """As `serve`, but one error of the API server comes out as itself instead of in groups."""
    try:
        await serve(settings)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, KubeError):
            raise first from group
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder: two agents on one would both run its pods."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SettingsError(f"--dir: another node agent is running on {folder}; give each its own folder") from error
    try:
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    """Run the agent; 2 for a bad flag, 1 for a cluster that cannot be used."""
    try:
        settings = parse_arguments(sys.argv[1:])
        settings = settings.model_copy(update={"dir": settings.dir.absolute(), "mount": settings.mount.absolute()})
        _log.info("node_starting", **settings.model_dump(mode="json"))
        _log.warning("no_isolation", notice=NOTICE)
        with _locked(settings.dir):
            asyncio.run(_serve_plainly(settings))
    except NodeError as error:
        print(f"headrace.node: {error}", file=sys.stderr)
        return 2
    except (ConfigError, KubeError) as error:
        print(f"headrace.node: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
