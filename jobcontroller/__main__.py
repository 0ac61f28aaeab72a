"""`python -m jobcontroller`: wiring only."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import socket
import sys
import time

import structlog
from pydantic import ValidationError

from api.trust.files import TrustError, TrustFiles
from jobcontroller.core.turn import Policy
from jobcontroller.frameworks.registry import FRAMEWORKS
from jobcontroller.settings import Settings
from jobcontroller.shell import handlers, metrics
from jobcontroller.shell.caches import Caches, Key
from jobcontroller.shell.checkpoint_client import CheckpointClient
from jobcontroller.shell.controller import Controller
from jobcontroller.shell.crons import Crons
from jobcontroller.shell.directories import Directories
from jobcontroller.shell.executor import Executor
from jobcontroller.shell.fences import Fences
from jobcontroller.shell.observe import Observer
from jobcontroller.shell.queues import Queues
from jobcontroller.shell.retention import Retention
from jobcontroller.shell.signs import SignReader
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import ConfigError
from kube.events import EventRecorder
from kube.http import serve
from kube.lease import LeaderElector, LeadershipLost
from kube.operator import new_registry, run_operator
from kube.workqueue import WorkQueue

COMPONENT = "headrace-jobcontroller"
DRAIN_EVENTS_SECONDS = 2.0
#: CronTrainingJobs decided at the same time; at midnight many are due at once
CRON_WORKERS = 8
_log = structlog.get_logger(__name__)


async def lead(client: KubeClient, settings: Settings, identity: str) -> None:
    """Do the controller's work until cancelled."""
    queue: WorkQueue[Key] = WorkQueue("trainingjobs")
    cron_queue: WorkQueue[Key] = WorkQueue("crontrainingjobs")
    metrics.QUEUE_DEPTH.set_function(lambda: len(queue))
    caches = Caches(client, queue.add, time.monotonic, random.Random(), settings.notice_taints)
    directories = Directories()
    queues = Queues(client, queue.add, random.Random(), directories)
    recorder = EventRecorder(client, COMPONENT, identity)
    metadata: CheckpointClient | None = None
    if settings.metadata:
        trust = None if settings.trust is None else TrustFiles(settings.trust)
        metadata = CheckpointClient(settings.metadata, settings.request_seconds, trust)
    observer = Observer(
        client,
        caches,
        queues,
        FRAMEWORKS,
        metadata,
        signs=SignReader(client, metadata),
        directories=directories,
        checkpoint_seconds=settings.checkpoint_seconds,
        clock=time.monotonic,
    )
    controller = Controller(
        client,
        observer,
        Executor(client, caches, recorder, creations=settings.creations),
        Retention(metadata),
        Fences(metadata, caches),
        policy=Policy(settle_seconds=settings.settle_seconds, force_after_seconds=settings.force_after_seconds),
        resync_seconds=settings.resync_seconds,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    registry = new_registry(client.config)

    def job_changed(key: Key, resource_version: str) -> None:
        if not controller.has_written(key, resource_version):
            queue.add(key)

    handlers.register(registry, job_changed, cron_queue.add)
    crons = Crons(client, recorder)
    try:
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(work) for work in (recorder.run(), caches.run(), queues.run())]
            await caches.wait_synced()
            await queues.wait_synced()
            background.append(tasks.create_task(queue.run(controller.reconcile, concurrency=settings.workers)))
            background.append(tasks.create_task(cron_queue.run(crons.reconcile, concurrency=CRON_WORKERS)))
            _log.info("jobcontroller_started", identity=identity, metadata=settings.metadata)
            # kopf returns when a signal asked the process to stop.
            await run_operator(registry, asyncio.Event())
            await recorder.drain(DRAIN_EVENTS_SECONDS)
            for task in background:
                task.cancel()
    finally:
        if metadata is not None:
            await metadata.close()


async def run(settings: Settings) -> int:
    """Run until a signal; the process' exit code."""
    identity = f"{socket.gethostname()}_{os.getpid()}"
    # A replica that waits for the Lease is as ready as one can be.
    async with serve(settings.metrics), KubeClient(load_config(settings.kubeconfig), user_agent=COMPONENT) as client:
        work = asyncio.ensure_future(_led(client, settings, identity))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            _log.info("jobcontroller_stopped")
        except LeadershipLost as error:
            _log.error("leadership_lost", error=str(error))
            return 1
    return 0


async def _led(client: KubeClient, settings: Settings, identity: str) -> None:
    if not settings.leader_elect:
        await lead(client, settings, identity)
        return
    elector = LeaderElector(client, settings.lease_namespace, settings.lease_name, identity)
    await elector.run(lambda: lead(client, settings, identity))


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a graceful stop, 1 when leadership was lost, 2 on bad settings."""
    parser = argparse.ArgumentParser(prog="python -m jobcontroller", description="The TrainingJob controller.")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config, in-cluster")
    parser.add_argument("--metadata", metavar="HOST:PORT", help="the metadata service, for checkpoints")
    parser.add_argument("--trust", metavar="DIR", help="folder with ca.crt, tls.crt and tls.key of this controller")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics, /healthz and /readyz there")
    parser.add_argument("--leader-elect", action=argparse.BooleanOptionalAction, help="act only with the Lease")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    configure_logging()
    try:
        settings = Settings(**given)
        _log.info("settings", **settings.model_dump(mode="json"))
        return asyncio.run(run(settings))
    except ValidationError as error:
        for problem in error.errors():
            _log.error("bad_setting", setting=".".join(map(str, problem["loc"])), message=problem["msg"])
    except (ConfigError, TrustError, OSError) as error:
        _log.error("cannot_start", message=str(error))
    return 2


def configure_logging() -> None:
    """Events as JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
