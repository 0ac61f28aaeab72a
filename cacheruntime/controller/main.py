"""`python -m cacheruntime controller`: wiring only."""

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Sequence

import structlog

from api.trust.files import TrustError, TrustFiles
from cacheruntime.controller.credentials import Credentials, Folder, MirrorSecret, Place
from cacheruntime.controller.handlers import register
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.reconciler import Reconciler
from cacheruntime.controller.services import Metadata, Workers
from cacheruntime.controller.settings import ControllerSettings
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import ConfigError
from kube.events import EventRecorder
from kube.http import serve
from kube.lease import LeaderElector
from kube.operator import new_registry, run_operator

log = structlog.get_logger()
LEASE_NAME = "headrace-cache-controller"
COMPONENT = "headrace-cacheruntime"


def parse(argv: Sequence[str]) -> ControllerSettings:
    """Return the settings of a command line."""
    parser = argparse.ArgumentParser(prog="python -m cacheruntime controller", description="the cache controller")
    for name, field in ControllerSettings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=field.description)
        else:
            parser.add_argument(flag, default=None, help=field.description)
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    return ControllerSettings(**given)


async def _serve(settings: ControllerSettings) -> None:
    config = load_config(settings.kubeconfig)
    trust = None if settings.trust is None else TrustFiles(settings.trust)
    metadata = Metadata(settings.metadata, settings.call_seconds, trust)
    workers = Workers(settings.call_seconds, trust, metadata.tokens)
    # A replica that waits for the Lease is as ready as one can be.
    async with serve(settings.metrics), KubeClient(config, user_agent=LEASE_NAME) as client:
        objects = Objects(client)
        places: list[Place] = [MirrorSecret(client, *name) for name in settings.mirrors]
        if settings.credentials_dir is not None:
            places.append(Folder(settings.credentials_dir))
        credentials = Credentials(client, places)
        identity = f"{socket.gethostname()}-{os.getpid()}"
        recorder = EventRecorder(client, COMPONENT, identity)
        reconciler = Reconciler(
            client,
            objects,
            credentials,
            metadata,
            workers,
            recorder=recorder,
            poll_seconds=settings.poll_seconds,
            installed_workers=settings.installed_workers,
        )
        registry = new_registry(config)
        register(registry, objects, reconciler.queues)

        async def lead() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run_operator(registry, asyncio.Event()))
                tasks.create_task(reconciler.run())
                tasks.create_task(recorder.run())

        try:
            if settings.leader_elect:
                elector = LeaderElector(client, settings.lease_namespace, LEASE_NAME, identity)
                async with elector.lead():
                    log.info("leading", lease=LEASE_NAME)
                    await lead()
            else:
                await lead()
        finally:
            await metadata.close()
            await workers.close()


async def _until_signal(settings: ControllerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(_serve(settings))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        serving.cancel()
        await asyncio.wait({serving}, timeout=10)
    else:
        serving.result()


def run(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; return the exit status."""
    settings = parse(argv)
    log.info("cache controller starts", **settings.model_dump(mode="json"))
    try:
        asyncio.run(_until_signal(settings))
    except (ConfigError, TrustError) as error:
        log.error("cache controller cannot start", error=str(error))
        return 1
    return 0
