"""Checkpoints that are found complete or not at all: in a mounted directory, or by `headrace://` URL.

Every file is written under a temporary name, made durable and renamed; the marker comes last, so a directory with
a marker is whole. This is the form TrainingJob's format `Marker` reads. With `headrace://` a file appears at once
and durable when it is closed, which is the same without the temporary name.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

MARKER = "COMPLETE"
_STEP = re.compile(r"(?<![0-9])([0-9]{1,18})$")

Content = bytes | Callable[[Any], Any]
"""A file's bytes, or what writes them into the open file: `lambda file: torch.save(state, file)`."""


class Checkpoint(NamedTuple):
    """A complete checkpoint; `path` opens with fsspec or, without `headrace://`, with `open`."""

    step: int
    path: str


def save(
    directory: str,
    step: int,
    files: Mapping[str, Content],
    *,
    marker: str | None = MARKER,
    socket: Any = None,
    tokens: Any = None,
) -> str:
    """Write `files` as the checkpoint of `step` below `directory`; return its path. Durable when it returns.

    With several ranks every rank saves its own files with `marker=None`, then, after a barrier, one of them calls
    `complete`. OSError; the checkpoint is then not complete.
    """
    fs, root = _open(directory, socket, tokens)
    path = _path(root, step)
    if marker is not None and fs.exists(f"{path}/{marker}"):
        fs.rm_file(f"{path}/{marker}")  # Of an earlier try: until we are done it is not true.
    fs.makedirs(path, exist_ok=True)
    for name, content in files.items():
        if not name or name == marker or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"file {name!r} must be a relative name other than the marker {marker!r}")
        if "/" in name:
            fs.makedirs(f"{path}/{name.rpartition('/')[0]}", exist_ok=True)
        _write(fs, f"{path}/{name}", content)
    if marker is not None:
        _write(fs, f"{path}/{marker}", b"")
    return _named(fs, path)


def complete(directory: str, step: int, *, marker: str = MARKER, socket: Any = None, tokens: Any = None) -> None:
    """Say that every rank's files of `step` are there."""
    fs, root = _open(directory, socket, tokens)
    _write(fs, f"{_path(root, step)}/{marker}", b"")


def latest(directory: str, *, marker: str = MARKER, socket: Any = None, tokens: Any = None) -> Checkpoint | None:
    """Return the complete checkpoint with the highest step; None when there is none."""
    fs, root = _open(directory, socket, tokens)
    try:
        names: list[str] = fs.ls(root, detail=False)
    except FileNotFoundError:
        return None
    steps = []
    for name in names:
        match = _STEP.search(name.rstrip("/").rpartition("/")[2])
        if match:
            steps.append((int(match[1]), name))
    for step, name in sorted(steps, reverse=True):
        if fs.exists(f"{name}/{marker}"):
            return Checkpoint(step, _named(fs, name))
    return None


def _open(directory: str, socket: Any, tokens: Any) -> Any:
    given = {"socket": socket, "tokens": tokens} if directory.startswith("headrace://") else {}
    return fsspec.core.url_to_fs(directory, **{name: value for name, value in given.items() if value is not None})


def _path(root: str, step: int) -> str:
    if step < 0:
        raise ValueError(f"step {step} must not be below 0")
    return f"{root.rstrip('/')}/step-{step:08d}"


def _named(fs: Any, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else f"{fs.protocol}://{path}"


def _write(fs: Any, path: str, content: Content) -> None:
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as file:
            _fill(file, content)
        return
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _fill(file, content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fill(file: Any, content: Content) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)
