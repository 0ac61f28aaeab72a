"""What PutFile, MakeDirectory, Remove, Rename and SetMode mean, as changes to a namespace.

Owns the rules of names; the bytes are already durable in the under store when a worker calls. Pure: looks at the
namespace through `View` and returns Changes, which the caller applies in the same transaction. Invariants: the
result is a tree; an empty Changes means that nothing has to happen and no version is made.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec.structs import replace

from metadata.core import paths
from metadata.core.datasets import Mount
from metadata.core.entries import DIRECTORY_MODE, FILE_BYTES_MAX, Changes, Entry, Kind
from metadata.errors import AlreadyExists, InvalidRequest, NotFound, Precondition

MODE_MAX = 0o7777


class View(Protocol):
    """The namespace of one dataset at one moment."""

    def entry(self, path: str) -> Entry | None:
        """The entry at `path`; never called with the root."""
        ...

    def has_children(self, path: str) -> bool:
        """Whether anything lies in the directory."""
        ...

    def below(self, path: str) -> Iterator[Entry]:
        """Every entry below the directory, sorted by (parent, name)."""
        ...


def put_file(view: View, entry: Entry) -> Changes:
    """A file's new version is durable: show it. Missing directories above it are made."""
    paths.checked("path", entry.path)
    _check_mode(entry.mode)
    if not entry.etag:
        raise InvalidRequest("etag is empty; it must be the etag the under store gave the object.")
    if not 0 <= entry.size_bytes <= FILE_BYTES_MAX:
        raise InvalidRequest(f"size_bytes is {entry.size_bytes}; a file has 0 to {FILE_BYTES_MAX}.")
    current = view.entry(entry.path)
    if current is not None and current.is_directory:
        raise Precondition(f"{entry.path!r} is a directory; a file cannot take its place.")
    if current is not None and replace(entry, version=current.version) == current:
        return Changes()
    return Changes([*_missing_directories(view, entry.path, entry.mtime_ns), entry])


def make_directory(view: View, path: str, mode: int, mtime_ns: int) -> Changes:
    """A directory was made; AlreadyExists when the name is taken."""
    paths.checked("path", path)
    _check_mode(mode)
    if view.entry(path) is not None:
        raise AlreadyExists(f"{path!r} exists already.")
    made = Entry(path, Kind.MADE, mtime_ns=mtime_ns, mode=mode or DIRECTORY_MODE)
    return Changes([*_missing_directories(view, path, mtime_ns), made])


def remove(view: View, path: str, *, directory: bool, mounts: Sequence[Mount] = ()) -> Changes:
    """A file, or an empty directory, is gone."""
    paths.checked("path", path)
    current = _existing(view, path)
    if directory and not current.is_directory:
        raise Precondition(f"{path!r} is a file, not a directory.")
    if not directory and current.is_directory:
        raise Precondition(f"{path!r} is a directory, not a file.")
    if directory:
        _refuse_mount(path, mounts, "removed")
        if view.has_children(path):
            raise Precondition(f"directory {path!r} is not empty.")
    return Changes(removals=[path])


def rename(
    view: View,
    source: str,
    target: str,
    *,
    target_etag: str,
    mtime_ns: int,
    mounts: Sequence[Mount] = (),
    source_etag: str = "",
    leaves_source: bool = False,
) -> Changes:
    """A file now has another name, over whatever file was there; or a directory, onto nothing, with all in it.
    `source_etag`: the version it has to be; "" = any. `leaves_source`: a file's object is still under its old name."""
    paths.checked("source", source)
    paths.checked("target", target)
    current = _existing(view, source)
    if source == target:
        return Changes()
    if paths.is_at_or_below(target, source):
        raise Precondition(f"{source!r} cannot be moved into itself.")
    if source_etag and current.etag != source_etag:
        raise Precondition(f"{source!r} is another version than {source_etag!r} by now.")
    taken = view.entry(target)
    if current.is_directory:
        _refuse_mount(source, mounts, "renamed")
        if taken is not None:
            raise AlreadyExists(f"{target!r} exists already; a directory is renamed onto nothing.")
        return _rename_directory(view, current, target, mtime_ns)
    if taken is not None and taken.is_directory:
        raise Precondition(f"{target!r} is a directory; a file cannot take its place.")
    moved = replace(current, path=target, etag=target_etag or current.etag)
    left = [(source, current.etag)] if leaves_source else []
    return Changes([*_missing_directories(view, target, mtime_ns), moved], [source], left)


def set_mode(view: View, path: str, mode: int) -> Changes:
    """A file or directory has other permission bits."""
    paths.checked("path", path)
    _check_mode(mode)
    if not mode:
        raise InvalidRequest("mode is 0, which stands for a mode that is not known; it must have a bit at least.")
    current = _existing(view, path)
    return Changes() if current.mode == mode else Changes([replace(current, mode=mode)])


def _rename_directory(view: View, directory: Entry, target: str, mtime_ns: int) -> Changes:
    source = directory.path
    changes = Changes(_missing_directories(view, target, mtime_ns))
    for entry in (directory, *view.below(source)):
        changes.upserts.append(replace(entry, path=target + entry.path[len(source) :]))
        changes.removals.append(entry.path)
    return changes


def _missing_directories(view: View, path: str, mtime_ns: int) -> list[Entry]:
    missing: list[Entry] = []
    for above in paths.ancestors(path):
        entry = view.entry(above)
        if entry is None:
            missing.append(Entry(above, Kind.IMPLIED, mtime_ns=mtime_ns, mode=DIRECTORY_MODE))
        elif entry.is_directory:
            break
        else:
            raise Precondition(f"{above!r} is a file; nothing can lie below it.")
    return missing[::-1]


def _existing(view: View, path: str) -> Entry:
    entry = view.entry(path)
    if entry is None:
        raise NotFound(f"there is no {path!r} in the dataset.")
    return entry


def _refuse_mount(path: str, mounts: Sequence[Mount], verb: str) -> None:
    if any(mount.path and paths.is_at_or_below(mount.path, path) for mount in mounts):
        raise Precondition(f"{path!r} holds a mount of the dataset and cannot be {verb}.")


def _check_mode(mode: int) -> None:
    if not 0 <= mode <= MODE_MAX:
        raise InvalidRequest(f"mode {mode:#o} is not permission bits; it must be 0 to {MODE_MAX:#o}.")
