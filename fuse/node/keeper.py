"""The keeper of a mount: holds what must outlive the daemon, and starts the next one.

Owns the connection to the kernel, the journal's descriptor, the descriptors of staging files, and the processes. What
to do about their deaths is decided in core/succession.py. It does little, so that little can end it.

Invariants: it never reads /dev/fuse after the handshake and never touches the mount while daemons may be dead (that
would wait for itself); when it ends, the mount ends, and so do its daemons.
"""

import ctypes
import os
import resource
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from fuse.backends import raw_device
from fuse.core.succession import DEATHS_MAX, Action, Finish, Go, Kill, Leave, Reason, Spawn, Stop, Succession
from fuse.node import fusectl, mounts, wire
from fuse.node.nursery import Nursery
from fuse.node.session import SEND_SECONDS, new_journal
from fuse.settings import Settings

log = structlog.get_logger()

NURSERY_PAUSE_SECONDS: Final = 0.2
ROOM_BYTES: Final = 1 << 20
"""For what a daemon sends while we are stopped: descriptors of some two thousand files, as a message takes 1.2 KiB and
the kernel gives twice what it is asked for."""
END_SECONDS: Final = 2.0
"""For the killed daemons to be gone; one that waits in the kernel is not waited for."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)
_EXIT_CODE_FIELD: Final = 49
"""Of /proc/PID/stat, counted from the state (proc(5))."""
_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_OOM_LAST: Final = "-999"
"""The kernel's out-of-memory killer takes the daemons first."""


class Keeper:
    """One mount and its daemons."""

    def __init__(self, settings: Settings, arguments: Sequence[str]) -> None:
        """`arguments` are handed to each daemon."""
        self._settings = settings
        self._arguments = list(arguments)
        self._succession = Succession(settings.watchdog_seconds, has_standby=settings.standby)
        self._selector = selectors.DefaultSelector()
        self._channels: dict[int, socket.socket] = {}
        self._mute: set[int] = set()
        """Daemons that hung up and are not reaped yet."""
        self._unborn: dict[int, socket.socket] = {}
        """Our ends of the sockets of daemons that are being made, by theirs."""
        self._strangers: dict[int, int] = {}
        """Exit statuses of children nobody has told us of yet."""
        self._kept: dict[int, int] = {}
        self._journal = new_journal()
        self._takeovers: Counter[str] = Counter()
        self._device = -1
        self._minor = 0
        self._signals: list[int] = []
        self._status: int | None = None
        self._nursery_deaths = 0
        self._last_death = 0.0
        self._looked_at = time.monotonic()

    def mount(self) -> None:
        """Make the mount; MountError, OSError."""
        mounts.prepare(self._settings.mount)
        settings = self._settings
        self._device, init = raw_device.mounted(
            settings.mount,
            allow_other=settings.allow_other,
            read_only=not settings.open,
            request_timeout_seconds=settings.request_timeout_seconds,
        )
        self._minor = init.minor
        self._nursery = Nursery(self._device, _OOM_SCORE.read_text().strip(), self._arguments)
        mounts.tune(self._settings.mount)

    def run(self) -> int:
        """Keep the mount until it ends; return the exit status."""
        _raise_file_limit()
        woken, waker = socket.socketpair()
        woken.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._signals.append(number))
        self._selector.register(woken, selectors.EVENT_READ)
        if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
            raise OSError(ctypes.get_errno(), "daemons cannot be taken in (PR_SET_CHILD_SUBREAPER)")
        try:
            self._start_nursery()
            with suppress(OSError):  # it takes CAP_SYS_RESOURCE, and is no condition of anything
                _OOM_SCORE.write_text(_OOM_LAST)
            self._do(self._succession.begin())
            self._looked_at = time.monotonic()
            while self._status is None:
                self._turn(woken)
        finally:
            self._end()
        return self._status

    def _turn(self, woken: socket.socket) -> None:
        for key, _ in self._selector.select(self._succession.next_tick_seconds()):
            if key.fileobj is woken:
                with suppress(BlockingIOError):
                    woken.recv(4096)
            elif key.data is None:
                if not self._nursery.heard(self._born):
                    self._nursery_died()
            else:
                self._hear(key.data)
        now = time.monotonic()
        if now - self._looked_at > self._settings.watchdog_seconds / 2:
            log.warning("keeper_was_away", seconds=round(now - self._looked_at, 1))
            self._succession.looked_away(now)
        self._looked_at = now
        signals, self._signals = self._signals, []
        if signal.SIGCHLD in signals:
            self._reap()
        if signal.SIGHUP in signals:
            log.info("upgrade_begins")
            self._start_nursery()
            self._do(self._succession.hangup(now))
        if signal.SIGTERM in signals or signal.SIGINT in signals:
            self._do(self._succession.terminate(now))
        for child in self._succession.silent(now):
            self._look_for_body(child, now)
        self._do(self._succession.tick(now))

    def _nursery_died(self) -> None:
        self._nursery_deaths += 1
        log.warning("nursery_ended", deaths=self._nursery_deaths)
        if self._nursery_deaths >= DEATHS_MAX and not self._channels:
            self._do([Finish(1, f"{self._nursery_deaths} processes in a row could not load the daemon")])
            return
        if self._nursery_deaths > 1:
            # What ends it may end the next one too. Whoever serves goes on serving.
            time.sleep(NURSERY_PAUSE_SECONDS)
        self._start_nursery()

    # What is heard

    def _hear(self, child: int) -> bool:
        """Take one packet of a daemon; return whether there may be more."""
        channel = self._channels.get(child)
        if channel is None:
            return False
        try:
            received = wire.receive(channel, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            received = None
        except OSError as error:
            log.error("descriptor_not_kept", child=child, error=str(error))
            return True
        if received is None:
            # It ended, and will be reaped; what it sent before was taken, because packets come in order.
            self._selector.unregister(channel)
            channel.close()
            del self._channels[child]
            self._mute.add(child)
            return False
        self._heard(child, *received)
        return True

    def _heard(self, child: int, message: wire.Message, descriptors: list[int]) -> None:
        now = time.monotonic()
        match message:
            case wire.Warm():
                self._do(self._succession.warm(child, now))
            case wire.Serving():
                if self._last_death:
                    log.info("daemon_follows", pid=child, after_seconds=round(now - self._last_death, 3))
                self._do(self._succession.serving(child, now))
            case wire.Beat():
                self._do(self._succession.beat(child, now))
            case wire.Keep(number=number):
                self._let_go(number)
                (self._kept[number],) = descriptors
            case wire.LetGo(numbers=numbers):
                for each in numbers:
                    self._let_go(each)
            case wire.NewJournal():
                os.close(self._journal)
                (self._journal,) = descriptors
                for waiting in self._succession.waiting:
                    self._guarded(waiting, self._show_journal)

    def _let_go(self, number: int) -> None:
        descriptor = self._kept.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)

    def _reap(self) -> None:
        """Take note of every daemon that ended, was stopped or goes on."""
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if not child:
                return
            if child not in self._channels and child not in self._mute:
                if self._unborn and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                    self._strangers[child] = os.waitstatus_to_exitcode(status)
                continue
            now = time.monotonic()
            if os.WIFSTOPPED(status):
                self._do(self._succession.stopped(child, now))
            elif os.WIFCONTINUED(status):
                self._do(self._succession.continued(child, now))
            else:
                self._died(child, os.waitstatus_to_exitcode(status), now)

    def _look_for_body(self, child: int, now: float) -> None:
        """A process is not reaped while one of its threads waits in the kernel, which cannot be killed; but from its
        main thread's end on it runs nothing more."""
        with suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and len(list(Path(f"/proc/{child}/task").iterdir())) > 1:
                log.warning("daemon_not_reaped", pid=child)
                self._died(child, os.waitstatus_to_exitcode(int(fields[_EXIT_CODE_FIELD])), now)

    def _died(self, child: int, status: int, now: float) -> None:
        # What it sent last is taken before its successor is told what is kept.
        while self._hear(child):
            pass
        channel = self._channels.pop(child, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()
        self._mute.discard(child)
        if status != 0:
            log.warning("daemon_ended", pid=child, status=status)
            self._last_death = now
        self._do(self._succession.died(child, status, now))

    # What is done

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn():
                    self._spawn()
                case Go():
                    self._go(action)
                case Kill(child):
                    self._signal(child, signal.SIGKILL)
                case Stop(child):
                    self._signal(child, signal.SIGTERM)
                case Leave(child):
                    self._guarded(child, lambda channel: wire.send(channel, wire.Leave()))
                case Finish(status, why):
                    log.log(40 if status else 20, "keeper_ends", why=why)
                    self._status = status

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wire.set_deadline(ours, SEND_SECONDS)
        wire.make_room(theirs, ROOM_BYTES)
        daemon = theirs.detach()
        self._unborn[daemon] = ours
        self._nursery.fork(daemon, self._born)

    def _born(self, daemon: int, pid: int) -> None:
        self._nursery_deaths = 0
        channel = self._unborn.pop(daemon)
        now = time.monotonic()
        self._channels[pid] = channel
        self._selector.register(channel, selectors.EVENT_READ, pid)
        self._do(self._succession.spawned(pid, now))
        self._guarded(pid, self._show_journal)
        if pid in self._strangers:
            self._died(pid, self._strangers[pid], now)
        if not self._unborn:
            self._strangers.clear()

    def _start_nursery(self) -> None:
        """Start it, or start it anew; daemons that are to be made are made by the new one."""
        if self._nursery.channel is not None:
            self._selector.unregister(self._nursery.channel)
        self._nursery.end()
        self._nursery.start()
        assert self._nursery.channel is not None
        self._selector.register(self._nursery.channel, selectors.EVENT_READ, None)

    def _go(self, action: Go) -> None:
        if action.reason is not Reason.FIRST:
            self._takeovers[action.reason.value] += 1
        if action.refuses_resent:
            log.error("requests_in_flight_refused", why="several daemons crashed with them one after the other")
        self._guarded(action.child, lambda channel: self._hand_over(channel, action))

    def _hand_over(self, channel: socket.socket, action: Go) -> None:
        numbers = list(self._kept)
        for start in range(0, len(numbers), wire.DESCRIPTORS_MAX):
            part = numbers[start : start + wire.DESCRIPTORS_MAX]
            wire.send(channel, wire.Kept(part), [self._kept[number] for number in part])
        proceed = wire.Proceed(
            self._minor, action.reason.value, dict(self._takeovers), refuses_resent=action.refuses_resent
        )
        wire.send(channel, proceed, [self._journal])

    def _show_journal(self, channel: socket.socket) -> None:
        wire.send(channel, wire.Follow(), [self._journal])

    def _guarded(self, child: int, send: Callable[[socket.socket], None]) -> None:
        """Send to a daemon; one that does not take it is killed, and its death is dealt with like any other."""
        channel = self._channels.get(child)
        try:
            if channel is not None:
                send(channel)
        except OSError as error:
            log.warning("daemon_not_told", pid=child, error=error.strerror)
            self._signal(child, signal.SIGKILL)

    def _signal(self, child: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    def _end(self) -> None:
        # The name first, then who serves it: nobody new finds the mount, and then it ends for those who have it open.
        device = mounts.device_of(self._settings.mount)
        if device is not None:
            mounts.detach(self._settings.mount)
            with suppress(OSError):
                fusectl.write(device[1], "abort", "1\n")
        self._nursery.end()
        for child in [*self._channels, *self._mute]:
            self._signal(child, signal.SIGKILL)
        deadline = time.monotonic() + END_SECONDS
        with suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.01)
        os.close(self._device)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
