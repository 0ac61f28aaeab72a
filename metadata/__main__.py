"""`python -m metadata`: arguments, logging, signals; the service itself is shell/server.py."""

import argparse
import asyncio
import logging
import signal
import sys

import structlog
from pydantic import ValidationError

from kube.errors import ConfigError
from kube.http import serve
from metadata.errors import SettingsError
from metadata.settings import MetadataSettings
from metadata.shell.server import MetadataServer


def main(arguments: list[str] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; 0 after a graceful stop, 1 when the disk failed, 2 on bad settings."""
    parser = argparse.ArgumentParser(prog="python -m metadata", description="Namespace and residency service.")
    parser.add_argument("--listen", metavar="HOST:PORT", help="gRPC address; port 0 takes a free one")
    parser.add_argument(
        "--store",
        metavar="URL",
        help="database: sqlite:///var/lib/headrace/metadata.db, or postgresql://USER@HOST/DB?passfile=FILE",
    )
    parser.add_argument("--credentials-dir", metavar="DIR", help="folder of <namespace>/<secret>/<key> files")
    parser.add_argument("--trust", metavar="DIR", help="folder with ca.crt, tls.crt and tls.key of this service")
    parser.add_argument("--token-keys", metavar="DIR", help="folder of the keys tokens are signed with, NAME.pem")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="Prometheus and probes address")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    configure_logging()
    log = structlog.get_logger()
    try:
        settings = MetadataSettings(**given)
        log.info("metadata.starting", **settings.model_dump(mode="json"))
        return asyncio.run(_run(settings))
    except ValidationError as error:
        for problem in error.errors():
            log.error("metadata.bad_setting", setting=".".join(map(str, problem["loc"])), message=problem["msg"])
    except (SettingsError, ConfigError) as error:
        log.error("metadata.cannot_start", message=str(error))
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


async def _run(settings: MetadataSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = MetadataServer(settings)
    async with serve(settings.metrics, is_healthy=lambda: server.is_healthy, is_ready=lambda: server.is_ready):
        return await server.run(stop)


if __name__ == "__main__":
    sys.exit(main())
