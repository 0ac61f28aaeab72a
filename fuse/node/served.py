"""`python -m fuse.node.served KEEPER SOCKET DEVICE OOM_SCORE …`: has everything loaded, and forks daemons.

Started by node/nursery.py. A daemon is a child of the keeper, not of this process: it is forked twice, and the keeper
takes in orphans (PR_SET_CHILD_SUBREAPER). It waits until it is told to serve, and goes on where the daemon before it
stopped.

Invariant: this process has one thread and opens nothing but its socket, so a fork of it is whole.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

import uvloop
from pydantic_settings import CliApp

from fuse.node import wire
from fuse.node.daemon import run
from fuse.node.logs import configure
from fuse.node.session import Session
from fuse.settings import Settings

TAKEN_IN_SECONDS: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Fork daemons until the keeper hangs up; exit status 0."""
    keeper, channel, device = (int(each) for each in sys.argv[1:4])
    if not _dies_with(keeper):
        return 1
    # The keeper's own is the last the kernel would choose; a daemon can be followed.
    Path("/proc/self/oom_score_adj").write_text(sys.argv[4])
    configure()
    settings = CliApp.run(Settings, cli_args=sys.argv[5:])
    # A signal to the whole group is the keeper's business; a daemon that serves listens to its own.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=channel)
    wire.send(requests, wire.Warm())
    while (received := wire.receive(requests)) is not None:
        (daemon,) = received[1]
        if not (between := os.fork()):
            child = os.fork()
            if child:
                wire.send(requests, wire.Forked(child))
                os._exit(0)
            requests.close()
            return _serve(keeper, Session(socket.socket(fileno=daemon), device), settings)
        os.waitpid(between, 0)
        os.close(daemon)
    return 0


def _serve(keeper: int, session: Session, settings: Settings) -> int:
    """Be a daemon; exit status 0 when the mount ended, LEFT_STATUS (session.py) when another shall serve."""
    deadline = time.monotonic() + TAKEN_IN_SECONDS
    while os.getppid() != keeper and time.monotonic() < deadline:
        time.sleep(0.001)
    if not _dies_with(keeper):
        return 1
    uvloop.run(run(settings, session))
    return 0


def _dies_with(keeper: int) -> bool:
    """Without a keeper nobody would follow us, and nobody could make the mount again while we serve it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0 and os.getppid() == keeper


if __name__ == "__main__":
    # What is left (threads of the metrics server, of file reads) ends with the process.
    os._exit(main())
