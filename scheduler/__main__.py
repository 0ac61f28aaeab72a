"""`python -m scheduler`: wiring only."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from random import Random

import structlog
import uvloop

from kube.client import KubeClient
from kube.config import load_config
from kube.errors import ConfigError
from kube.events import EventRecorder
from kube.http import serve
from kube.lease import LeaderElector
from scheduler.core.engine import Engine
from scheduler.core.extender import DataExtender
from scheduler.core.fluid import FluidView
from scheduler.errors import ConfigurationError
from scheduler.plugins.registry import build
from scheduler.plugins.stage_in import StageIn
from scheduler.settings import Settings, engine_settings, load
from scheduler.shell import verdict_lines
from scheduler.shell.binder import Binder
from scheduler.shell.evictor import Evictor
from scheduler.shell.extender import serve_extender
from scheduler.shell.loop import Loop
from scheduler.shell.publish import Publisher
from scheduler.shell.translate import PodTranslator
from scheduler.shell.volume_binder import VolumeBinder
from scheduler.shell.watches import Watches, kinds

_log = structlog.get_logger("scheduler")
DRAIN_EVENTS_SECONDS = 3.0
GC_OBJECTS = 20_000
"""Made between two looks for cycles; Python's 700 are made by ten pods."""


def main() -> int:
    """Run until SIGTERM or SIGINT; 0 after a graceful stop, 2 when something given cannot be used."""
    if sys.argv[1:2] == ["verdicts"]:
        # Whoever reads only the first lines, as `head` does, ends it as it ends any filter.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        return verdict_lines.main(sys.argv[2:])
    arguments = _arguments()
    try:
        settings = load(arguments.config, _overrides(arguments))
        _configure_logs(settings)
        gc.set_threshold(GC_OBJECTS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, arguments.kubeconfig))
    except (ConfigurationError, ConfigError) as error:
        sys.stderr.write(f"scheduler: {error}\n")
        return 2
    return 0


async def _run(settings: Settings, kubeconfig: Path | None) -> None:
    _log.info("starting", **settings.model_dump(mode="json"))
    config = load_config(kubeconfig)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    name = settings.scheduler_name
    engine = Engine(build(settings), engine_settings(settings), time.perf_counter)
    loop = Loop(engine, name)
    client = KubeClient(
        config,
        user_agent="headrace-scheduler",
        qps=settings.qps,
        burst=settings.burst,
        timeout_seconds=settings.request_seconds,
    )
    extender = DataExtender(engine.state, StageIn(settings.stage_in_floor_seconds))
    async with (
        client,
        serve(settings.metrics, lambda: loop.is_healthy, lambda: loop.is_ready),
        serve_extender(
            settings.extender,
            extender,
            lambda: loop.is_ready,
            settings.extender_certificate,
            settings.extender_key,
        ),
    ):
        recorder = EventRecorder(
            client, name, identity, senders=settings.event_senders, is_busy=lambda: binder.is_saturated
        )
        publisher = Publisher(
            client,
            recorder,
            settings.publishers,
            lambda event: loop.deliver([event]),
            is_busy=lambda: binder.is_saturated,
        )
        evictor = Evictor(client, recorder, settings.evictions_in_flight, lambda event: loop.deliver([event]))
        binder = Binder(
            client,
            settings.binds_in_flight,
            may_bind=loop.may_bind,
            before_bind=publisher.before_bind,
            report=loop.report_bind,
        )
        volume_binder = VolumeBinder(
            client,
            submit=binder.submit,
            may_bind=loop.may_bind,
            report=loop.report_bind,
            bind_seconds=settings.volume_bind_seconds,
        )
        translator = PodTranslator(settings.scheduler_names, time.monotonic() - time.time())
        fluid = FluidView() if settings.reads_fluid else None
        watches = Watches(
            client,
            kinds(translator, reads_fluid=settings.reads_fluid),
            loop.deliver if fluid is None else lambda events: loop.deliver(fluid.translate(events)),
            Random(),
            publisher.found,
        )
        elector = (
            LeaderElector(client, settings.lease_namespace, settings.lease_name, identity)
            if settings.leader_elect
            else None
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, loop.stop)
        recording = asyncio.create_task(recorder.run())
        try:
            await loop.run(watches, binder, publisher, evictor, volume_binder, elector=elector)
            await recorder.drain(DRAIN_EVENTS_SECONDS)
        finally:
            recording.cancel()
            await asyncio.wait({recording})
    _log.info("stopped")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scheduler",
        description="Headrace's secondary scheduler.",
        epilog="python -m scheduler verdicts --help: judge clusters given as JSON lines, without an API server",
    )
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, ~/.kube/config, the pod's account")
    parser.add_argument("--scheduler-name", help="spec.schedulerName of the pods to take")
    parser.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="hold a Lease; off only for one replica",
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings (scheduler/settings.py)")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics, /healthz and /readyz there")
    parser.add_argument(
        "--extender", metavar="HOST:PORT", help="serve the data score there to an unmodified kube-scheduler"
    )
    parser.add_argument("--qps", type=float, help="limit of requests a second; default: none")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    return parser.parse_args()


def _overrides(arguments: argparse.Namespace) -> dict[str, object]:
    names = ("scheduler_name", "leader_elect", "metrics", "extender", "qps", "log_level")
    return {name: getattr(arguments, name) for name in names}


def _configure_logs(settings: Settings) -> None:
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
