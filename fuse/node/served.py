"""`python -m fuse.node.served SOCKET DEVICE …`: one daemon of a mount that has a keeper; started by node/keeper.py.

Loads everything, waits until it is told to serve, and goes on where the daemon before it stopped.
"""

import ctypes
import os
import signal
import socket
import sys
from typing import Final

import structlog
import uvloop
from pydantic_settings import CliApp

from fuse.node.daemon import run
from fuse.node.logs import configure
from fuse.node.session import Session
from fuse.settings import Settings

log = structlog.get_logger()

_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Run as one daemon; exit status 0 when the mount ended, LEFT_STATUS (session.py) when another shall serve."""
    keeper, channel, device = (int(each) for each in sys.argv[1:4])
    # Without a keeper nobody would follow us, and nobody could make the mount again while we serve it.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != keeper:
        return 1
    configure()
    settings = CliApp.run(Settings, cli_args=sys.argv[4:])
    session = Session(socket.socket(fileno=channel), device)
    session.wait()
    uvloop.run(run(settings, session))
    return 0


if __name__ == "__main__":
    # What is left (threads of the metrics server, of file reads) ends with the process.
    os._exit(main())
