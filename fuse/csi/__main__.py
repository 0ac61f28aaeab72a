"""`python -m fuse.csi`: the CSI plugin of one node, or its launcher. Wiring only; see shell/server.py."""

import asyncio
import logging
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp

from fuse.csi.errors import Refusal
from fuse.csi.settings import Settings
from fuse.csi.shell.server import run
from kube.errors import ConfigError

log = structlog.get_logger()


def main() -> int:
    """Run until SIGTERM or SIGINT; exit status 0 then, 2 for bad arguments, 1 when it could not start."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for each in error.errors():
            name = "--" + "-".join(str(part) for part in each["loc"]).replace("_", "-")
            print(f"{name}: {each['msg']} (got {each.get('input')!r})", file=sys.stderr)
        return 2
    log.info("settings", **settings.model_dump(mode="json"))
    try:
        uvloop.run(_run(settings))
    except (Refusal, ConfigError, OSError) as error:
        log.error("not_started", error=str(error))
        return 1
    return 0


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await run(settings, stopping)


if __name__ == "__main__":
    sys.exit(main())
