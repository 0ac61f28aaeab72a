"""FUSE daemons, one a dataset that is in use on this node.

Owns starting and ending them. Each is `python -m fuse` in a session of its own, so it outlives whoever started it;
which daemons there are is read from the mount table and from /proc, never remembered, so a plugin that starts again
finds what lives. The caller holds the dataset's lock.
"""

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

import structlog

from fuse.core.mount_table import Mount, MountTable
from fuse.csi.errors import NotNow, NotPossible, TooSlow
from fuse.csi.shell import kernel, metrics
from fuse.csi.shell.blocking import in_thread
from fuse.node import mounts

log = structlog.get_logger()

START_SECONDS: Final = 40.0
"""Importing takes a second on an idle machine, many on one that starts a hundred pods."""
END_SECONDS: Final = 15.0
"""The daemon gives requests in work 10 s."""
KILL_SECONDS: Final = 5.0
ROUNDS_MAX: Final = 5
POLL_SECONDS: Final = 0.02
LOG_TAIL_CHARACTERS: Final = 2000
ANSWER_SECONDS: Final = 5.0
"""Within which a live daemon answers."""


class Life(Enum):
    """What is at a mount point."""

    ABSENT = "absent"
    ALIVE = "alive"
    DEAD = "dead"
    """Mounted, and no daemon will ever answer again."""
    SILENT = "silent"
    """Mounted, and no answer in time: stopped, or being replaced."""


class Daemons(Protocol):
    """Whoever starts and ends daemons: we (below), or the launcher process (launcher_client.py)."""

    async def start(self, key: str) -> None:
        """Have the dataset's daemon and its mount; NotNow, TooSlow."""

    async def stop(self, key: str) -> None:
        """End both, if they are there; NotNow, TooSlow."""


class DatasetFolders:
    """Where the daemons' mounts are: `<state>/datasets/<key>/mount`, with the log beside it."""

    def __init__(self, state: Path) -> None:
        self._root = state / "datasets"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # As the mount table and command lines of daemons have it.
        self._root = self._root.resolve()

    def folder(self, key: str) -> Path:
        """Return a dataset's folder."""
        return self._root / key

    def mount(self, key: str) -> Path:
        """Return where a dataset's daemon mounts."""
        return self._root / key / "mount"

    def log(self, key: str) -> Path:
        """Return where a dataset's daemon writes its log."""
        return self._root / key / "daemon.log"

    def known(self) -> list[str]:
        """Return the datasets that have a folder."""
        return sorted(entry.name for entry in self._root.iterdir() if entry.is_dir())

    def mounted(self, key: str, table: MountTable | None = None) -> Mount | None:
        """Return the mount of a dataset's daemon, dead or alive; by a table that was just read, if there is one."""
        stack = (table or mounts.read_mount_table()).at(str(self.mount(key)))
        return stack[-1] if stack else None

    async def life(self, key: str, seconds: float = ANSWER_SECONDS) -> Life:
        """Tell whether a dataset's mount is there and answers."""
        mounted = self.mounted(key)
        if mounted is None:
            return Life.ABSENT
        mount = str(self.mount(key))
        try:
            await in_thread(
                lambda: kernel.ask(mount),
                what=f"stat of {mount}",
                seconds=seconds,
                shared=f"stat {mounted.device} {mount}",
            )
        except TooSlow:
            return Life.SILENT
        except OSError as error:
            return Life.DEAD if error.errno in {errno.ENOTCONN, errno.ECONNABORTED} else Life.SILENT
        return Life.ALIVE


class LocalDaemons:
    """Daemons started by this process."""

    def __init__(self, folders: DatasetFolders, arguments: Sequence[str]) -> None:
        """`arguments`: of `python -m fuse`, all but --mount."""
        self._folders = folders
        self._arguments = list(arguments)

    async def start(self, key: str) -> None:
        """Have the dataset's daemon and its mount. NotNow when it does not come up, or does not answer."""
        life = await self._folders.life(key)
        if life is Life.ALIVE:
            return
        if life is Life.SILENT:
            # Perhaps being replaced behind its back: killing it would turn a pause into errors.
            raise NotNow(f"the FUSE daemon at {self._folders.mount(key)} does not answer; trying again is safe")
        await self._clear(key)
        try:
            self._folders.mount(key).mkdir(parents=True, exist_ok=True, mode=0o700)
            pid = self._spawn(key)
        except OSError as error:
            raise NotNow(
                f"the FUSE daemon cannot be started in {self._folders.folder(key)}: {error.strerror}; trying again is "
                "safe"
            ) from error
        try:
            async with asyncio.timeout(START_SECONDS):
                while await self._folders.life(key) is not Life.ALIVE:
                    if not _is_running(pid):
                        raise self._failed(key, "ended before its mount was there")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            failure = self._failed(key, f"made no mount in {START_SECONDS:g} s")
            await self._clear(key)
            raise failure from None
        except NotNow:
            await self._clear(key)
            raise
        metrics.DAEMONS.labels("started").inc()
        log.info("daemon_started", key=key, pid=pid)

    def _failed(self, key: str, what: str) -> NotNow:
        # The folder, and the log in it, goes with the last use of the dataset.
        tail = self._folders.log(key).read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
        metrics.DAEMONS.labels("failed").inc()
        log.warning("daemon_failed", key=key, what=what, tail=tail)
        return NotNow(f"the FUSE daemon {what}; our log has the end of its own, trying again is safe")

    async def stop(self, key: str) -> None:
        """Unmount, end every process of that mount, remove its folder. TooSlow when one cannot be ended."""
        await self._clear(key)
        folder, mount = self._folders.folder(key), self._folders.mount(key)
        if folder.is_dir():
            # One by one: a recursive removal would reach into a mount that is still there.
            if mount.is_dir():
                mount.rmdir()
            self._folders.log(key).unlink(missing_ok=True)
            folder.rmdir()

    async def _clear(self, key: str) -> None:
        mount = self._folders.mount(key)
        self._unmount(mount)
        # Again, because one that was only just starting may have mounted meanwhile, or have started another.
        for _ in range(ROUNDS_MAX):
            pids = _find(mount)
            if not pids:
                return
            await self._end(pids)
            self._unmount(mount)
            metrics.DAEMONS.labels("ended").inc()
            log.info("daemon_ended", key=key, pids=pids)
        raise TooSlow(f"FUSE daemons of {mount} come back however often they are ended; trying again is safe")

    def _unmount(self, mount: Path) -> None:
        for _ in mounts.read_mount_table().at(str(mount)):
            root = kernel.open_root(str(mount.parent))
            try:
                kernel.detach(root, mount.name)
            finally:
                os.close(root)

    def _spawn(self, key: str) -> int:
        """Start the daemon in a session of its own. Not by fork: gRPC's threads do not survive that."""
        mount = self._folders.mount(key)
        command = [sys.executable, "-m", "fuse", *self._arguments, "--mount", str(mount)]
        output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._folders.log(key)), output, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD],
        )
        _reap_at_end(pid)
        return pid

    async def _end(self, pids: Sequence[int]) -> None:
        # The unmount alone ends a daemon that serves; the signal ends one that does not serve yet, or no more.
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            for pid in pids:
                try:
                    os.kill(pid, number)
                    os.kill(pid, signal.SIGCONT)  # a stopped process would not see it
                except ProcessLookupError:
                    continue
            if await _ended(pids, seconds):
                return
            log.warning("daemon_does_not_end", pids=list(pids), signal=number.name, waited_seconds=seconds)
        raise TooSlow(f"FUSE daemon {pids[0]} cannot be ended; trying again is safe")


def _reap_at_end(pid: int) -> None:
    """Have our child's status fetched when it ends, or it stays in the process table as a zombie."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        os.waitpid(pid, os.WNOHANG)

    loop.add_reader(descriptor, reap)


async def _ended(pids: Sequence[int], seconds: float) -> bool:
    """Wait until these processes are gone; False when they are not in time."""
    deadline = time.monotonic() + seconds
    while True:
        if not any(_is_running(pid) for pid in pids):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)


def _is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        # The name in parentheses may hold anything, the state is behind it.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in {b"Z", b"X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def _find(mount: Path) -> list[int]:
    """Return the processes of `python -m fuse… … --mount MOUNT`: the one we started, and all it started for that."""
    wanted = os.fsencode(mount)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        is_ours = any(word == b"fuse" or word.startswith(b"fuse.") for word in words)
        if is_ours and wanted in words and words[words.index(wanted) - 1] == b"--mount":
            found.append(int(entry.name))
    return found


def check_machine() -> None:
    """NotPossible when the kernel cannot do what mounts need here."""
    try:
        root = kernel.open_root("/proc")
        try:
            os.close(kernel.clone_directory(root, read_only=True))
        finally:
            os.close(root)
    except OSError as error:
        raise NotPossible(
            f"this process cannot mount ({error.strerror}); it needs Linux 5.12 or newer and CAP_SYS_ADMIN, as a "
            "privileged container has"
        ) from error
