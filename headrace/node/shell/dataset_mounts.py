"""The node's FUSE mount, asked whether it is alive before a pod gets a part of it.

Owns the waiting and the words for what is missing. Does not mount (the FUSE client does).
A dead FUSE daemon can make a system call hang, so questions are asked in a daemon thread,
one at a time: a hung mount costs one thread and never the agent."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fuse.node.mounts import read_mount_table

CHECK_SECONDS = 5.0
POLL_SECONDS = 0.2


class DatasetMounts:
    """Directories of datasets below this node's mount."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._is_busy = False

    def path(self, namespace: str, dataset: str) -> Path:
        """Return where a dataset appears once the mount is alive."""
        return self._mount / namespace / dataset

    async def wait(self, namespace: str, dataset: str, seconds: float) -> str:
        """Return "" once the dataset's directory can be listed, else what was missing after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            problem = await self._ask(lambda: self._problem(namespace, dataset))
            if not problem or time.monotonic() >= deadline:
                return problem
            await asyncio.sleep(POLL_SECONDS)

    def _problem(self, namespace: str, dataset: str) -> str:
        if not is_fuse_mount(self._mount):
            return f"{self._mount} is not a live FUSE mount: the node's FUSE client is not running"
        path = self.path(namespace, dataset)
        try:
            with os.scandir(path) as entries:
                next(entries, None)
        except FileNotFoundError:
            return (
                f"Dataset {namespace}/{dataset} is not in the FUSE mount {self._mount}: does it exist and is it listed?"
            )
        except OSError as error:
            return f"Dataset {namespace}/{dataset} cannot be listed at {path}: {error.strerror}"
        return ""

    async def _ask(self, question: Callable[[], str]) -> str:
        silence = f"the FUSE mount {self._mount} does not answer"
        if self._is_busy:
            return silence
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._is_busy = True

        def finish(text: str) -> None:
            self._is_busy = False
            if not answer.done():
                answer.set_result(text)

        def run() -> None:
            text = question()
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, text)

        threading.Thread(target=run, daemon=True, name="dataset-mount").start()
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await asyncio.shield(answer)
        except TimeoutError:
            return silence


def is_fuse_mount(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """True when a FUSE file system is mounted exactly at `path`; never touches the mount itself."""
    wanted = os.path.abspath(path)  # noqa: PTH100  (resolve() would follow links into the mount)
    stack = read_mount_table(mountinfo).at(wanted)
    kind = stack[-1].fs_type if stack else ""
    return kind == "fuse" or kind.startswith("fuse.")
