"""Paths inside a dataset: `/` between names, none before or after; "" is the root.

Owns their grammar. Invariant: a path that passed `checked` is safe as a file name sequence on every client.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from metadata.errors import InvalidRequest

NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux file systems
PATH_BYTES_MAX: Final = 4096  # PATH_MAX


def problem(path: str) -> str | None:
    """Say in words what is wrong with `path`, or None when it is well formed. The root is well formed."""
    if not path or is_plain(path):
        return None
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if len(encoded) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    if "\0" in path:
        return "holds a NUL character"
    for name in path.split("/"):
        if not name:
            return "has an empty name (a slash at an end, or two in a row)"
        if name in (".", ".."):
            return f"has the name {name!r}"
        if len(name) > NAME_BYTES_MAX // 4 and len(name.encode()) > NAME_BYTES_MAX:
            return f"has a name longer than {NAME_BYTES_MAX} bytes"
    return None


def is_plain(path: str) -> bool:
    """Whether a few fast looks already show that nothing is wrong; nearly all keys of a bucket are like this. The root
    is not plain."""
    return (
        0 < len(path) <= NAME_BYTES_MAX
        and path.isascii()
        and "//" not in path
        and "/." not in path
        and path[0] not in "/."
        and path[-1] != "/"
        and "\0" not in path
    )


def checked(field: str, path: str, *, may_be_root: bool = False) -> str:
    """Return `path` as it is, or raise InvalidRequest naming `field`."""
    if trouble := problem(path):
        raise InvalidRequest(f"{field} {path[:200]!r} {trouble}; write names with single slashes between them.")
    if not path and not may_be_root:
        raise InvalidRequest(f"{field} is empty; the root itself cannot be meant here.")
    return path


def split(path: str) -> tuple[str, str]:
    """Return (parent, name) of a path that is not the root."""
    parent, _, name = path.rpartition("/")
    return parent, name


def join(parent: str, name: str) -> str:
    """Return the path of `name` in `parent`; either may be empty."""
    return f"{parent}/{name}" if parent and name else parent or name


def ancestors(path: str) -> Iterator[str]:
    """Yield the directories above `path`, nearest first, without the root."""
    while path := path.rpartition("/")[0]:
        yield path


def is_at_or_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or inside it."""
    return not top or path == top or path.startswith(f"{top}/")


def without_nested(paths: Iterable[str]) -> list[str]:
    """Drop doubles and paths that lie below another one, so that nothing is counted twice; sorted."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/") if path else []):
        if not kept or not is_at_or_below(path, kept[-1]):
            kept.append(path)
    return kept
