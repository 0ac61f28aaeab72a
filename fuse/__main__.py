"""`python -m fuse`: one mount of all datasets on one node. Wiring only; see node/keeper.py and node/daemon.py.

As root this process is the keeper of the mount, and the daemons that serve it are its children; else it is the daemon.
"""

import os
import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from fuse.backends.base import MountError
from fuse.node.keeper import Keeper
from fuse.node.logs import configure
from fuse.settings import Settings

log = structlog.get_logger()


def main() -> int:
    """Run until SIGTERM or an unmount; exit status 0 then, 2 for bad arguments, 1 when mounting failed."""
    configure()
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for each in error.errors():
            name = "--" + "-".join(str(part) for part in each["loc"]).replace("_", "-")
            print(f"{name}: {each['msg']} (got {each.get('input')!r})", file=sys.stderr)
        return 2
    log.info("settings", **settings.model_dump(mode="json"))
    try:
        keeper = _keeper(settings)
        return keeper.run() if keeper is not None else _serve(settings)
    except (MountError, OSError) as error:
        log.error("mount_failed", error=str(error))
        return 1


def _keeper(settings: Settings) -> Keeper | None:
    """Return the keeper of a fresh mount; None when the mount is to be made without one. MountError, OSError."""
    if not settings.keeper or settings.backend == "pyfuse3" or (settings.backend == "auto" and os.geteuid() != 0):
        return None
    keeper = Keeper(settings, sys.argv[1:])
    try:
        keeper.mount()
    except MountError as error:
        if settings.backend == "raw" or not settings.open:
            raise
        log.warning("raw_backend_not_possible", error=str(error), instead="pyfuse3")
        return None
    return keeper


def _serve(settings: Settings) -> int:
    """Be the daemon. Its libraries are loaded here: the keeper needs none of them."""
    import uvloop

    from fuse.node.daemon import run

    uvloop.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
