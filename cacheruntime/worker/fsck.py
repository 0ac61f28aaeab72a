"""`python -m cacheruntime fsck|gc`: what a worker's tier folders hold, checked without the worker.

Owns walking the folders, the words for what is wrong, and the mending. The formats are block_map.py's and
tier_files.py's. fsck reads every resident block against its checksum and, with --repair, drops those that fail; gc
removes what no map tells of. Whoever changes anything holds the folder's lock, as a running worker does, so that a
file being filled is never taken for a leftover. Reading needs no lock: a block's bit is stored after its bytes.
"""

import argparse
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cacheruntime.core.block_map import MapError, decode
from cacheruntime.core.blocks import version_name
from cacheruntime.worker import tier_files
from cacheruntime.worker.tier_files import MAP_SUFFIX, TEMPORARY_SUFFIX, CachedFile

LINES_MAX: Final = 1000
"""Findings printed one a line; the rest is counted."""


class Problem(StrEnum):
    """What can be wrong with a name in a tier folder."""

    BAD_BLOCKS = "blocks without their checksum"
    WRONG_SIZE = "not as long as its map says"
    BAD_MAP = "its map is torn or another file's"
    NO_MAP = "no map tells of it"
    NO_DATA = "a map without its file"
    TEMPORARY = "left by an interrupted write of a map"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `blocks` only for BAD_BLOCKS."""

    path: Path
    problem: Problem
    blocks: tuple[int, ...] = ()


@dataclass(slots=True)
class Examined:
    """What a folder holds."""

    files: int = 0
    resident_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


class FolderInUse(Exception):
    """Another process works in the tier folder."""


def lock_folder(directory: Path) -> int:
    """Return a descriptor that holds the folder for this process until it is closed; FolderInUse, OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FolderInUse(f"tier folder {directory} is in use by a worker; stop it first") from None
    return descriptor


def examine(directory: Path, *, with_bytes: bool = True) -> Examined:
    """Look at every file below a tier folder; `with_bytes` reads the blocks too. Changes nothing. Blocks; OSError."""
    result = Examined()
    for folder in _folders(directory):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
        known = set(names)
        for name in names:
            path = folder / name
            if name.endswith(TEMPORARY_SUFFIX):
                result.findings.append(Finding(path, Problem.TEMPORARY))
            elif name.endswith(MAP_SUFFIX):
                if name.removesuffix(MAP_SUFFIX) not in known:
                    result.findings.append(Finding(path, Problem.NO_DATA))
            elif name + MAP_SUFFIX not in known:
                result.findings.append(Finding(path, Problem.NO_MAP))
            else:
                _examine_file(path, result, with_bytes=with_bytes)
    return result


def _folders(directory: Path) -> Iterator[Path]:
    for dataset in sorted(directory.iterdir()):
        if dataset.name != tier_files.STAGING_FOLDER and stat.S_ISDIR(dataset.lstat().st_mode):
            yield from sorted(folder for folder in dataset.iterdir() if stat.S_ISDIR(folder.lstat().st_mode))


def _examine_file(path: Path, result: Examined, *, with_bytes: bool) -> None:
    try:
        block_map = decode(tier_files.map_path(path).read_bytes())
        size_bytes = path.stat().st_size
    except MapError:
        result.findings.append(Finding(path, Problem.BAD_MAP))
        return
    except FileNotFoundError:
        return  # evicted while we looked
    if version_name(block_map.version) != path.name:
        result.findings.append(Finding(path, Problem.BAD_MAP))
        return
    if size_bytes != block_map.version.size_bytes:
        result.findings.append(Finding(path, Problem.WRONG_SIZE))
        return
    result.files += 1
    result.resident_bytes += block_map.resident_bytes
    if not with_bytes:
        return
    file = CachedFile(block_map, 0, path)
    try:
        file.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        bad = tuple(tier_files.verify(file))
    finally:
        tier_files.close_file(file)
    if bad:
        result.findings.append(Finding(path, Problem.BAD_BLOCKS, bad))


def repair(finding: Finding) -> None:
    """Drop bad blocks from the map, remove everything else. The caller holds the lock. Blocks; OSError."""
    if finding.problem is Problem.BAD_BLOCKS:
        file = CachedFile(decode(tier_files.map_path(finding.path).read_bytes()), 0, finding.path)
        file.has_map_file = True
        try:
            for index in finding.blocks:
                tier_files.drop_block(file, index)
        finally:
            tier_files.close_file(file)
        return
    finding.path.unlink(missing_ok=True)
    if finding.problem in (Problem.WRONG_SIZE, Problem.BAD_MAP):
        tier_files.map_path(finding.path).unlink(missing_ok=True)


def run_fsck(argv: Sequence[str]) -> int:
    """Check folders; 0 when all is well (or mended), 1 when something is wrong, 2 when a folder cannot be used."""
    parser = _parser("fsck", "read every cached block against its checksum")
    parser.add_argument("--repair", action="store_true", help="drop what is wrong; the worker must be stopped")
    given = parser.parse_args(argv)
    return _run(given.folder, examine, is_mending=given.repair)


def run_gc(argv: Sequence[str]) -> int:
    """Remove what no map tells of, without reading blocks; 0, or 2 when a folder cannot be used."""
    given = _parser("gc", "remove leftovers no map tells of; the worker must be stopped").parse_args(argv)
    return _run(given.folder, lambda folder: examine(folder, with_bytes=False), is_mending=True)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m cacheruntime {name}", description=description)
    parser.add_argument("folder", type=Path, nargs="+", metavar="DIR", help="a worker's tier folder")
    return parser


def _run(folders: Sequence[Path], look: Callable[[Path], Examined], *, is_mending: bool) -> int:
    found = 0
    for folder in folders:
        try:
            lock = lock_folder(folder) if is_mending else None
            try:
                found += _look(folder, look(folder), is_mending=is_mending)
            finally:
                if lock is not None:
                    os.close(lock)
        except FolderInUse as error:
            print(error)
            return 2
        except OSError as error:
            print(f"tier folder {folder} cannot be read: {error.strerror}; name a folder a --tier option names")
            return 2
    return 1 if found and not is_mending else 0


def _look(folder: Path, examined: Examined, *, is_mending: bool) -> int:
    for number, finding in enumerate(examined.findings):
        if number < LINES_MAX:
            blocks = f" (blocks {', '.join(map(str, finding.blocks))})" if finding.blocks else ""
            print(f"{finding.path}: {finding.problem}{blocks}")
        if is_mending:
            repair(finding)
    what = "mended" if is_mending else "wrong"
    print(f"{folder}: {examined.files} files, {examined.resident_bytes} bytes, {len(examined.findings)} {what}")
    return len(examined.findings)
