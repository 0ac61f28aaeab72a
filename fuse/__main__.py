"""`python -m fuse`: one mount of all datasets on one node. Wiring only; see node/daemon.py."""

import logging
import sys

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp

from fuse.backends.base import MountError
from fuse.node.daemon import run
from fuse.settings import Settings

log = structlog.get_logger()


def main() -> int:
    """Run until SIGTERM or an unmount; exit status 0 then, 2 for bad arguments, 1 when mounting failed."""
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
        uvloop.run(run(settings))
    except (MountError, OSError) as error:
        log.error("mount_failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
