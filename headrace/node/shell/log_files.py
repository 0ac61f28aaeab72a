"""Reading the logs the monitors write.

Owns finding a container's log, the lines to send, and following. Does not speak HTTP
(shell/logs_server.py). A log that is rotated while it is followed goes on with the new file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.node.core.log_lines import LogOptions, choose, is_wanted, parse
from headrace.node.shell.records import ContainerFolder

POLL_SECONDS = 0.2
READ_BYTES = 1 << 16


class LogNotFound(Exception):
    """There is no such log; the text says why."""


def attempt_to_read(folder: ContainerFolder, container: str, pod: str, *, previous: bool) -> int:
    """Return the number of the start whose log is meant. Raises LogNotFound in kubelet's words."""
    attempts = folder.attempts()
    if previous:
        if len(attempts) < 2:
            raise LogNotFound(f'previous terminated container "{container}" in pod "{pod}" not found')
        return attempts[-2]
    if not attempts:
        raise LogNotFound(f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating')
    return attempts[-1]


async def read(
    folder: ContainerFolder, attempt: int, options: LogOptions, *, follow: bool, is_over: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield the log's text; with `follow` until the container ended (or `is_over` says so)."""
    path = folder.file(attempt, "log")
    left = options.limit_bytes
    file = await _opened(path, follow, is_over)
    if file is None:
        return
    try:
        # A followed log ends in the middle of a line now and then: whole lines only.
        stored, rest = await asyncio.to_thread(_stored_lines, path, file)
        for line in choose(stored, options):
            data, left = _limited(line.shown(options), left)
            yield data
            if left == 0:
                return
        while follow:
            has_ended = folder.exit_record(attempt) is not None or is_over()
            chunk = file.read(READ_BYTES)
            if not chunk and _is_rotated(path, file):
                file.close()
                file = path.open("rb")
                continue
            if not chunk:
                if has_ended:
                    return
                await asyncio.sleep(POLL_SECONDS)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for raw in lines:
                if is_wanted(line := parse(raw), options):
                    data, left = _limited(line.shown(options), left)
                    yield data
                    if left == 0:
                        return
    finally:
        if not file.closed:
            file.close()


async def _opened(path: Path, follow: bool, is_over: Callable[[], bool]) -> BinaryIO | None:
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            if not follow or is_over():
                return None
        await asyncio.sleep(POLL_SECONDS)


def _stored_lines(path: Path, file: BinaryIO) -> tuple[Iterator[bytes], bytes]:
    older = path.with_name(path.name + ".1")
    data = older.read_bytes() if older.exists() else b""
    *lines, rest = (data + file.read()).split(b"\n")
    return iter(lines), rest


def _is_rotated(path: Path, file: BinaryIO) -> bool:
    try:
        return path.stat().st_ino != Path(f"/proc/self/fd/{file.fileno()}").stat().st_ino
    except FileNotFoundError:
        return False


def _limited(data: bytes, left: int | None) -> tuple[bytes, int | None]:
    if left is None:
        return data, None
    return data[:left], max(0, left - len(data))
