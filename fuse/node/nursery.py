"""Where daemons come from: a process that has everything loaded and forks.

Owns the keeper's side of that process: its start, its death, its forks. A start takes a second and more of a busy
machine, a fork some milliseconds; and what is loaded is shared memory. The other side is node/served.py.

Invariant: a fork that was asked for is answered with a process, or the nursery is begun anew and asked again.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from fuse.node import wire

log = structlog.get_logger()

ANSWER_SECONDS: Final = 10


class Nursery:
    """Makes daemons of one mount."""

    def __init__(self, device: int, oom_score: str, arguments: Sequence[str]) -> None:
        """`oom_score` (oom_score_adj of proc(5)) and `arguments` are the daemons'."""
        self._oom_score = oom_score
        self._device = device
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_warm = False
        self._wanted: list[int] = []
        """Sockets of daemons that are to be made once it is warm."""

    @property
    def channel(self) -> socket.socket | None:
        """Readable when it has become warm or has died: call `heard` then."""
        return self._channel

    def start(self) -> None:
        """Start the process; OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wire.set_deadline(ours, ANSWER_SECONDS)
        numbers = [str(os.getpid()), str(theirs.fileno()), str(self._device), self._oom_score]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuse.node.served", *numbers, *self._arguments],
            pass_fds=(theirs.fileno(), self._device),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._channel, self._is_warm = ours, False

    def end(self) -> None:
        """Kill the process; it is reaped with the others. Daemons live on."""
        self._kill()
        if self._process is not None:
            self._process.returncode = -signal.SIGKILL  # whoever reaps all children has its status
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def fork(self, daemon: int, born: Callable[[int, int], None]) -> None:
        """Make a daemon that has the socket `daemon`, ours from now on. `born` is called with the socket and the
        process once it is made."""
        self._wanted.append(daemon)
        self._make(born)

    def heard(self, born: Callable[[int, int], None]) -> bool:
        """Take what it says; return False when it is dead and another is to be started."""
        if not self._is_warm and isinstance(self._received(), wire.Warm):
            self._is_warm = True
            return self._make(born)
        return False

    def _make(self, born: Callable[[int, int], None]) -> bool:
        while self._is_warm and self._wanted:
            try:
                assert self._channel is not None
                wire.send(self._channel, wire.Fork(), [self._wanted[0]])
                answer = self._received()
            except OSError as error:
                log.warning("nursery_silent", error=error.strerror)
                answer = None
            if not isinstance(answer, wire.Forked):
                # Its end is heard like any other.
                self._kill()
                return False
            daemon = self._wanted.pop(0)
            os.close(daemon)
            born(daemon, answer.pid)
        return True

    def _received(self) -> wire.Message | None:
        assert self._channel is not None
        try:
            received = wire.receive(self._channel)
        except OSError as error:
            log.warning("nursery_silent", error=error.strerror)
            return None
        return received[0] if received is not None else None
