"""The keeper of a worker: has everything loaded, and lets one worker follow another that died.

Owns the processes. Loading what a worker needs takes a second of a processor, on a busy node several, a fork some
milliseconds; and whoever reads or writes on the node waits for it. A worker that follows does what any does that is
started again: it knows nothing of the one before but what is on the disks.

    served --killed, crashed--> followed at once --again within two seconds--> after a pause --too often--> we end too
       '---ended by itself, or because it could not serve--> we end with its status

Invariants: this process has one thread and opens nothing, so a fork of it is whole; no worker outlives it, and it
passes on what it is told; who restarts a container sees a worker that cannot live.
"""

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

log = structlog.get_logger()

CRASHED: Final = 70
"""Exit status of a worker that ended by a defect (EX_SOFTWARE of sysexits.h)."""
SHORT_SECONDS: Final = 2.0
"""Whoever lived no longer may have died of what its successor will find too."""
SHORT_LIVES_MAX: Final = 5
PAUSE_SECONDS: Final = 0.5
_PASSED_ON: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_WAITED_FOR: Final = _PASSED_ON | {signal.SIGCHLD}
_PR_SET_PDEATHSIG: Final = 1


def keep(serve: Callable[[], int]) -> int:
    """Have `serve` run in one process after the other; return the status of the last one."""
    gc.collect()
    gc.freeze()  # else each worker would copy what it shares with us when it collects
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    short_lives = 0
    while True:
        began = time.monotonic()
        child = _born(serve, before)
        status, is_ending = _outlived(child)
        lived = time.monotonic() - began
        if is_ending or (status >= 0 and status != CRASHED):
            return _as_exit_status(status)
        short_lives = short_lives + 1 if lived < SHORT_SECONDS else 0
        log.warning("worker_died", pid=child, status=status, after_seconds=round(lived, 3))
        if short_lives >= SHORT_LIVES_MAX:
            log.error("worker_dies_again_and_again", times=short_lives)
            return _as_exit_status(status)
        if short_lives > 1 and signal.sigtimedwait(_PASSED_ON, PAUSE_SECONDS) is not None:
            return 0


def _born(serve: Callable[[], int], mask: set[signal.Signals | int]) -> int:
    """Fork a worker; return its pid."""
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    status = CRASHED
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != keeper:
            return os._exit(CRASHED)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = serve()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else CRASHED
    except BaseException:  # noqa: BLE001  # the edge of the process: told, and followed by another
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # Threads that wait for a disk end with the process.
        os._exit(status)


def _outlived(child: int) -> tuple[int, bool]:
    """Wait for the end of a worker, passing on what we are told; return its status, and whether it was told to end."""
    is_ending = False
    while True:
        number = signal.sigwait(_WAITED_FOR)
        if number in _PASSED_ON:
            is_ending = True
            with suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        # As the first process of a container we are given others' orphans too.
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return os.waitstatus_to_exitcode(ended[1]), is_ending


def _as_exit_status(status: int) -> int:
    return 128 - status if status < 0 else status
